"""Options of a compile that encoder-decoders do not have, and settings of a checkpoint that they have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tt_edge import strict_json
from tt_edge.compile.checkpoint.load_quantized import quantized_layers
from tt_edge.compile.seq2seq.image_text import text_model
from tt_edge.config import Backend, CompileConfig
from tt_edge.errors import BundleError, InvalidInputError, UnsupportedModelError
from tt_edge.runtime.seq2seq.prompt import DecoderStart

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_options(model: PreTrainedModel, config: CompileConfig) -> None:
    """Raise ``UnsupportedModelError`` for options of ``config`` that an encoder-decoder cannot be compiled with."""
    name = type(model).__name__
    if config.attention.backend is Backend.PLUGIN:
        raise UnsupportedModelError(
            f"{name} is an encoder-decoder, and AttentionPlugin has no attention to a source; compile with --backend native or sdpa"
        )
    if quantized_layers(model):
        raise UnsupportedModelError(
            f"{name} is an encoder-decoder, and those are not read from quantized checkpoints; give one in full precision, and "
            "--quant"
        )
    recipe = config.quantization.recipe
    if recipe is None:
        return
    if recipe.vision is not None:
        raise UnsupportedModelError(
            f"{name} is an encoder-decoder, of which --quant quantizes both halves; omit --quant-vision"
        )
    if any(type(module).__name__.endswith("SparseMLP") for module in model.modules()):
        raise UnsupportedModelError(
            f"{name} is a mixture of experts, and calibration does not reach all of them; omit --quant"
        )


def check_start(model: PreTrainedModel, settings: bytes, source: str) -> None:
    """Raise ``InvalidInputError``, naming the checkpoint's ``source``, for malformed ``settings`` of what answers begin with (the
    content of ``generation_config.json``), and for token ids among them that the model does not have."""
    try:
        start = DecoderStart.from_settings(strict_json.loads(settings))
    except BundleError as error:
        what = str(error).partition(";")[0]
        raise InvalidInputError(f"checkpoint {source}: {what}; correct it, or download the checkpoint again") from error
    head = text_model(model).get_output_embeddings()
    vocabulary = None if head is None else int(head.weight.shape[0])
    ids = {
        "decoder_start_token_id": [start.first],
        "lang_to_id": start.languages.values(),
        "task_to_id": start.tasks.values(),
        "no_timestamps_token_id": [start.no_timestamps or 0],
        "prev_sot_token_id": [start.previous or 0],
        "forced_decoder_ids": start.forced,
    }
    for name, tokens in ids.items():
        if vocabulary is not None and (wrong := max(tokens, default=0)) >= vocabulary:
            raise InvalidInputError(
                f"checkpoint {source}: generation_config.json has the token {wrong} in {name}, and the model has {vocabulary}; "
                "correct it, or download the checkpoint again"
            )
