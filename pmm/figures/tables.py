"""What a notebook shows beside its figures: a section of metrics.json as a table, and the source of a function."""

from __future__ import annotations

import html
import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from pmm.run.folder import RunFolder
from pmm.run.report import shown

NOTHING = "No image has a ground truth: there is nothing to measure."
CELL = 'style="text-align:left;padding:2px 12px 2px 0"'


def score_section(
    title: str, data: str, scores: Mapping[str, Mapping[str, Any]], note: str = "", what: str = "method",
    bound: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Gather scores as a section of metrics.json.

    Args:
        title: what the table compares.
        data: data set, split, number of images, seed, whether a CRF was applied.
        scores: row label -> "miou", "pixel_accuracy" and "iou" by class name, all fractions; where some have
            "with_crf", the same of masks that a CRF refined, its mIoU has a column.
        note: what a reader must know to read the numbers rightly.
        what: heading of the first column.
        bound: row label of the upper bound; adds a column with each mIoU's share of its mIoU.

    Returns:
        title, data, columns, rows, note, and per_class with columns, rows and note: the background, then the classes
        by the IoU of the first score. Those that neither occur nor were predicted are counted in the note.
    """
    columns = [what, "mIoU", "pixel accuracy"]
    rows = [[label, _known(score["miou"]), _known(score["pixel_accuracy"])] for label, score in scores.items()]
    if any("with_crf" in score for score in scores.values()):
        columns.append("mIoU with CRF")
        for row, score in zip(rows, scores.values(), strict=True):
            row.append(_known(score.get("with_crf", {}).get("miou")))
    if bound in scores and scores[bound]["miou"] > 0:
        columns.append("share of the upper bound")
        for row, score in zip(rows, scores.values(), strict=True):
            row.append(_known(score["miou"] / scores[bound]["miou"]))
    per_class = _class_table({label: score["iou"] for label, score in scores.items()})
    return {"title": title, "data": data, "columns": columns, "rows": rows, "note": note, "per_class": per_class}


def _class_table(table: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return `table[column][class name]` with the classes as rows, see `score_section`."""
    names = list(dict.fromkeys(name for column in table.values() for name in column))
    rows = [[name, *(_known(column.get(name)) for column in table.values())] for name in names]
    found = [row for row in rows if set(row[1:]) != {None}]
    found.sort(key=lambda row: (row[0] != "background", row[1] is None, -(row[1] or 0)))
    absent = len(names) - len(found)
    note = "Sorted by the first score" + (
        f"; {absent} of {len(names)} neither occur nor are predicted" if absent else ""
    )
    return {"columns": ["class", *table], "rows": found, "note": f"{note}."}


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def summary_section(run: RunFolder, sections: Mapping[str, tuple[str, int]], data: str) -> dict[str, Any]:
    """Gather the mIoU of several recorded sections in one table.

    Args:
        run: the run's folder.
        sections: name of a section with mIoU in its second column -> what its rows are, and how many of its
            first rows to skip because another section has them; a section may be absent.
        data: data sets, splits, number of images, seed, whether a CRF was applied.
    """
    rows = {name: section.get("rows", []) for name, section in run.metrics().items()}
    return {
        "title": "This run, step by step",
        "data": data,
        "columns": ["what", "step", "mIoU"],
        "rows": [[what, *row[:2]] for name, (what, skip) in sections.items() for row in rows.get(name, [])[skip:]],
        "note": "Pseudo-masks are evaluated on training images, models on the validation split.",
    }


def _table(table: Mapping[str, Any]) -> str:
    head = "".join(f'<th scope="col" {CELL}>{html.escape(column)}</th>' for column in table["columns"])
    body = "".join(
        f"<tr>{''.join(f'<td {CELL}>{html.escape(shown(c))}</td>' for c in row)}</tr>" for row in table["rows"]
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def table_html(section: Mapping[str, Any]) -> str:
    """Return a section as HTML: fractions as per cent, None as a dash, the classes folded."""
    parts = [f"<p><b>{html.escape(section['title'])}</b><br>{html.escape(section['data'])}</p>"]
    if not section["rows"]:
        return f"{parts[0]}<p>{NOTHING}</p>"
    parts.append(_table(section))
    if section.get("note"):
        parts.append(f"<p>{html.escape(section['note'])}</p>")
    if section.get("per_class"):
        parts.append(f"<details><summary>Per class</summary>{_table(section['per_class'])}")
        parts.append(f"<p>{html.escape(section['per_class'].get('note', ''))}</p></details>")
    return "".join(parts)


def show_table(section: Mapping[str, Any]) -> None:
    """Display a section of metrics.json."""
    from IPython.display import display

    lines = [" | ".join(shown(cell) for cell in row) for row in [section["columns"], *section["rows"]]]
    plain = "\n".join(
        [section["title"], section["data"], *(lines if section["rows"] else [NOTHING]), section.get("note", "")]
    )
    display({"text/html": table_html(section), "text/plain": plain}, raw=True)


def source_html(function: Callable[..., Any]) -> str:
    """Return a function's source, see `source_of`, folded under its full name and the equation its docstring names."""
    name = html.escape(f"{function.__module__}.{function.__qualname__}")
    headline = (inspect.getdoc(function) or "").partition("\nArgs:")[0]
    equation = re.search(r"\([^()]*\b(?:eqs?\.|Algorithm|section) [^()]*\)", headline)
    summary = f"<summary><code>{name}</code> {html.escape(equation[0]) if equation else ''}</summary>"
    style = HtmlFormatter(noclasses=True, nobackground=True, prestyles="font-family:monospace;line-height:1.35")
    return f"<details>{summary}{highlight(source_of(function), PythonLexer(), style)}</details>"


def source_of(function: Callable[..., Any]) -> str:
    """Return a function's or class's source as the package has it, and below it the private functions it calls."""
    source, module = inspect.getsource(function), vars(inspect.getmodule(function))
    called = [module.get(name) for name in dict.fromkeys(re.findall(r"\b_\w+(?=\()", source))]
    return "\n\n".join([source, *(inspect.getsource(part) for part in called if inspect.isfunction(part))])


def show_source(*functions: Callable[..., Any]) -> None:
    """Display the source of functions or classes, each folded under its name; written in Python, in a file."""
    from IPython.display import display

    page = "".join(source_html(function) for function in functions)
    display({"text/html": page, "text/plain": "\n\n".join(map(source_of, functions))}, raw=True)
