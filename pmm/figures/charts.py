"""Charts: histograms, curves, bars, tables of numbers.

Every function that draws returns a figure for `pmm.figures.style.show`; none changes its input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pmm.figures.palette import LINES, text_colour
from pmm.figures.style import WIDTH, as_percent, new_figure, spaced, styled, wrap


@styled
def histogram(
    series: Mapping[str, np.ndarray], xlabel: str, ylabel: str = "share of pixels", bins: int = 40,
    span: tuple[float, float] = (0.0, 1.0), marks: Mapping[str, float] | None = None, height: float = 4.2,
) -> Figure:  # fmt: skip
    """Draw one histogram per series, side by side, with the same axes; marks are labelled vertical lines."""
    figure, axes = new_figure(1, len(series), height, sharey=True)
    for position, (axis, (label, values)) in enumerate(zip(axes.flat, series.items(), strict=True)):
        values = np.ravel(np.asarray(values, dtype=np.float64))
        weights = np.full(values.size, 1 / max(values.size, 1))
        axis.hist(values, bins=bins, range=span, weights=weights, color=LINES[position % len(LINES)])
        axis.set(title=wrap(label, WIDTH / len(series) - 0.8), xlabel=xlabel, xlim=span)
        draw_marks(axis, marks or {})
    axes.flat[0].set_ylabel(ylabel)
    return figure


@styled
def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, title: str = "",
    marks: Mapping[str, float] | None = None, ylim: tuple[float, float] | None = None, height: float = 4.6,
) -> Figure:  # fmt: skip
    """Draw labelled curves; each ends with its name, so that no reader has to match colours.

    Args:
        series: label -> (x, y).
        xlabel, ylabel: with the unit.
        title: over the axes.
        marks: label -> x of a dashed vertical line.
        ylim: range of the y axis.
        height: inches.
    """
    figure, axes = new_figure(1, 1, height)
    draw_curves(axes[0, 0], series, xlabel, ylabel, title, marks, ylim)
    return figure


def draw_curves(
    axis: Axes, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str,
    title: str = "", marks: Mapping[str, float] | None = None, ylim: tuple[float, float] | None = None,
) -> None:  # fmt: skip
    """Draw labelled curves into axes; see `curves`."""
    dashes = ("-", "--", "-.", ":")
    for position, (label, (x, y)) in enumerate(series.items()):
        marker = "o" if len(x) <= 20 else None
        axis.plot(x, y, dashes[position % 4], color=LINES[position % len(LINES)], marker=marker, label=label)
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title, ylim=ylim)
    if xlabel == "epoch":
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axis.grid(True)
    draw_marks(axis, marks or {})
    if len(series) > 1:
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=2.4)


def draw_marks(axis: Axes, marks: Mapping[str, float]) -> None:
    """Draw labelled dashed vertical lines."""
    for label, x in marks.items():
        axis.axvline(x, color="0.25", linestyle="--", linewidth=1.8)
        axis.annotate(label, (x, 0.97), xycoords=("data", "axes fraction"), xytext=(5, 0),
                      textcoords="offset points", va="top", fontsize=13,
                      bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})  # fmt: skip


@styled
def bars(
    values: Mapping[str, float], xlabel: str, title: str = "", percent: bool = True,
    limit: float | None = None, colours: Sequence[object] | None = None,
) -> Figure:  # fmt: skip
    """Draw one horizontal bar per entry with its number at the end, in the given order from the top.

    Args:
        values: label -> number, a fraction where percent.
        xlabel: what the bars measure.
        title: over the axes.
        percent: write 0.5 as 50.0 %.
        limit: right end of the axis; by default a little more than the longest bar.
        colours: one a bar; by default one colour for all.
    """
    figure, axes = new_figure(1, 1, 1.3 + 0.46 * len(values) + 0.3 * bool(title))
    axis = axes[0, 0]
    numbers = [0.0 if not np.isfinite(v) else float(v) for v in values.values()]
    drawn = axis.barh([spaced(label) for label in values], numbers, color=colours or LINES[0], height=0.7)
    texts = [as_percent(v) if percent else f"{v:g}" for v in values.values()]
    axis.bar_label(drawn, texts, padding=5, fontsize=14)
    axis.invert_yaxis()
    axis.set(xlabel=xlabel, title=title, xlim=(0, limit or 1.15 * max([*numbers, 1e-9])))
    if percent:
        axis.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=None, symbol=" %"))
    elif all(v == int(v) for v in numbers):
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return figure


@styled
def grouped_bars(
    table: Mapping[str, Mapping[str, float]], xlabel: str, title: str = "", percent: bool = True
) -> Figure:
    """Compare series entry by entry: `table[series][label]` is one bar, with its number at the end."""
    labels = list(dict.fromkeys(label for row in table.values() for label in row))
    thick = 0.82 / len(table)
    figure, axes = new_figure(1, 1, 1.7 + 0.34 * len(labels) * max(len(table), 1.3))
    axis = axes[0, 0]
    for position, (name, row) in enumerate(table.items()):
        numbers = [float(row.get(label, math.nan)) for label in labels]
        places = np.arange(len(labels)) + (position - (len(table) - 1) / 2) * thick
        colour = LINES[position % len(LINES)]
        drawn = axis.barh(places, np.nan_to_num(numbers), thick, color=colour, label=name)
        texts = [as_percent(v) if percent else f"{v:g}" for v in numbers]
        axis.bar_label(drawn, texts, padding=4, fontsize=12)
    axis.set_yticks(np.arange(len(labels)), [spaced(label) for label in labels])
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set(xlabel=xlabel, title=title)
    if percent:
        axis.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=None, symbol=" %"))
    figure.legend(loc="outside lower center", ncols=min(4, len(table)))
    return figure


@styled
def matrix(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str], label: str, title: str = "",
    digits: int = 0,
) -> Figure:  # fmt: skip
    """Draw a table of numbers as coloured cells, each with its number.

    Args:
        values: (len(rows), len(columns)) numbers.
        rows, columns: labels.
        label: what a cell counts.
        title: over the axes.
        digits: decimals.
    """
    values = np.asarray(values, dtype=np.float64)
    figure, axes = new_figure(1, 1, 2.4 + 0.5 * len(rows))
    axis = axes[0, 0]
    drawn = axis.imshow(values, cmap="Blues", aspect="auto", vmin=0)
    axis.set_xticks(range(len(columns)), [spaced(c) for c in columns], rotation=35, ha="right")
    axis.set_yticks(range(len(rows)), [spaced(r) for r in rows])
    axis.set_title(title)
    for (row, column), value in np.ndenumerate(values):
        colour = text_colour(drawn.to_rgba(value))
        axis.text(column, row, f"{value:.{digits}f}", ha="center", va="center", color=colour, fontsize=13)
    figure.colorbar(drawn, label=label, fraction=0.04)
    return figure
