"""Encoder-decoders of transformers, made tiny: what ``coverage.py --kind seq2seq`` counts.

Candidates are the classes that transformers maps for sequences to sequences, speech to sequences, and images to text, if their
configuration is of an encoder-decoder.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from functools import cache
from typing import Any

from benchmarks.coverage import Outcome, one_line

_VOCABULARY, _TOKENS, _MAX_SEQ_LEN = 99, 12, 24
#: Places of a source, and height and width of the image before a text.
_PLACES, _IMAGE = 32, (32, 32)

#: Sizes by the names that configurations have for them. Whatever a configuration does not have is not set.
_SMALL: dict[str, Any] = {
    "vocab_size": _VOCABULARY, "d_model": 32, "hidden_size": 32, "d_kv": 8, "d_ff": 64, "head_dim": 8, "intermediate_size": 64,
    "num_layers": 2, "num_decoder_layers": 2, "num_hidden_layers": 2, "encoder_layers": 2, "decoder_layers": 2, "num_heads": 4,
    "num_attention_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_key_value_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "ffn_dim": 64, "max_position_embeddings": 96, "num_mel_bins": 16,
    "encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 4,
    "decoder_num_attention_heads": 4, "encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4,
    "num_encoder_layers": 2, "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4,
    "max_source_positions": 50, "max_target_positions": 96, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20, "num_experts": 2, "initializer_factor": 2.0, "init_std": 0.3, "initializer_range": 0.3,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "dropout_rate": 0.0,
    "suppress_tokens": None, "begin_suppress_tokens": None, "sliding_window": 16, "cross_attention_hidden_size": None,
    "src_vocab_size": _VOCABULARY, "tgt_vocab_size": _VOCABULARY, "image_size": 32, "patch_size": 8, "hidden_dim": 32,
    "conv_channels": 16, "input_channels": 1, "speech_encoder_layers": 2, "speech_encoder_attention_heads": 4,
    "speech_encoder_intermediate_size": 64, "num_codevector_groups": 2, "attention_window": 8, "attention_dropout": 0.0,
    "decoder_hidden_size": 32,
}  # fmt: skip

#: What single model types need beside these sizes.
_MORE: dict[str, dict[str, Any]] = {
    "fsmt": {"langs": ["en", "de"]},
    "prophetnet": {
        "pad_token_id": 0,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "num_encoder_attention_heads": 4,
        "num_decoder_attention_heads": 4,
        "ngram": 2,
    },
    "florence_vision": {
        "depths": [1, 1],
        "embed_dim": [8, 16],
        "num_heads": [2, 2],
        "num_groups": [2, 2],
        "patch_size": [7, 3],
        "patch_stride": [4, 2],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "window_size": 4,
        "projection_dim": 32,
    },
    "florence2": {"image_token_id": _VOCABULARY - 1},
    "t5gemma2_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "t5gemma2_decoder": {"layer_types": ["sliding_attention", "full_attention"]},
    "nllb-moe": {"encoder_sparse_step": 2, "decoder_sparse_step": 2},
    "switch_transformers": {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    "moonshine_streaming": {"num_key_value_heads": 4},
    "moonshine": {"pad_head_dim_to_multiple_of": None},
    "speecht5": {"conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_feat_extract_layers": 2},
    "t5": {"pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 1},
    "dia_decoder": {
        "cross_hidden_size": 32,
        "cross_num_attention_heads": 4,
        "cross_head_dim": 8,
        "cross_num_key_value_heads": 4,
        "num_channels": 3,
    },
    "dia": {"delay_pattern": [0, 1, 2]},
    "udop": {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
    "blip_text_model": {"encoder_hidden_size": 32, "bos_token_id": 2, "sep_token_id": None},
}


@cache
def candidates() -> dict[str, str]:
    """Class names by model type."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto as auto

    found: dict[str, str] = {}
    for mapping in (
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
        auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    ):
        for name, class_name in dict(mapping).items():
            if name not in CONFIG_MAPPING or found.get(name) == class_name:
                continue
            if name in _ENCODER_DECODERS or getattr(_default(CONFIG_MAPPING[name]), "is_encoder_decoder", False):
                found[name if name not in found else f"{name}:{class_name}"] = class_name
    return found


def attempt(name: str) -> Outcome:
    """Make the model tiny, compile it, and compare its greedy tokens with those of ``generate()``."""
    import torch

    from tt_edge.compile.seq2seq.captioner import as_encoder_decoder
    from tt_edge.errors import TTEdgeError

    torch.set_num_threads(1)
    try:
        whole = _tiny(name)
        model = as_encoder_decoder(whole)
        sources = _sources(model)
        wanted = [_generated(whole, source) for source in sources]
    except Exception as error:
        return Outcome("not made", one_line(error))
    try:
        got = _answered(model, sources, [tokens[0] for tokens in wanted])
    except TTEdgeError as error:
        return Outcome("refused", one_line(error))
    except Exception as error:
        return Outcome("failed", one_line(error))
    for ours, theirs in zip(got, wanted, strict=True):
        if ours != theirs[1:]:
            return Outcome("wrong", f"{ours} for {theirs[1:]}")
    return Outcome("works")


def _default(config_class: Any) -> Any:
    try:
        return config_class()
    except Exception:  # one that needs parts
        return None


def _shrunk(config_class: Any, **more: Any) -> Any:
    """A configuration with every size that it has made small, and those of its parts."""
    default = config_class()
    fixed = ("num_hidden_layers",) if config_class.model_type == "prophetnet" else ()
    settings = {
        name: value
        for name, value in _SMALL.items()
        if not isinstance(getattr(default, name, ()), list | tuple | dict) and name not in fixed
    }
    settings |= _MORE.get(config_class.model_type, {})
    for name, part in getattr(config_class, "sub_configs", {}).items():
        if getattr(default, name, None) is not None:
            settings[name] = _shrunk(type(getattr(default, name)) if part.__name__ == "AutoConfig" else part).to_dict()
    return config_class(**settings | more)


def _encoder_decoder(name: str) -> Any:
    """A configuration of one of the classes that join any encoder to any decoder."""
    import transformers

    if name == "encoder-decoder":
        encoder = _shrunk(transformers.BertConfig)
        decoder = _shrunk(transformers.BertConfig, is_decoder=True, add_cross_attention=True)
        config_class: Any = transformers.EncoderDecoderConfig
    elif name == "speech-encoder-decoder":
        encoder = _shrunk(
            transformers.Wav2Vec2Config, conv_dim=[16, 16], conv_stride=[5, 2], conv_kernel=[10, 3],
            num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        )  # fmt: skip
        decoder, config_class = _shrunk(transformers.BartConfig), transformers.SpeechEncoderDecoderConfig
    else:
        encoder, decoder = (
            _shrunk(transformers.ViTConfig),
            _shrunk(transformers.TrOCRConfig, cross_attention_hidden_size=32),
        )
        config_class = transformers.VisionEncoderDecoderConfig
    config = config_class.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 2
    return config


_COMPOSED = ("encoder-decoder", "speech-encoder-decoder", "vision-encoder-decoder")
#: Those whose class's configuration does not say it.
_ENCODER_DECODERS = (*_COMPOSED, "blip")


def _tiny(name: str) -> Any:
    import torch
    import transformers
    from transformers import CONFIG_MAPPING

    kind, _, _ = name.partition(":")
    config = _encoder_decoder(kind) if kind in _COMPOSED else _shrunk(CONFIG_MAPPING[kind])
    torch.manual_seed(0)
    model = getattr(transformers, candidates()[name])(config).eval()
    settings = model.generation_config
    for setting in ("forced_eos_token_id", "forced_bos_token_id", "eos_token_id"):
        setattr(settings, setting, None)
    if settings.decoder_start_token_id is None:
        settings.decoder_start_token_id = getattr(config, "decoder_start_token_id", None) or 2
    settings._from_model_config = False
    return model


def _sources(model: Any) -> list[dict[str, Any]]:
    """Two sources by transformers' names of the encoder's inputs, of unequal lengths where they are texts or speech of any length.

    Before a text comes an image where the model has one there.
    """
    import numpy as np

    from tt_edge.compile.seq2seq.image_text import SourceImage
    from tt_edge.compile.seq2seq.model import main_input

    name, image = main_input(model), SourceImage.of(model, _IMAGE)
    if image is None:
        return [{name: source} for source in _contents(model)]
    placeholders, generator = np.full(image.tokens, model.config.image_token_id), np.random.default_rng(4)
    return [
        {
            name: np.concatenate([placeholders, generator.integers(3, _VOCABULARY - 1, length)]),
            "pixel_values": generator.standard_normal(image.size).astype(np.float32),
        }
        for length in (9, 5)
    ]


def _contents(model: Any) -> list[Any]:
    """What the encoder's main input takes, twice."""
    import numpy as np

    from tt_edge.compile.seq2seq.model import main_input

    generator, name = np.random.default_rng(3), main_input(model)
    if name == "input_ids":
        return [generator.integers(3, _VOCABULARY, length) for length in (20, 7)]
    config = model.get_encoder().config
    if name == "input_features":
        mels = getattr(config, "num_mel_bins", None) or getattr(config, "feature_projection_input_dim", 80)
        size = (mels, 100) if model.config.model_type == "whisper" else (90, mels)
    elif name == "pixel_values":
        size = (3, config.image_size, config.image_size)
    elif name == "flattened_patches":
        size = (16, 2 + 3 * getattr(config, "patch_size", 16) ** 2)
    else:
        size = (4000 if model.config.model_type.startswith("moonshine") else 240,)
    fixed = name == "pixel_values" or model.config.model_type == "whisper"
    lengths = (size[0], size[0] if fixed else size[0] * 3 // 5)
    sources = [generator.standard_normal((length, *size[1:])).astype(np.float32) for length in lengths]
    for source in sources if name == "flattened_patches" else ():
        source[:, :2] = np.indices((4, 4)).reshape(2, -1).T[: len(source)]  # each patch begins with its row and column
    return sources


def _generated(model: Any, source: dict[str, Any]) -> list[int]:
    """The answer's first token and ``_TOKENS`` more, by transformers: BLIP's own ``generate()`` for BLIP."""
    import torch
    from transformers import BlipForConditionalGeneration, GenerationMixin

    given = {name: torch.from_numpy(array)[None] for name, array in source.items()}
    if "input_ids" in given:
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        if "bbox" in inspect.signature(model.get_encoder().forward).parameters:  # where each token stands on a page
            given["bbox"] = torch.rand(1, given["input_ids"].shape[1], 4)
    own = isinstance(model, BlipForConditionalGeneration)
    out = (type(model) if own else GenerationMixin).generate(
        model, **given, do_sample=False, num_beams=1, max_new_tokens=_TOKENS, no_repeat_ngram_size=2
    )
    tokens: list[int] = out[0].tolist()
    if len(tokens) != _TOKENS + 1 or len(set(tokens)) < 4:
        raise ValueError(f"generate() gives {tokens}")
    return tokens


def _answered(model: Any, sources: list[Any], starts: list[int]) -> list[list[int]]:
    """New tokens of each source in one batch, by evaluating both networks."""
    from tt_edge.compile.files import HostFiles
    from tt_edge.compile.part_sets import part_set_of
    from tt_edge.compile.seq2seq.model import main_input
    from tt_edge.config import CompileConfig
    from tt_edge.generation_config import GenerationConfig
    from tt_edge.runtime.engine.feed_forward import ReferenceFeedForward
    from tt_edge.runtime.engine.reference_session import ReferenceSession
    from tt_edge.runtime.scheduling.generation import generate
    from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
    from tt_edge.runtime.seq2seq.prompt import DecoderStart

    parts = part_set_of(model)
    config = CompileConfig.of(precision="fp32", max_batch=2, max_seq_len=_MAX_SEQ_LEN, max_input_len=_MAX_SEQ_LEN)
    if main_input(model) in ("input_ids", "input_features", "input_values") and model.config.model_type != "whisper":
        config = config.with_limits(replace(config.limits, max_source_len=_PLACES))
    files = HostFiles()
    if len(sources[0]) > 1:  # an image before a text
        files["preprocessor_config.json"] = json.dumps({"size": {"height": _IMAGE[0], "width": _IMAGE[1]}}).encode()
    config = parts.resolve(config, "tiny", files, fit=False)
    encoder, decoder = (compiler.compile() for compiler in parts.compilers(config, "tiny", ()))
    pipeline = SourcePipeline(ReferenceFeedForward(encoder.network, encoder.contract), DecoderStart(starts[0]))
    found = generate(
        ReferenceSession(decoder.network, decoder.contract),
        [[start] for start in starts],
        GenerationConfig(max_new_tokens=_TOKENS, no_repeat_ngram_size=2),
        sources=[_encoded(pipeline, source) for source in sources],
    )
    return [each.new_token_ids for each in found]


def _encoded(pipeline: Any, source: dict[str, Any]) -> Any:
    if len(source) == 1:
        return pipeline.source(*source.values())
    return pipeline.image_text(source["pixel_values"], source["input_ids"][pipeline.image_places :].tolist())
