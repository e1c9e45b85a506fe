"""Running a bundle: sessions, generation, tokenizer and chat template. Torch-free.

Importing this loads neither TensorRT, CUDA, ``tokenizers`` nor Jinja; each is loaded by the first thing that needs it.
"""

from tt_edge.runtime.choose import Runtime, open_session
from tt_edge.runtime.generation import Generation, Timing, generate
from tt_edge.runtime.llm import LLM, Completion
from tt_edge.runtime.session import Session
from tt_edge.runtime.tokenizer import BundleTokenizer

__all__ = [
    "LLM",
    "BundleTokenizer",
    "Completion",
    "Generation",
    "Runtime",
    "Session",
    "Timing",
    "generate",
    "open_session",
]
