"""tt-edge: Hugging Face LLMs on NVIDIA edge devices, through Torch-TensorRT, without PyTorch on the target.

Importing this package imports neither torch nor TensorRT. The sub-packages split along that line:
``tt_edge.compile``, ``tt_edge.lowering`` and ``tt_edge.plugins`` are the host side and need torch;
``tt_edge.network``, ``tt_edge.bundle`` and ``tt_edge.runtime`` are the target side and never import it.
"""

__version__ = "0.1.0"
