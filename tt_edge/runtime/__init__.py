"""Running a bundle: sessions, generation, tokenizer and chat template. Torch-free.

Importing this loads neither TensorRT, CUDA, ``tokenizers`` nor Jinja; each is loaded by the first thing that needs it.
"""

from tt_edge.runtime.engine.choose import Runtime, open_part
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.scheduling.generation import GeneratedTokens, generate
from tt_edge.runtime.scheduling.request import FinishReason, Timing
from tt_edge.runtime.text.completion import Completion
from tt_edge.runtime.text.tokenizer import BundleTokenizer

__all__ = [
    "LLM",
    "BundleTokenizer",
    "Completion",
    "FinishReason",
    "GeneratedTokens",
    "Runtime",
    "Session",
    "Timing",
    "generate",
    "open_part",
]
