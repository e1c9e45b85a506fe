"""Tables of the documentation that the code itself knows: MkDocs calls this when it builds the site.

A page has them where it says ``<!-- generated: NAME -->``.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tt_edge.bundle.manifest import Word
from tt_edge.cli import build_parser
from tt_edge.platforms import PLATFORMS
from tt_edge.roofline import DEVICES
from tt_edge.tensorrt_features import FEATURES

#: Options of all commands, which the page's text describes.
EVERYWHERE = ("help", "debug")
MARKER = re.compile(r"<!-- generated: (\w+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs' hook: the page's text with its tables. Raises ``KeyError`` for a table that nobody makes."""
    return MARKER.sub(lambda found: GENERATED[found[1]](), markdown)


def commands() -> str:
    """Every command with its options, as ``--help`` has them."""
    parser = build_parser()
    [subparsers] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    lines: list[str] = []
    for name, command in subparsers.choices.items():
        lines += [f"## tt-edge {name}", "", _text(command.description or ""), ""]
        own: dict[str, list[argparse.Action]] = {}
        for group in command._action_groups:
            title = group.title if group.title not in ("positional arguments", "options") else ""
            shown = [
                each for each in group._group_actions if each.help != argparse.SUPPRESS and each.dest not in EVERYWHERE
            ]
            own.setdefault("\n\n".join(_text(text) for text in (title, group.description) if text), []).extend(shown)
        for title, actions in own.items():
            if actions:
                lines += [title, ""] if title else []
                lines += [*_table(["option", "meaning"], ([_option(each), _meaning(each)] for each in actions)), ""]
    return "\n".join(lines)


def _option(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    names = ", ".join(action.option_strings)
    return f"`{names}{value}`" if names else f"`{action.metavar or action.dest}`"


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "prog": "tt-edge"}
    return f"{text} ({', '.join(action.choices)})" if action.choices else text


def words() -> str:
    """The evidence words of a manifest, with the comments that stand above them in the code."""
    found, comment = [], []
    for line in inspect.getsource(Word).splitlines():
        if text := re.fullmatch(r"\s*#: (.*)", line):
            comment.append(text[1])
        elif member := re.fullmatch(r'\s*\w+ = "(.*)"', line):
            found.append([member[1], " ".join(comment) or "No GPU ran it."])
            comment = []
    return "\n".join(_table(["word", "meaning"], found))


def features() -> str:
    """What tt-edge uses of TensorRT, the first release that has it, and the platforms that do."""
    rows = []
    for feature in sorted(FEATURES, key=lambda each: each.since):
        have = [
            platform.name
            for platform in PLATFORMS.values()
            if all(feature in platform.features(release) for release in platform.releases)
        ]
        rows.append([feature.what, feature.release, ", ".join(have)])
    return "\n".join(_table(["feature", "from", "platforms that have it"], rows))


def devices() -> str:
    """The devices of the prediction, with what it is computed from."""
    rows = [
        [
            f"`{device.name}`",
            device.title,
            f"{device.bandwidth:,g}",
            ", ".join(f"{math} {peak:,g}" for math, peak in device.peak.items()),
            f"{device.calibration:g}" + (f" ({device.fitted_on})" if device.fitted_on else ""),
            device.source,
        ]
        for device in DEVICES.values()
    ]
    return "\n".join(_table(["name", "device", "GB/s", "dense TFLOPS", "calibration", "source"], rows))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines]


def _text(text: str) -> str:
    """One line of Markdown, in which nothing is markup but code."""
    return re.sub(r"([<*_|])(?![^`]*`(?:[^`]*`[^`]*`)*[^`]*$)", r"\\\1", " ".join(text.split()))


GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands,
    "words": words,
    "features": features,
    "devices": devices,
}
