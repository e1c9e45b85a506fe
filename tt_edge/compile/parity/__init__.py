"""Does the compiled model still compute what Hugging Face computes?

The captured network is run by the reference session, on any machine, and compared with the checkpoint's own PyTorch
module: the logits of a ragged prefill and of every decode step, and the greedy tokens of ``generate()``.

Tolerances, and why. In fp32 both sides round at 2^-24 a step; relative errors of some 1e-6 are seen, and 1e-4 is allowed.
Greedy tokens must be equal. In half precision PyTorch itself is only near the truth, so the yardstick is measured, not
guessed: the same weights run in fp32 are the truth, PyTorch's own error against it is the unit, and the compiled model may
err by twice that (two independent roundings of one size differ by about 1.4 of it). Greedy tokens may then differ only
where PyTorch's own margin between the two is within the logits' error, which is a tie.

Of a vision-language model the tower's features are compared in the same way, prompts have pictures in them, and the
preprocessing is held against the checkpoint's own processor.
"""

from tt_edge.compile.parity.bundle import verify_bundle
from tt_edge.compile.parity.golden import GoldenMaker, golden_bytes
from tt_edge.compile.parity.layers import compare_layers_with
from tt_edge.compile.parity.logits import check_parity
from tt_edge.compile.parity.report import ParityReport, RowParity

__all__ = [
    "GoldenMaker",
    "ParityReport",
    "RowParity",
    "check_parity",
    "compare_layers_with",
    "golden_bytes",
    "verify_bundle",
]
