"""Vision-language models of transformers, made tiny: what ``coverage.py --kind vlm`` counts.

Candidates are the classes that transformers maps for images and text to text, but for encoder-decoders (``--kind seq2seq``).
Families that the tests have a tiny checkpoint of are compiled and compared with ``generate()`` on images, with the checkpoint's own
processor. The others are made tiny from their default configuration; they must be refused by the feature's name.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.coverage import Outcome, one_line

_NEW_TOKENS = 6
#: Sizes by the names that configurations have for them, of the language part and of the tower.
_TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "vocab_size": 320, "max_position_embeddings": 512,
}  # fmt: skip
_TOWER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "head_dim": 16, "image_size": 28, "patch_size": 7, "depth": 2, "embed_dim": 32, "num_heads": 2, "out_hidden_size": 64,
}  # fmt: skip


def candidates() -> dict[str, str]:
    """Class names by model type."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    found = {
        name: class_name
        for name, class_name in dict(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES).items()
        if name in CONFIG_MAPPING and name != "vision-encoder-decoder"
    }
    del found["shieldgemma2"]  # Gemma 3 by another name
    return found


def attempt(name: str) -> Outcome:
    """Compile the model, and compare its greedy tokens with those of ``generate()``."""
    import torch

    from tests.vlm_checkpoints import FOUND_TOKENS, TOKENS
    from tt_edge.compile.vision.families import family_of
    from tt_edge.errors import TTEdgeError

    torch.set_num_threads(1)
    try:
        if name in TOKENS or name in FOUND_TOKENS:
            return _compared(name)
        model = _tiny(name)
        if model.config.is_encoder_decoder:
            return Outcome("not made", "an encoder-decoder: --kind seq2seq")
    except Exception as error:
        return Outcome("not made", one_line(error))
    try:
        is_seen = family_of(model) is not None
    except TTEdgeError as error:
        return Outcome("refused", one_line(error))
    if not is_seen:
        return Outcome("not made", "no vision_config: it is taken for a language model, which takes no images")
    return Outcome(
        "failed", "its parts are found, and there is no tiny checkpoint; add one to tests/vlm_checkpoints.py"
    )


def _compared(name: str) -> Outcome:
    from PIL import Image

    from tests.runtime.multimodal.images.sample_images import photo
    from tests.vlm_checkpoints import PLACEHOLDERS, write_checkpoint
    from tt_edge.compile.parity.pytorch_vlm import PyTorchVLM
    from tt_edge.compile.pipeline import compile_checkpoint
    from tt_edge.config import CompileConfig, EngineTarget, Precision
    from tt_edge.generation_config import GenerationConfig
    from tt_edge.runtime import LLM

    config = CompileConfig.of(precision="fp32", max_batch=2, max_input_len=96, max_seq_len=160, max_image_tokens=64)
    greedy = GenerationConfig(max_new_tokens=_NEW_TOKENS, ignore_eos=True)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, bundle = Path(scratch) / "checkpoint", Path(scratch) / "out.ttedge"
        write_checkpoint(name, checkpoint)
        compile_checkpoint(str(checkpoint), bundle, config, EngineTarget())
        theirs = PyTorchVLM(checkpoint, Precision.FP32)
        with LLM.load(bundle, "reference") as llm:
            for number, size in enumerate([(60, 80), (57, 33), (41, 41)]):
                images = [Image.fromarray(photo(*size, number))]
                prompt = f"{PLACEHOLDERS.get(name, '')}What is this?"
                [ours] = llm.generate([prompt], greedy, images=[images])
                inputs = theirs.inputs(llm, prompt, images)
                if list(ours.input_ids) != inputs["input_ids"][0].tolist():
                    return Outcome("wrong", f"other prompt tokens for an image of {size}")
                if list(ours.new_token_ids) != theirs.continue_greedily(inputs, _NEW_TOKENS, eos_token_id=None):
                    return Outcome("wrong", f"other tokens for an image of {size}")
    return Outcome("works")


def _tiny(name: str) -> Any:
    """The model with random weights of no memory: what refuses it looks only at its structure."""
    import torch
    import transformers

    model_class = getattr(transformers, candidates()[name])
    config = model_class.config_class()
    _shrink(config, _TEXT)
    with torch.device("meta"):
        return model_class._from_config(config)


def _shrink(config: Any, sizes: dict[str, int]) -> None:
    from transformers import PreTrainedConfig

    for key, value in sizes.items():
        if type(getattr(config, key, None)) is int:
            setattr(config, key, value)
    kinds = getattr(config, "layer_types", None)
    if isinstance(kinds, list) and kinds:
        config.layer_types = [kinds[0], kinds[-1]]
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and "mrope_section" in rope:
        rope["mrope_section"] = [2, 3, 3]
    for key, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _shrink(value, _TOWER if "vis" in key else _TEXT)
