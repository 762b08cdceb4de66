"""What every notebook draws with: rows of images, masks and heat maps, grids of numbers, curves and bars.

Every function that draws returns a figure for `pmm.figures.style.show`, which describes itself in its alternative
text and wants a caption by `say`; none changes its input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pmm.figures.style import (
    DASHES,
    HEAT,
    LINES,
    WIDTH,
    CaptionedFigure,
    as_percent,
    class_colour,
    mask_to_rgb,
    new_figure,
    spaced,
    styled,
    text_colour,
    wrap,
)  # fmt: skip
from pmm.method import IGNORE_INDEX

MOST = 20  # classes that a chart shows; how many more there are is written above it
Panel = tuple[str, np.ndarray]
Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def heat_overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a (H, W) float heat map in [0, 1] over the grey of (H, W, 3) uint8 RGB, dark where cold; return such RGB."""
    grey = np.asarray(image, dtype=np.float32).mean(axis=-1, keepdims=True) / 255
    colour = mpl.colormaps[HEAT](np.clip(np.asarray(heat, dtype=np.float32), 0, 1))[..., :3]
    return np.round(255 * (0.35 * grey + 0.65 * colour)).astype(np.uint8)


@styled
def image_row(
    panels: Sequence[Panel], class_names: Sequence[str] = (), columns: int = 4, heading: str = ""
) -> CaptionedFigure:
    """Draw titled images in rows; the array says how: RGB, mask or heat map.

    Args:
        panels: pairs of title and image: (H, W, 3) uint8 is RGB, (H, W) uint8 or bool a mask in class colours,
            (H, W) float a heat map whose colours span 0..1.
        class_names: index is the mask value; given, masks get names in their regions and a legend.
        columns: images a row, at most.
        heading: title over all.
    """
    columns = min(columns, len(panels))
    rows, wide = math.ceil(len(panels) / columns), WIDTH / columns
    titles, lines, shape = _measured(panels, wide - 0.1)
    height = rows * (shape * wide * 0.97 + 0.3 * lines + 0.1) + 0.4 * bool(heading) + 0.4 * bool(class_names)
    figure, axes = new_figure(rows, columns, height)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, title, (_, image) in zip(axes.flat, titles, panels, strict=False):
        draw_image(axis, image, class_names)
        axis.set_title(title)
    if heading:
        figure.suptitle(heading)
    if class_names:
        add_legend(figure, [image for _, image in panels], class_names)
    figure.alt = f"Images: {'; '.join(in_words(*panel, class_names) for panel in panels if panel[0])}."
    return figure


def _measured(panels: Sequence[Panel], wide: float) -> tuple[list[str], int, float]:
    """Return the wrapped titles, the lines of the longest, and the greatest height over width."""
    titles = [wrap(title, wide) for title, _ in panels]
    shape = max(np.shape(image)[0] / np.shape(image)[1] for _, image in panels)
    return titles, max(title.count("\n") + 1 for title in titles), shape


def draw_image(axis: Axes, image: np.ndarray, class_names: Sequence[str] = ()) -> None:
    """Draw one RGB image, mask or heat map into axes; see `image_row`."""
    image = np.asarray(image)
    if image.ndim == 3:
        axis.imshow(image)
    elif _is_mask(image):
        axis.imshow(mask_to_rgb(image, class_names))
        if len(class_names):
            write_names(axis, image, class_names)
    else:
        axis.imshow(image, cmap=HEAT, vmin=0, vmax=1)


def _is_mask(image: np.ndarray) -> bool:
    return np.ndim(image) == 2 and not np.issubdtype(np.asarray(image).dtype, np.floating)


def in_words(title: str, image: np.ndarray, class_names: Sequence[str]) -> str:
    """Say what a panel shows: its title and, of a heat map, its mean or, of a mask with named classes, their shares."""
    words = " ".join(title.split())
    if np.ndim(image) == 2 and not _is_mask(image):
        return f"{words} (mean {np.mean(image):.2f})"
    if np.ndim(image) == 3 or not len(class_names):
        return words
    values, counts = np.unique(image, return_counts=True)
    names, shares = [_name(v, class_names) for v in values], [as_percent(n / np.size(image), 0) for n in counts]
    return f"{words} ({_pairs(names, shares)})"


def _name(value: int, class_names: Sequence[str]) -> str:
    return f"unknown ({IGNORE_INDEX})" if value == IGNORE_INDEX else spaced(class_names[int(value)])


def write_names(axis: Axes, mask: np.ndarray, class_names: Sequence[str]) -> None:
    """Write each class's name where it covers most of its own region, if the region has room for it."""
    panel_inches = axis.figure.get_figwidth() / axis.get_gridspec().ncols
    letter = 12 * 0.62 / 72 / panel_inches * mask.shape[1]  # its width in pixels of the mask
    free = np.ones(mask.shape, dtype=bool)
    for value in sorted(set(np.unique(mask).tolist()) - {0, IGNORE_INDEX}):
        size = (max(1, round(2 * letter)), max(1, round(letter * len(class_names[value]))))
        x, y, inside = best_place((mask == value) & free, *size)
        if inside > 0.6:
            top, left = round(y - (size[0] - 1) / 2), round(x - (size[1] - 1) / 2)
            free[top : top + size[0], left : left + size[1]] = False
            colour = class_colour(value, class_names)
            box = {"facecolor": colour, "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
            draw_text(axis, x, y, spaced(class_names[value]), colour, 12, bbox=box)


def draw_text(axis: Axes, x: float, y: float, text: str, ground: Sequence[float], size: float, **more: Any) -> None:
    """Write a text into the middle of x, y, black or white as it reads better on the ground, a colour in 0..1."""
    axis.text(x, y, text, ha="center", va="center", color=text_colour(ground), fontsize=size, **more)


def draw_cells(axis: Axes, colours: np.ndarray, texts: Sequence[Sequence[str]], size: float, **more: Any) -> None:
    """Draw a (rows, columns, 3 or 4) array of colours in 0..1 as cells, each with its text; `more` is for `imshow`."""
    axis.imshow(colours, **more)
    for (row, column), text in np.ndenumerate(np.asarray(texts)):
        if text:
            draw_text(axis, column, row, text, colours[row, column], size)


def best_place(region: np.ndarray, height: int, width: int) -> tuple[float, float, float]:
    """Find the (height, width) pixel box that holds most of a (H, W) bool region.

    Returns centre x, centre y, and the region's share of the box; the share is 0 if the box does not fit.
    """
    if height > region.shape[0] or width > region.shape[1]:
        return 0.0, 0.0, 0.0
    sums = np.pad(region.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    boxes = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    row, column = np.unravel_index(boxes.argmax(), boxes.shape)
    return column + (width - 1) / 2, row + (height - 1) / 2, boxes.max() / (height * width)


def add_legend(figure: Figure, images: Sequence[np.ndarray], class_names: Sequence[str]) -> None:
    """Put a legend of the classes that occur in the masks below the panels."""
    values = sorted({v for image in images if _is_mask(image) for v in np.unique(image).tolist()})
    entries = [(_name(v, class_names), class_colour(v, class_names)) for v in values]
    patches = [Patch(facecolor=colour, edgecolor="0.3", label=name) for name, colour in entries]
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)), handlelength=1.2)


@styled
def heat_row(panels: Sequence[Panel], columns: int = 4, label: str = "activation") -> CaptionedFigure:
    """Draw titled images and heat maps as in `image_row`, with one colour bar for 0..1 that measures `label`."""
    figure = image_row(panels, columns=columns)
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), HEAT)
    figure.colorbar(scale, ax=figure.axes, label=label, fraction=0.03, pad=0.015, ticks=[0, 0.5, 1])
    return figure


@styled
def number_grids(grids: Sequence[Panel], digits: int = 2) -> CaptionedFigure:
    """Draw small arrays side by side as cells with their numbers; NaN cells stay empty.

    Args:
        grids: pairs of title and (h, w) numbers: uint8 is a mask in class colours, all else a heat map.
        digits: decimals.
    """
    size = min(WIDTH / len(grids), 3.2)
    titles, lines, shape = _measured(grids, size - 0.2)
    figure, axes = new_figure(1, len(grids), 0.92 * shape * size + 0.3 * lines, width=size * len(grids))
    described = []
    for axis, title, (name, grid) in zip(axes.flat, titles, grids, strict=True):
        grid = np.asarray(grid)
        texts = [[f"{value:.{digits}f}" if np.isfinite(value) else "" for value in row] for row in grid]
        draw_cells(axis, _cell_colours(grid), texts, 16)
        axis.set_xticks(np.arange(-0.5, grid.shape[1]), labels=[])
        axis.set_yticks(np.arange(-0.5, grid.shape[0]), labels=[])
        axis.grid(True, color="0.6", linewidth=2)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_title(title)
        described.append(f"{name}: {' / '.join(' '.join(text or 'empty' for text in row) for row in texts)}")
    figure.alt = f"Grids of numbers, row by row. {'; '.join(described)}."
    return figure


def _cell_colours(grid: np.ndarray) -> np.ndarray:
    """Return (h, w, 3) colours in 0..1; heat spans 0..1 or, where the numbers go beyond, their range."""
    if grid.dtype == np.uint8:
        return mask_to_rgb(grid) / 255
    known = grid[np.isfinite(grid)]
    scale = mpl.colors.Normalize(min(0.0, known.min(initial=0)), max(1.0, known.max(initial=0)))
    colours = mpl.colormaps[HEAT](scale(np.nan_to_num(grid)))[..., :3]
    colours[~np.isfinite(grid)] = 1
    return colours


@styled
def histogram(
    series: Mapping[str, np.ndarray], xlabel: str, ylabel: str = "share of pixels", bins: int = 40,
    span: tuple[float, float] = (0.0, 1.0), marks: Mapping[str, float] | None = None,
) -> CaptionedFigure:  # fmt: skip
    """Draw one histogram per series, side by side, with the same axes; marks are labelled vertical lines."""
    figure, axes = new_figure(1, len(series), sharey=True)
    described = []
    for axis, colour, (label, values) in zip(axes.flat, cycle(LINES), series.items(), strict=False):
        values = np.ravel(np.asarray(values, dtype=np.float64))
        axis.hist(values, bins, span, weights=np.full(values.size, 1 / max(values.size, 1)), color=colour)
        axis.set(title=wrap(label, WIDTH / len(series) - 0.8), xlabel=xlabel, xlim=span)
        draw_marks(axis, marks or {})
        described.append(f"{label}, {spread_in_words(values)}")
    axes.flat[0].set_ylabel(ylabel)
    figure.alt = f"Histograms of {xlabel}: {'; '.join(described)}."
    return figure


def spread_in_words(values: np.ndarray) -> str:
    """Say how many values there are, between which ends, and which median they have."""
    if not np.size(values):
        return "no values"
    return f"{np.size(values)} values from {np.min(values):.2f} to {np.max(values):.2f}, median {np.median(values):.2f}"


@styled
def curves(
    series: Curves, xlabel: str, ylabel: str, marks: Mapping[str, float] | None = None,
    ylim: tuple[float | None, float | None] | None = None, height: float = 4.6,
) -> CaptionedFigure:  # fmt: skip
    """Draw labelled curves; each ends with its name, so that no reader has to match colours.

    Args:
        series: label -> (x, y).
        xlabel, ylabel: with the unit.
        marks: label -> x of a dashed vertical line.
        ylim: range of the y axis.
        height: inches.
    """
    figure, axes = new_figure(1, 1, height)
    axis = axes[0, 0]
    draw_curves(axis, series, legend=len(series) > 1, dotted=20)
    axis.set(xlabel=xlabel, ylabel=ylabel, ylim=ylim)
    if xlabel == "epoch":
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    draw_marks(axis, marks or {})
    described = "; ".join(f"{label}: {_curve_in_words(*curve)}" for label, curve in series.items())
    figure.alt = f"Curves of {ylabel} over {xlabel}. {described}."
    return figure


def draw_curves(axis: Axes, series: Curves, legend: bool = True, dotted: float = math.inf) -> None:
    """Draw label -> (x, y) as curves over a grid; those of at most `dotted` points have a dot at each."""
    for colour, dash, (label, (x, y)) in zip(cycle(LINES), cycle(DASHES), series.items(), strict=False):
        axis.plot(x, y, dash, color=colour, marker="o" if len(x) <= dotted else None, label=label)
    axis.grid(True)
    if legend:
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=2.4)


def _curve_in_words(x: Sequence[float], y: Sequence[float]) -> str:
    if not len(x):
        return "no values"
    top = int(np.nanargmax(y)) if np.isfinite(y).any() else 0
    ends = f"{y[0]:.3g} at {x[0]:.3g}, {y[-1]:.3g} at {x[-1]:.3g}"
    return ends if top in (0, len(x) - 1) else f"{ends}, highest {y[top]:.3g} at {x[top]:.3g}"


def draw_marks(axis: Axes, marks: Mapping[str, float]) -> None:
    """Draw labelled dashed vertical lines."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    for label, x in marks.items():
        axis.axvline(x, color="0.25", linestyle="--", linewidth=1.8)
        axis.annotate(
            label, (x, 0.97), (5, 0), ("data", "axes fraction"), "offset points", va="top", fontsize=13, bbox=box
        )


@styled
def bars(
    values: Mapping[str, float], xlabel: str, percent: bool = True, colours: Sequence[object] | None = None
) -> CaptionedFigure:
    """Draw one horizontal bar per entry with its number at the end, in the given order from the top.

    Args:
        values: label -> number, a fraction where percent.
        xlabel: what the bars measure.
        percent: write 0.5 as 50.0 %.
        colours: one a bar; by default one colour for all.
    """
    figure, axes = new_figure(1, 1, 1.3 + 0.46 * len(values))
    axis = axes[0, 0]
    described, numbers = _draw_bars(
        axis, {"": values}, 0.7, xlabel, percent, [colours or LINES[0]], padding=5, fontsize=14
    )
    axis.set_xlim(0, 1.15 * max([*numbers, 1e-9]))
    if not percent and all(v == int(v) for v in numbers):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    figure.alt = f"Bars of {xlabel}: {described[0]}."
    return figure


def miou_bars(scores: Mapping[str, Mapping[str, Any]], what: str, data: str) -> CaptionedFigure:
    """Draw "miou", a fraction, of several results by label: what it is of, and on which data it was measured."""
    return bars({label: score["miou"] for label, score in scores.items()}, what).say(f"{what} on {data}.")


def left_out(shown: int, found: int, total: int) -> str:
    """Say how many of the classes found are not shown, and how many of all do not occur; "" where all are shown."""
    more = f"{found - shown} more class{'es' * (found > shown + 1)}" if found > shown else ""
    none = {0: "", 1: "1 class does not occur"}.get(total - found, f"{total - found} classes do not occur")
    return "; ".join(filter(None, [more, none]))


def write_above(figure: CaptionedFigure, note: str) -> CaptionedFigure:
    """Write a note above the first axes of a figure, and at the end of its alternative text, if there is one."""
    if note:
        figure.axes[0].set_title(f"({note})", loc="right", fontsize=13)
        figure.alt += f" {note[0].upper()}{note[1:]}."
    return figure


@styled
def grouped_bars(table: Mapping[str, Mapping[str, float]], xlabel: str, percent: bool = True) -> CaptionedFigure:
    """Compare series entry by entry, the first MOST: `table[series][label]` is one bar, with its number at the end."""
    whole = list(dict.fromkeys(label for row in table.values() for label in row))
    labels = whole[:MOST]
    figure, axes = new_figure(1, 1, 1.7 + 0.34 * len(labels) * max(len(table), 1.3))
    drawn = {name: {label: row.get(label, math.nan) for label in labels} for name, row in table.items()}
    described, _ = _draw_bars(axes[0, 0], drawn, 0.82 / len(table), xlabel, percent, LINES, padding=4, fontsize=12)
    axes[0, 0].margins(x=0.12)
    figure.legend(loc="outside lower center", ncols=min(4, len(table)))
    figure.alt = f"Bars of {xlabel}. {'; '.join(map(': '.join, zip(table, described, strict=True)))}."
    return write_above(figure, left_out(len(labels), len(whole), len(whole)))


def _draw_bars(
    axis: Axes, table: Mapping[str, Mapping[str, float]], thick: float, xlabel: str, percent: bool,
    colours: Sequence[Any], **texts: float,
) -> tuple[list[str], list[float]]:  # fmt: skip
    """Draw one group of bars a label, the same labels in each series; return each series in words, and the lengths."""
    described, lengths = [], []
    for position, (colour, (name, row)) in enumerate(zip(cycle(colours), table.items(), strict=False)):
        places = np.arange(len(row)) + (position - (len(table) - 1) / 2) * thick
        numbers = np.nan_to_num([float(value) for value in row.values()], posinf=0, neginf=0).tolist()
        written = [as_percent(value) if percent else f"{value:g}" for value in row.values()]
        axis.bar_label(axis.barh(places, numbers, thick, color=colour, label=name), written, **texts)
        described.append(_pairs(row, written))
        lengths += numbers
    axis.set_yticks(np.arange(len(row)), [spaced(label) for label in row])
    axis.invert_yaxis()
    axis.set_xlabel(xlabel)
    if percent:
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=" %"))
    return described, lengths


def _pairs(labels: Iterable[str], texts: Sequence[str]) -> str:
    return ", ".join(f"{spaced(label)} {text}" for label, text in zip(labels, texts, strict=True))


@styled
def matrix(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], label: str) -> CaptionedFigure:
    """Draw (len(rows), len(columns)) counts as coloured cells, each with its number; `label` says what they count."""
    values = np.asarray(values, dtype=np.float64)
    figure, axes = new_figure(1, 1, 2.4 + 0.5 * len(rows))
    axis, colours = axes[0, 0], mpl.cm.ScalarMappable(mpl.colors.Normalize(0, values.max()), "Blues")
    figure.colorbar(colours, ax=axis, label=label, fraction=0.04)
    draw_cells(axis, colours.to_rgba(values), [[f"{value:.0f}" for value in row] for row in values], 13, aspect="auto")
    axis.set_xticks(range(len(columns)), [spaced(c) for c in columns], rotation=35, ha="right")
    axis.set_yticks(range(len(rows)), [spaced(r) for r in rows])
    size = f"{len(rows)} by {len(columns)}"
    figure.alt = f"A table of {size} numbers, {label}, from {values.min():.0f} to {values.max():.0f}."
    return figure
