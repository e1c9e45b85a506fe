"""Does the compiled model still compute what Hugging Face computes?

The captured network is run by the reference session, on any machine, and compared with the checkpoint's own PyTorch
module: the logits of a ragged prefill and of every decode step, and the greedy tokens of ``generate()``.

Tolerances, and why. In fp32 both sides round at 2^-24 per step; observed relative errors are about 1e-6, and 1e-4 is
allowed. Greedy tokens must be equal. In half precision PyTorch itself has a rounding error, so the tolerance is measured:
the same weights run in fp32 are the ground truth, and the compiled model's error may be twice PyTorch's own error (two
independent errors of equal size differ by about 1.4 times that size). Greedy tokens may then differ only at a tie: where
PyTorch's own margin between the two tokens is within the error of the logits.

For a vision-language model the tower's features are compared in the same way, prompts contain images, and the
preprocessing is compared with the checkpoint's own processor.
"""

from tt_edge.compile.parity.bundle import verify_bundle
from tt_edge.compile.parity.golden import GoldenMaker, golden_bytes
from tt_edge.compile.parity.layers import compare_layers_with
from tt_edge.compile.parity.logits import PyTorchReference, check_parity
from tt_edge.compile.parity.report import ParityReport, RowParity

__all__ = [
    "GoldenMaker",
    "ParityReport",
    "PyTorchReference",
    "RowParity",
    "check_parity",
    "compare_layers_with",
    "golden_bytes",
    "verify_bundle",
]
