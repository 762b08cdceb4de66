"""General panels: rows of images, masks and heat maps, number grids; and, from `charts`, all charts.

Every function that draws returns a figure for `pmm.figures.style.show`; none changes its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pmm.figures.charts import bars, curves, draw_curves, draw_marks, grouped_bars, histogram, matrix
from pmm.figures.palette import UNKNOWN, class_colour, mask_to_rgb, text_colour
from pmm.figures.style import HEAT, WIDTH, new_figure, spaced, styled, wrap

__all__ = [
    "add_legend", "bars", "best_place", "curves", "draw_curves", "draw_image", "draw_marks", "grouped_bars",
    "heat_overlay", "heat_row", "histogram", "image_row", "mask_overlay", "matrix", "number_grids", "spaced",
    "values_of", "write_names",
]  # fmt: skip

Panel = tuple[str, np.ndarray]


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


def mask_overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Lay class colours over the image; background stays, 255 becomes white.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8, 0 background, 255 unknown.
        opacity: share of the class colour, 0..1.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    share = np.where(mask == 0, 0.0, np.where(mask == UNKNOWN, 1.0, opacity))[..., None]
    return np.round((1 - share) * image + share * mask_to_rgb(mask)).astype(np.uint8)


@styled
def image_row(panels: Sequence[Panel], class_names: Sequence[str] = (), columns: int = 4, heading: str = "") -> Figure:
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
    return figure


def draw_image(axis: Axes, image: np.ndarray, class_names: Sequence[str] = ()) -> None:
    """Draw one RGB image, mask or heat map into axes; see `image_row`."""
    image = np.asarray(image)
    if image.ndim == 3:
        axis.imshow(image)
    elif np.issubdtype(image.dtype, np.floating):
        axis.imshow(image, cmap=HEAT, vmin=0, vmax=1)
    else:
        axis.imshow(mask_to_rgb(image))
        if len(class_names):
            write_names(axis, image, class_names)


def write_names(axis: Axes, mask: np.ndarray, class_names: Sequence[str]) -> None:
    """Write each class's name where it covers most of its own region, if the region has room for it."""
    panel_inches = axis.figure.get_figwidth() / axis.get_gridspec().ncols
    letter = 12 * 0.62 / 72 / panel_inches * mask.shape[1]  # its width in pixels of the mask
    free = np.ones(mask.shape, dtype=bool)
    for value in values_of(mask):
        if value in (0, UNKNOWN):
            continue
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


def values_of(mask: np.ndarray) -> list[int]:
    """Return the mask's values in ascending order."""
    return [int(v) for v in np.unique(mask)]


def add_legend(figure: Figure, images: Sequence[np.ndarray], class_names: Sequence[str]) -> None:
    """Put a legend of the classes that occur in the masks below the panels."""
    masks = [np.asarray(i) for i in images]
    masks = [m for m in masks if m.ndim == 2 and not np.issubdtype(m.dtype, np.floating)]
    values = sorted({v for m in masks for v in values_of(m)})
    names = {v: "unknown (255)" if v == UNKNOWN else spaced(class_names[v]) for v in values}
    patches = [Patch(facecolor=class_colour(v), edgecolor="0.3", label=name) for v, name in names.items()]
    if patches:
        columns = min(6, len(patches))
        figure.legend(handles=patches, loc="outside lower center", ncols=columns, handlelength=1.2)


@styled
def heat_row(panels: Sequence[Panel], columns: int = 4, label: str = "activation") -> Figure:
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
def number_grids(grids: Sequence[Panel], digits: int = 2, heading: str = "") -> Figure:
    """Draw small arrays side by side as cells with their numbers; NaN cells stay empty.

    Args:
        grids: pairs of title and (h, w) numbers: uint8 is a mask in class colours, all else a heat map.
        digits: decimals.
        heading: title over all.
    """
    titles = [wrap(title, min(WIDTH / len(grids), 3.2) - 0.2) for title, _ in grids]
    lines = max(title.count("\n") + 1 for title in titles)
    shape = max(np.shape(g)[0] / np.shape(g)[1] for _, g in grids)
    size = min(WIDTH / len(grids), 3.2)
    height = 0.92 * shape * size + 0.3 * lines + 0.4 * bool(heading)
    figure, axes = new_figure(1, len(grids), height, width=size * len(grids))
    for axis, title, (_, grid) in zip(axes.flat, titles, grids, strict=True):
        _number_grid(axis, np.asarray(grid), digits)
        axis.set_title(title)
    if heading:
        figure.suptitle(heading)
    return figure


def _number_grid(axis: Axes, grid: np.ndarray, digits: int) -> None:
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


def _cell_colours(grid: np.ndarray) -> np.ndarray:
    """Return (h, w, 3) colours in 0..1; heat spans 0..1 or, where the numbers go beyond, their range."""
    if grid.dtype == np.uint8:
        return mask_to_rgb(grid) / 255
    known = grid[np.isfinite(grid)]
    scale = mpl.colors.Normalize(min(0.0, known.min(initial=0)), max(1.0, known.max(initial=0)))
    colours = mpl.colormaps[HEAT](scale(np.nan_to_num(grid)))[..., :3]
    colours[~np.isfinite(grid)] = 1
    return colours
