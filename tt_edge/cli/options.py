"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import Any

_SAMPLING = {
    "temperature": (float, "T", "0: always the likeliest token; higher: more varied"),
    "top_k": (int, "K", "draw from the K likeliest tokens"),
    "top_p": (float, "P", "draw from the likeliest tokens that add up to P"),
    "min_p": (float, "P", "draw from tokens at least P times as likely as the likeliest"),
    "repetition_penalty": (float, "X", "above 1: make tokens of prompt and answer less likely"),
    "presence_penalty": (float, "X", "take X off the logit of what the answer has"),
    "frequency_penalty": (float, "X", "take X off it for each time that the answer has it"),
    "seed": (int, "N", "the same tokens every time"),
}


def add_sampling(parser: argparse.ArgumentParser, default: str) -> None:
    """How to choose tokens; ``default`` says what happens without these options."""
    group = parser.add_argument_group("choosing tokens", f"Without these: {default}.")
    for name, (kind, metavar, text) in _SAMPLING.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text)


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """What was given, as fields of ``GenerationConfig``."""
    given = {name: getattr(args, name) for name in _SAMPLING}
    return {name: value for name, value in given.items() if value is not None}


def add_require_signature(parser: argparse.ArgumentParser) -> None:
    """The option of every command that reads a bundle."""
    parser.add_argument(
        "--require-signature",
        metavar="PEM",
        help="public key: refuse a bundle that is not signed with it (or set TT_EDGE_REQUIRE_SIGNATURE)",
    )
