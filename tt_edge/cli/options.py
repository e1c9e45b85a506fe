"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_SAMPLING = {
    "temperature": (float, "T", "0: always the likeliest token; higher: more varied"),
    "top_k": (int, "K", "draw from the K likeliest tokens"),
    "top_p": (float, "P", "draw from the likeliest tokens that add up to P"),
    "min_p": (float, "P", "draw from tokens at least P times as likely as the likeliest"),
    "repetition_penalty": (float, "X", "above 1: make tokens of prompt and answer less likely"),
    "presence_penalty": (float, "X", "subtract X from the logit of each token that the answer has"),
    "frequency_penalty": (float, "X", "subtract X from it for each time that the answer has the token"),
    "num_beams": (int, "N", "beam search of width N, up to 8, which samples nothing; needs as many batch slots"),
    "length_penalty": (float, "X", "of beam search: above 0, favour longer answers"),
    "seed": (int, "N", "draw the same tokens every time from the same logits"),
}


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How to choose tokens."""
    group = parser.add_argument_group(
        "choosing tokens",
        "Options that you omit have the values that the checkpoint recommends. Without a recommendation, decoding is greedy. "
        "--temperature 0 is always greedy.",
    )
    for name, (kind, metavar, text) in _SAMPLING.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text)


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """What was given, as fields of ``GenerationConfig``."""
    given = {name: getattr(args, name) for name in _SAMPLING}
    return {name: value for name, value in given.items() if value is not None}


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """What runs the bundle."""
    parser.add_argument("--runtime", default="auto", help="auto (the default), tensorrt or reference")
    parser.add_argument(
        "--device",
        default="cpu",
        help="of --runtime reference: cpu (the default), or cuda, where CuPy (tt-edge[cupy]) and an NVIDIA GPU are",
    )


def runtime_of(args: argparse.Namespace) -> str:
    """The name of the runtime that was asked for. Raises ``InvalidInputError`` for a device that does not go with it."""
    from tt_edge.errors import InvalidInputError

    runtime: str = args.runtime
    if args.device == "cpu":
        return runtime
    if args.device != "cuda":
        raise InvalidInputError(f"--device {args.device!r} is unknown; choose one of cpu, cuda")
    if runtime != "reference":
        raise InvalidInputError(
            f"--device cuda is of --runtime reference, and --runtime is {runtime}; give both, or omit --device: engines always run "
            "on the GPU"
        )
    return "reference-cuda"


def add_require_signature(parser: argparse.ArgumentParser) -> None:
    """The option of every command that reads a bundle."""
    parser.add_argument(
        "--require-signature",
        metavar="PEM",
        help="public key: refuse a bundle that is not signed with it (or set TT_EDGE_REQUIRE_SIGNATURE)",
    )


def add_image_cache(parser: argparse.ArgumentParser) -> None:
    """The option of every command that encodes images of several requests or turns."""
    parser.add_argument(
        "--image-cache-mb",
        type=int,
        default=256,
        metavar="N",
        help="for a vision-language model: MiB of host memory for features of recent images, which are not encoded again; 0: none "
        "(default 256)",
    )


def image_cache_bytes(args: argparse.Namespace) -> int:
    """``--image-cache-mb`` in bytes. Raises ``InvalidInputError`` for a negative number."""
    from tt_edge.errors import InvalidInputError

    megabytes: int = args.image_cache_mb
    if megabytes < 0:
        raise InvalidInputError(f"--image-cache-mb is {megabytes}; give 0 or more")
    return megabytes << 20


def check_output(option: str, path: Path | None) -> None:
    """Raise ``InvalidInputError`` for a file that cannot be written, before the work that it is for. ``None`` is none."""
    from tt_edge.errors import InvalidInputError

    if path is not None and (not path.resolve().parent.is_dir() or path.is_dir()):
        raise InvalidInputError(f"{option} {path} cannot be written; give a file in a folder that exists")


def add_quantization(parser: argparse.ArgumentParser) -> None:
    """Options of a compile that make the model smaller."""
    group = parser.add_argument_group(
        "quantization", "Without --quant, --quant-layers or --quant-vision, the model is not quantized."
    )
    group.add_argument(
        "--quant",
        metavar="FORMAT",
        help="format of all linear layers except the head: fp8, int8_sq, int8_wo, int4_awq, int4_wo or nvfp4",
    )
    group.add_argument(
        "--quant-vision",
        metavar="FORMAT",
        help="format of the linear layers in the blocks of a vision tower: fp8 or int8_sq; omit it to keep the tower's precision",
    )
    group.add_argument(
        "--quant-layers",
        metavar="RULES",
        help='exceptions by layer name; the first match counts: "*.down_proj=fp8,*.layers.0.*=none"',
    )
    group.add_argument(
        "--quant-group-size", type=int, default=128, metavar="N", help="group size of INT4: 32, 64 or 128 (default)"
    )
    group.add_argument(
        "--int4-gemm",
        metavar="HOW",
        help="INT4 layers: plugin (Int4GroupwiseGemmPlugin, the default with --backend plugin) or ootb (TensorRT's own)",
    )
    group.add_argument("--kv-cache", metavar="TYPE", help="fp16, bf16 (as --precision), or fp8 with --backend plugin")
    group.add_argument(
        "--calib-data",
        metavar="PATH",
        help="calibration data: .txt, .jsonl (may have images or audio), a folder of images or recordings, or of `datasets`; "
        "default: a small built-in set",
    )
    group.add_argument(
        "--calib-samples", type=int, default=64, metavar="N", help="maximum number of samples (default 64)"
    )
    group.add_argument("--calib-length", type=int, default=256, metavar="N", help="tokens per sample (default 256)")
    group.add_argument("--calib-device", metavar="DEVICE", help="cpu or cuda (default: a GPU if there is one)")
    group.add_argument("--calib-cache", metavar="FOLDER", help="keep calibration results there for the next compile")


def add_cache_dir(parser: argparse.ArgumentParser) -> None:
    """``--cache-dir``."""
    parser.add_argument(
        "--cache-dir",
        metavar="DIR",
        help="keep engines built for named GPUs here, and copy one that was built before from the same network "
        "(default: TT_EDGE_BUILD_CACHE, or no cache)",
    )
