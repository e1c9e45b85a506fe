"""Running a bundle: sessions, generation, tokenizer and chat template. Torch-free.

Importing this loads neither TensorRT, CUDA, ``tokenizers`` nor Jinja; each is loaded by the first thing that needs it.
"""

from tt_edge.runtime.choose import Runtime, open_session
from tt_edge.runtime.generation import Generation, generate
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.request import FinishReason, Timing
from tt_edge.runtime.session import Session
from tt_edge.runtime.text import Completion
from tt_edge.runtime.tokenizer import BundleTokenizer

__all__ = [
    "LLM",
    "BundleTokenizer",
    "Completion",
    "FinishReason",
    "Generation",
    "Runtime",
    "Session",
    "Timing",
    "generate",
    "open_session",
]
