"""Compile a Hugging Face checkpoint to a bundle: a folder with the TensorRT network, its weights, the tokenizer, and
engines for the GPUs that --engine names. No GPU is needed to build engines for named compute capabilities."""

from __future__ import annotations

import argparse
from typing import Any

from tt_edge.cli.options import add_cache_dir, add_quantization


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options; their defaults are those of ``CompileConfig``."""
    parser.add_argument("source", metavar="CHECKPOINT", help="a checkpoint folder, or a hub id such as Qwen/Qwen3-0.6B")
    parser.add_argument("-o", "--output", required=True, metavar="OUT.ttedge", help="the bundle to write")
    parser.add_argument(
        "--backend",
        default="native",
        help="native (the default): TensorRT's rotary, KV cache and attention layers; sdpa: only the attention layer, TensorRT 10; "
        "plugin: NVIDIA Edge-LLM's AttentionPlugin, fp16, or tt-edge's own, fp16 and bf16",
    )
    parser.add_argument(
        "--cache",
        help="KV cache of the sdpa backend: none (its default), static_v1 or static_v2; see docs/explanation/backends.md",
    )
    parser.add_argument(
        "--plugin-contract",
        metavar="VERSION",
        help="library of the plugin backend: tt-edge, its own (the default if every --target has TensorRT 10); or NVIDIA's "
        "AttentionPlugin, 0.4, 0.9.1, 0.10 or 0.11 (the default otherwise); see tt-edge plugin check",
    )
    parser.add_argument(
        "--plugin-path", metavar="LIB", help="the plugin library, to build engines with standard TensorRT"
    )
    parser.add_argument(
        "--layout",
        default="tt-edge",
        help="tt-edge (the default), or edge-llm: inputs, outputs and files of NVIDIA Edge-LLM's C++ runtime, with "
        "--backend plugin",
    )
    parser.add_argument("--precision", default="fp16", help="fp16 (the default), bf16 or fp32")
    parser.add_argument("--max-batch", type=int, default=1, metavar="N", help="sequences at once (default 1)")
    parser.add_argument(
        "--max-input-len", type=int, metavar="N", help="prompt tokens per sequence in one call (default 1024, or less)"
    )
    parser.add_argument(
        "--max-seq-len",
        type=int,
        metavar="N",
        help="tokens per sequence in total: the KV cache capacity (default 2048, or the model's)",
    )
    parser.add_argument(
        "--max-source-len",
        type=int,
        metavar="N",
        help="of an encoder-decoder: maximum tokens of a text, or places of speech of any length (default 1024, or the model's)",
    )
    parser.add_argument(
        "--min-image-tokens",
        type=int,
        metavar="N",
        help="minimum image tokens in one call of a vision tower (default 4)",
    )
    parser.add_argument(
        "--max-image-tokens",
        type=int,
        metavar="N",
        help="maximum image tokens of a prompt, and of one tower call (default 1024, or what an image of many tiles has)",
    )
    parser.add_argument(
        "--keep-image-tokens",
        type=float,
        metavar="F",
        help="give the language part only this part of each image's tokens, those that differ most from their mean: a fraction up "
        "to 1 (the default), or a number of each frame's or tile's",
    )
    parser.add_argument(
        "--vision-attention",
        default="native",
        help="attention in a vision tower: native (the default), TensorRT's attention layer; or plugin, NVIDIA Edge-LLM's "
        "ViTAttentionPlugin, fp16",
    )
    parser.add_argument(
        "--logits",
        default="last",
        metavar="WHICH",
        help="last (the default): of the last token; all: of every token, as --full-logits; top-k=K: of the last token, and the K "
        "likeliest tokens selected in the network, so that a step copies K numbers and not the whole vocabulary's",
    )
    parser.add_argument(
        "--full-logits", action="store_true", help="output the logits of every token, not only of the last"
    )
    parser.add_argument(
        "--single-profile",
        action="store_true",
        help="one optimization profile for prefill and decode: engines build in about half the time",
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="PLATFORM",
        help="a platform that must be able to build the bundle, such as jetpack-7.2, jetpack-7.2+tensorrt-11.4 or "
        "tensorrt-10.13+sm87; may be repeated; see docs/reference/platforms.md",
    )
    parser.add_argument(
        "--engine",
        default="none",
        metavar="TARGETS",
        help="GPUs to build for: sm89,sm120 (ahead of time), local, or none (the default; build on the target)",
    )
    add_quantization(parser)
    parser.add_argument(
        "--dump-graphs",
        metavar="DIR",
        help="write the graph of each part, before and after every lowering pass that changed it, to this empty folder",
    )
    add_cache_dir(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _logits(text: str) -> dict[str, Any]:
    """The settings that ``--logits`` stands for."""
    from tt_edge.errors import InvalidInputError

    named: dict[str, dict[str, Any]] = {"last": {}, "all": {"full_logits": True}}
    name, _, count = text.partition("=")
    if text not in named and (name != "top-k" or not count.isascii() or not count.isdecimal()):
        raise InvalidInputError(f"--logits {text!r} is none of last, all and top-k=K; give e.g. --logits top-k=64")
    return named[text] if text in named else {"top_logits": int(count)}


def run(args: argparse.Namespace) -> int:
    """Compile; prints a report."""
    from pathlib import Path

    from tt_edge.bundle.engine_cache import EngineCache
    from tt_edge.config import CompileConfig, EngineTarget, Limits
    from tt_edge.config.quantization import QuantConfig

    settings = {
        "backend": args.backend,
        "cache": args.cache,
        "plugin_contract": args.plugin_contract,
        "layout": args.layout,
        "precision": args.precision,
        "max_batch": args.max_batch,
        "full_logits": args.full_logits,
        **_logits(args.logits),
        "single_profile": args.single_profile,
        "max_seq_len": args.max_seq_len,
        "max_input_len": args.max_input_len,
        "quant": QuantConfig.parse(args.quant, args.quant_layers, args.quant_group_size, args.quant_vision),
        "kv_cache": args.kv_cache,
        "int4_gemm": args.int4_gemm,
        "max_source_len": args.max_source_len,
        "min_image_tokens": args.min_image_tokens,
        "max_image_tokens": args.max_image_tokens,
        "keep_image_tokens": args.keep_image_tokens,
        "vision_attention": args.vision_attention,
        "platforms": args.target,
    }
    target, cache = EngineTarget.parse(args.engine, args.target), EngineCache.of(args.cache_dir)
    if args.max_seq_len is not None and args.max_input_len is None:
        settings["max_input_len"] = min(Limits.max_input_len, args.max_seq_len)
    config = CompileConfig.of(**{key: value for key, value in settings.items() if value is not None})

    from tt_edge.compile.pipeline import compile_checkpoint

    calibration = None
    if config.quantization.recipe is not None:
        from tt_edge.compile.quantize.data import CalibrationData

        calibration = CalibrationData(
            source=None if args.calib_data is None else Path(args.calib_data),
            samples=args.calib_samples,
            max_length=args.calib_length,
            device=args.calib_device,
            cache=None if args.calib_cache is None else Path(args.calib_cache),
        )
    report = compile_checkpoint(
        args.source,
        Path(args.output),
        config,
        target,
        fit_length=args.max_seq_len is None,
        overwrite=args.overwrite,
        progress=not args.json,
        plugin_path=args.plugin_path,
        dump_graphs=None if args.dump_graphs is None else Path(args.dump_graphs),
        calibration=calibration,
        engine_cache=cache,
    )
    if args.json:
        import json

        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(report.render())
    return 0
