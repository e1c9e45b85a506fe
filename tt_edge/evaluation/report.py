"""The results of an evaluation as text, Markdown, CSV and JSON.

A row is a bundle: ``bundle``, ``format``, ``weight_bytes``, ``word``, and the summaries ``network`` and ``pytorch`` (or ``None``).
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tt_edge.atomic import replace_file
from tt_edge.evaluation.formats.task import Task

Row: TypeAlias = Mapping[str, Any]
#: Numbers that count something, not parts of all items.
_COUNTS = ("asked", "right", "tokens", "groups")
_SIDES = {"network": "", "pytorch": "PyTorch "}


def write_reports(folder: Path, task: Task, rows: Sequence[Row]) -> None:
    """Write ``report.json``, ``report.md`` and ``report.csv`` to ``folder``."""
    for name, text in (
        ("report.json", as_json({"task": task.name, "settings": task.settings, "rows": rows}) + "\n"),
        ("report.md", markdown(task, rows)),
        ("report.csv", as_csv(task, rows)),
    ):
        replace_file(folder / name, text.encode())


def as_json(value: Any) -> str:
    """``value`` with ``null`` for numbers that JSON does not have, such as an infinite perplexity."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def metrics(task: Task, rows: Sequence[Row]) -> list[str]:
    """Names of the numbers, those of the marks first."""
    found = rows[0]["network"]
    return [name for name in found if name in task.marks] + [
        name for name in found if name not in (*task.marks, *_COUNTS)
    ]


def render(task: Task, rows: Sequence[Row]) -> str:
    """A table for a terminal: a line per bundle, and the groups of the highest level."""
    names = metrics(task, rows)
    sides = [side for side in _SIDES if any(row[side] for row in rows)]
    width = max(len("format"), *(len(row["format"]) for row in rows))
    head = f"{'format':{width}}  {'weights MB':>10}"
    for side in sides:
        head += "   PyTorch:" if side == "pytorch" else ""
        for place, name in enumerate(names):
            head += f"  {name:>{_width(name)}}"
            head += f"  {'delta':>7}" if place == 0 and side == "network" and task.marks else ""
    lines = [head]
    for row in rows:
        size = "" if row["weight_bytes"] is None else f"{row['weight_bytes'] / 1e6:,.2f}"
        line = f"{row['format']:{width}}  {size:>10}"
        for side in sides:
            line += " " * len("   PyTorch:") if side == "pytorch" else ""
            for place, name in enumerate(names):
                line += f"  {_shown(task, name, row[side]):>{_width(name)}}"
                if place == 0 and side == "network" and task.marks:
                    line += f"  {100 * (row[side][name] - rows[0][side][name]):>+7.2f}"
        lines.append(line)
    groups = rows[0]["network"].get("groups", {})
    if groups:
        lines += ["", *_group_lines(task, rows, next(iter(groups)), names[0], sides)]
    asked = rows[0]["network"]["asked"]
    what = ("window" if task.name == "perplexity" else "question") + ("" if asked == 1 else "s")
    words = sorted({row["word"] for row in rows})
    return "\n".join([*lines, f"{asked:,} {what}; {', '.join(words)}"])


def _group_lines(task: Task, rows: Sequence[Row], level: str, name: str, sides: Sequence[str]) -> Iterator[str]:
    names = rows[0]["network"]["groups"][level]
    width = max(len(level), *map(len, names))
    labels = [f"{_SIDES[side]}{row['format']}" for row in rows for side in sides]
    widths = [max(7, len(label)) for label in labels]
    head = "".join(f"  {label:>{size}}" for label, size in zip(labels, widths, strict=True))
    yield f"{level:{width}}  {'asked':>6}{head}"
    for group, numbers in names.items():
        cells = [_shown(task, name, row[side] and row[side]["groups"][level][group]) for row in rows for side in sides]
        shown = "".join(f"  {cell:>{size}}" for cell, size in zip(cells, widths, strict=True))
        yield f"{group:{width}}  {numbers['asked']:>6,}{shown}"


def markdown(task: Task, rows: Sequence[Row]) -> str:
    """A document: the settings, a table of the bundles, and one of each level of groups."""
    names = metrics(task, rows)
    settings = ", ".join(f"{name} {value}" for name, value in task.settings.items() if value not in (None, []))
    lines = [f"# {task.name}", "", f"{rows[0]['network']['asked']:,} asked{'; ' + settings if settings else ''}.", ""]
    lines += _table(["bundle", "format", "computed by", *names], _markdown_rows(task, rows, names))
    for level in rows[0]["network"].get("groups", {}):
        sides = [(row, side) for row in rows for side in _SIDES if row[side]]
        head = [level, "asked", *(f"{_SIDES[side]}{row['format']}" for row, side in sides)]
        body = [
            [group, f"{numbers['asked']:,}"]
            + [_shown(task, names[0], row[side]["groups"][level][group]) for row, side in sides]
            for group, numbers in rows[0]["network"]["groups"][level].items()
        ]
        lines += ["", *_table(head, body)]
    return "\n".join(lines) + "\n"


def _markdown_rows(task: Task, rows: Sequence[Row], names: Sequence[str]) -> list[list[str]]:
    return [
        [row["bundle"], row["format"], row["word"] if side == "network" else "PyTorch"]
        + [_shown(task, name, row[side]) for name in names]
        for row in rows
        for side in _SIDES
        if row[side]
    ]


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(map(_cell, line)) + " |" for line in lines]


def _cell(text: str) -> str:
    """Text that stays in its cell and is no HTML."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def as_csv(task: Task, rows: Sequence[Row]) -> str:
    """A line for each bundle, side, level and group; parts of 1, not per cent."""
    names, out = metrics(task, rows), io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["bundle", "format", "side", "level", "group", "asked", *names])
    for row in rows:
        for side in _SIDES:
            if not row[side]:
                continue
            found = [("all", "all", row[side])]
            for level, groups in row[side].get("groups", {}).items():
                found += [(level, group, numbers) for group, numbers in groups.items()]
            for level, group, numbers in found:
                writer.writerow(
                    [row["bundle"], row["format"], side, level, group, numbers["asked"]]
                    + [numbers.get(name, "") for name in names]
                )
    return out.getvalue()


def _width(name: str) -> int:
    return max(len(name), 7)


def _shown(task: Task, name: str, numbers: Mapping[str, Any] | None) -> str:
    if not numbers or name not in numbers:
        return ""
    is_part = name in task.marks or name.endswith("_rate")
    return f"{numbers[name]:.2%}" if is_part else f"{numbers[name]:.4f}"
