"""What every notebook draws with: rows of images, masks and heat maps, grids of numbers, curves and bars.

Every function that draws returns a figure for `pmm.figures.style.show`, which describes itself in its alternative
text and wants a caption by `say`; none changes its input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pmm.figures.palette import LINES, class_colour, mask_to_rgb, text_colour
from pmm.figures.style import HEAT, WIDTH, CaptionedFigure, as_percent, new_figure, spaced, styled, wrap
from pmm.method import IGNORE_INDEX

Panel = tuple[str, np.ndarray]
Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def heat_overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a heat map over the grey image: dark where cold, bright where hot.

    Args:
        image: (H, W, 3) uint8 RGB.
        heat: (H, W) float in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB.
    """
    value = np.clip(np.asarray(heat, dtype=np.float32), 0, 1)
    grey = np.asarray(image, dtype=np.float32).mean(axis=-1, keepdims=True) / 255
    colour = mpl.colormaps[HEAT](value)[..., :3]
    return np.round(255 * (0.35 * grey + 0.65 * colour)).astype(np.uint8)


@styled
def image_row(
    panels: Sequence[Panel], class_names: Sequence[str] = (), columns: int = 4, heading: str = ""
) -> CaptionedFigure:
    """Draw titled images in rows; the array says how: RGB, mask or heat map.

    Args:
        panels: pairs of title and image: (H, W, 3) uint8 is RGB, (H, W) uint8 or bool a mask in class
            colours, (H, W) float a heat map whose colours span 0..1.
        class_names: index is the mask value; given, masks get names in their regions and a legend.
        columns: images a row, at most.
        heading: title over all.
    """
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    wide = WIDTH / columns
    titles = [wrap(title, wide - 0.1) for title, _ in panels]
    lines = max(title.count("\n") + 1 for title in titles)
    shape = max(np.shape(image)[0] / np.shape(image)[1] for _, image in panels)
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


def draw_image(axis: Axes, image: np.ndarray, class_names: Sequence[str] = ()) -> None:
    """Draw one RGB image, mask or heat map into axes; see `image_row`."""
    image = np.asarray(image)
    if image.ndim == 3:
        axis.imshow(image)
    elif _is_mask(image):
        axis.imshow(mask_to_rgb(image))
        if len(class_names):
            write_names(axis, image, class_names)
    else:
        axis.imshow(image, cmap=HEAT, vmin=0, vmax=1)


def _is_mask(image: np.ndarray) -> bool:
    return np.ndim(image) == 2 and not np.issubdtype(np.asarray(image).dtype, np.floating)


def in_words(title: str, image: np.ndarray, class_names: Sequence[str]) -> str:
    """Say what a panel shows: its title and, of a mask with named classes, the share of each."""
    words = " ".join(title.split())
    if not _is_mask(image) or not len(class_names):
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
            colour = class_colour(value)
            box = {"facecolor": colour, "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
            style = {"color": text_colour(colour), "ha": "center", "va": "center", "fontsize": 12}
            axis.text(x, y, spaced(class_names[value]), bbox=box, **style)


def best_place(region: np.ndarray, height: int, width: int) -> tuple[float, float, float]:
    """Find the box of a given size that holds most of a region.

    Args:
        region: (H, W) bool.
        height, width: of the box, pixels.

    Returns:
        Centre x, centre y, and the region's share of the box; the share is 0 if the box does not fit.
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
    patches = [Patch(facecolor=class_colour(v), edgecolor="0.3", label=_name(v, class_names)) for v in values]
    if patches:
        columns = min(6, len(patches))
        figure.legend(handles=patches, loc="outside lower center", ncols=columns, handlelength=1.2)


@styled
def heat_row(panels: Sequence[Panel], columns: int = 4, label: str = "activation") -> CaptionedFigure:
    """Draw titled images and heat maps with one colour bar for 0..1 at the right.

    Args:
        panels: pairs of title and (H, W) float heat map or (H, W, 3) uint8 image (overlays, photographs).
        columns: images a row, at most.
        label: what the colour bar measures.
    """
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
    titles = [wrap(title, min(WIDTH / len(grids), 3.2) - 0.2) for title, _ in grids]
    lines = max(title.count("\n") + 1 for title in titles)
    shape = max(np.shape(g)[0] / np.shape(g)[1] for _, g in grids)
    size = min(WIDTH / len(grids), 3.2)
    figure, axes = new_figure(1, len(grids), 0.92 * shape * size + 0.3 * lines, width=size * len(grids))
    described = []
    for axis, title, (name, grid) in zip(axes.flat, titles, grids, strict=True):
        words = _number_grid(axis, np.asarray(grid), digits)
        described.append(f"{name}: {' / '.join(map(' '.join, words))}")
        axis.set_title(title)
    figure.alt = f"Grids of numbers, row by row. {'; '.join(described)}."
    return figure


def _number_grid(axis: Axes, grid: np.ndarray, digits: int) -> list[list[str]]:
    """Draw one array and return its numbers as text, row by row."""
    colours = _cell_colours(grid)
    axis.imshow(colours)
    axis.set_xticks(np.arange(-0.5, grid.shape[1]), labels=[])
    axis.set_yticks(np.arange(-0.5, grid.shape[0]), labels=[])
    axis.grid(True, color="0.6", linewidth=2)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            ink = text_colour(colours[row, column])
            axis.text(column, row, f"{value:.{digits}f}", ha="center", va="center", color=ink, fontsize=16)
    return [[f"{value:.{digits}f}" if np.isfinite(value) else "empty" for value in row] for row in grid]


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
    for position, (axis, (label, values)) in enumerate(zip(axes.flat, series.items(), strict=True)):
        values = np.ravel(np.asarray(values, dtype=np.float64))
        weights = np.full(values.size, 1 / max(values.size, 1))
        axis.hist(values, bins=bins, range=span, weights=weights, color=LINES[position % len(LINES)])
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
    axis, dashes = axes[0, 0], ("-", "--", "-.", ":")
    for position, (label, (x, y)) in enumerate(series.items()):
        marker = "o" if len(x) <= 20 else None
        axis.plot(x, y, dashes[position % 4], color=LINES[position % len(LINES)], marker=marker, label=label)
    axis.set(xlabel=xlabel, ylabel=ylabel, ylim=ylim)
    if xlabel == "epoch":
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(True)
    draw_marks(axis, marks or {})
    if len(series) > 1:
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=2.4)
    described = "; ".join(f"{label}: {_curve_in_words(*curve)}" for label, curve in series.items())
    figure.alt = f"Curves of {ylabel} over {xlabel}. {described}."
    return figure


def _curve_in_words(x: Sequence[float], y: Sequence[float]) -> str:
    if not len(x):
        return "no values"
    top = int(np.nanargmax(y)) if np.isfinite(y).any() else 0
    ends = f"{y[0]:.3g} at {x[0]:.3g}, {y[-1]:.3g} at {x[-1]:.3g}"
    return ends if top in (0, len(x) - 1) else f"{ends}, highest {y[top]:.3g} at {x[top]:.3g}"


def draw_marks(axis: Axes, marks: Mapping[str, float]) -> None:
    """Draw labelled dashed vertical lines."""
    for label, x in marks.items():
        axis.axvline(x, color="0.25", linestyle="--", linewidth=1.8)
        axis.annotate(label, (x, 0.97), xycoords=("data", "axes fraction"), xytext=(5, 0),
                      textcoords="offset points", va="top", fontsize=13,
                      bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})  # fmt: skip


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
    numbers = [0.0 if not np.isfinite(v) else float(v) for v in values.values()]
    drawn = axis.barh([spaced(label) for label in values], numbers, color=colours or LINES[0], height=0.7)
    texts = _bar_texts(values.values(), percent)
    axis.bar_label(drawn, texts, padding=5, fontsize=14)
    axis.invert_yaxis()
    axis.set(xlabel=xlabel, xlim=(0, 1.15 * max([*numbers, 1e-9])))
    if percent:
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=" %"))
    elif all(v == int(v) for v in numbers):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    figure.alt = f"Bars of {xlabel}: {_pairs(values, texts)}."
    return figure


def _bar_texts(values: Iterable[float], percent: bool) -> list[str]:
    return [as_percent(v) if percent else f"{v:g}" for v in values]


def _pairs(labels: Iterable[str], texts: Sequence[str]) -> str:
    return ", ".join(f"{spaced(label)} {text}" for label, text in zip(labels, texts, strict=True))


def miou_bars(scores: Mapping[str, Mapping[str, Any]], what: str, data: str) -> CaptionedFigure:
    """Draw the mIoU of several results.

    Args:
        scores: label -> "miou", a fraction, and more.
        what: what the bars measure.
        data: what it was measured on, `Experiment.describe`.
    """
    return bars({label: score["miou"] for label, score in scores.items()}, what).say(f"{what} on {data}.")


@styled
def grouped_bars(table: Mapping[str, Mapping[str, float]], xlabel: str, percent: bool = True) -> CaptionedFigure:
    """Compare series entry by entry: `table[series][label]` is one bar, with its number at the end."""
    labels = list(dict.fromkeys(label for row in table.values() for label in row))
    thick = 0.82 / len(table)
    figure, axes = new_figure(1, 1, 1.7 + 0.34 * len(labels) * max(len(table), 1.3))
    axis, described = axes[0, 0], []
    for position, (name, row) in enumerate(table.items()):
        numbers = [float(row.get(label, math.nan)) for label in labels]
        places = np.arange(len(labels)) + (position - (len(table) - 1) / 2) * thick
        colour, texts = LINES[position % len(LINES)], _bar_texts(numbers, percent)
        drawn = axis.barh(places, np.nan_to_num(numbers), thick, color=colour, label=name)
        axis.bar_label(drawn, texts, padding=4, fontsize=12)
        described.append(f"{name}: {_pairs(labels, texts)}")
    axis.set_yticks(np.arange(len(labels)), [spaced(label) for label in labels])
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel(xlabel)
    if percent:
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=" %"))
    figure.legend(loc="outside lower center", ncols=min(4, len(table)))
    figure.alt = f"Bars of {xlabel}. {'; '.join(described)}."
    return figure


@styled
def matrix(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], label: str) -> CaptionedFigure:
    """Draw a table of counts as coloured cells, each with its number.

    Args:
        values: (len(rows), len(columns)) numbers, shown without decimals.
        rows, columns: labels.
        label: what a cell counts.
    """
    values = np.asarray(values, dtype=np.float64)
    figure, axes = new_figure(1, 1, 2.4 + 0.5 * len(rows))
    axis = axes[0, 0]
    drawn = axis.imshow(values, cmap="Blues", aspect="auto", vmin=0)
    axis.set_xticks(range(len(columns)), [spaced(c) for c in columns], rotation=35, ha="right")
    axis.set_yticks(range(len(rows)), [spaced(r) for r in rows])
    for (row, column), value in np.ndenumerate(values):
        colour = text_colour(drawn.to_rgba(value))
        axis.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=13)
    figure.colorbar(drawn, label=label, fraction=0.04)
    size = f"{len(rows)} by {len(columns)}"
    figure.alt = f"A table of {size} numbers, {label}, from {values.min():.0f} to {values.max():.0f}."
    return figure
