"""Fast pictures from numpy and Pillow: what must follow a slider is not drawn by matplotlib.

A picture is (H, W, 3) uint8. All pictures of a view have one size, whatever the settings, so nothing on the
page moves while a slider does.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pmm.figures.palette import palette, text_colour
from pmm.figures.style import HEAT
from pmm.method import IGNORE_INDEX

CELL = (292, 219)
"""Width and height of a panel, pixels."""
GAP = 12
TITLE = 28
"""Height of a panel's title line."""
LEGEND = 26
"""Height of the line of class colours."""
INK = (25, 25, 25)
FAINT = (120, 120, 120)
RULE = (225, 225, 225)
PAPER = (255, 255, 255)
NO_PICTURE = (244, 244, 244)

Panel = tuple[str, np.ndarray]
"""Title and picture; the picture is fitted into its cell."""


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font at a size in pixels."""
    return ImageFont.load_default(size=size)


@lru_cache(maxsize=1)
def heat_table() -> np.ndarray:
    """Return (256, 3) uint8: the colours of `style.HEAT` from 0 to 1, read from matplotlib once."""
    import matplotlib as mpl

    return np.round(255 * mpl.colormaps[HEAT](np.arange(256))[:, :3]).astype(np.uint8)


def fitted_size(shape: Sequence[int], cell: tuple[int, int] = CELL) -> tuple[int, int]:
    """Return width and height of an image (H, W, ...) that fills a cell as far as its proportions allow."""
    height, width = shape[:2]
    scale = min(cell[0] / width, cell[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrink(array: np.ndarray, cell: tuple[int, int] = CELL, smooth: bool = True) -> np.ndarray:
    """Resize an image or a map to the size at which a cell shows it.

    Args:
        array: (H, W, 3) uint8, (H, W) uint8 or bool, or (H, W) float32.
        cell: width and height to fit into.
        smooth: interpolate; False keeps labels as they are.

    Returns:
        The same kind of array at `fitted_size`.
    """
    size = fitted_size(array.shape, cell)
    if array.dtype == bool:
        return shrink(array.astype(np.uint8), cell, smooth=False).astype(bool)
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    way = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(array).resize(size, way))


def heat(values: np.ndarray, top: float = 1.0, image: np.ndarray | None = None) -> np.ndarray:
    """Colour a map: dark is 0, bright is `top`; over a grey image where one is given.

    Args:
        values: (H, W) float.
        top: value of the brightest colour, > 0.
        image: (H, W, 3) uint8 of the same size.

    Returns:
        (H, W, 3) uint8.
    """
    steps = np.clip(np.nan_to_num(values) * (255 / top) + 0.5, 0, 255).astype(np.uint8)
    colours = _coloured(steps, heat_table())
    if image is None:
        return np.asarray(colours)
    grey = Image.fromarray(image).convert("L").convert("RGB")
    return np.asarray(Image.blend(grey, colours, 0.7))


def _coloured(numbers: np.ndarray, table: np.ndarray) -> Image.Image:
    """Give each number (H, W) uint8 its colour of a table (256, 3) uint8: Pillow's palettes are ten times numpy."""
    picture = Image.fromarray(numbers)
    picture.putpalette(table.tobytes())
    return picture.convert("RGB")


def class_overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.75) -> np.ndarray:
    """Lay class colours over a pale grey copy of an image, so that a class has one colour everywhere; 255 is white.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) uint8 of the same size.
        opacity: share of the class colour.

    Returns:
        (H, W, 3) uint8.
    """
    share = [round(255 * opacity)] * 256
    share[0], share[IGNORE_INDEX] = 0, 255
    part = Image.fromarray(mask).point(share)
    return np.asarray(Image.composite(_coloured(mask, palette()), Image.fromarray(pale(image)), part))


def pale(image: np.ndarray) -> np.ndarray:
    """Return a grey, light copy of an image (H, W, 3), on which colours stand out."""
    grey = np.asarray(Image.fromarray(image).convert("L"))
    return np.repeat((110 + grey // 2)[..., None], 3, axis=2)


def border(region: np.ndarray) -> np.ndarray:
    """Return (H, W) bool: the pixels of a region (H, W) bool that touch its outside."""
    inner = region.copy()
    inner[1:] &= region[:-1]
    inner[:-1] &= region[1:]
    inner[:, 1:] &= region[:, :-1]
    inner[:, :-1] &= region[:, 1:]
    return region & ~inner


def paint(picture: np.ndarray, *marks: tuple[np.ndarray, Sequence[int]]) -> np.ndarray:
    """Return a copy with regions (H, W) bool in a colour; later ones lie on top."""
    painted = picture.copy()
    for region, rgb in marks:
        painted[region] = rgb
    return painted


def in_cell(picture: np.ndarray, cell: tuple[int, int] = CELL) -> np.ndarray:
    """Put a picture into the middle of a cell of fixed size, shrunk or enlarged to fit."""
    if picture.shape[1::-1] == cell:
        return picture
    fitted = picture if picture.shape[1::-1] == fitted_size(picture.shape, cell) else shrink(picture, cell)
    out = _paper(cell[1], cell[0])
    top, left = (cell[1] - fitted.shape[0]) // 2, (cell[0] - fitted.shape[1]) // 2
    out[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    return out


def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, len(PAPER)), PAPER[0], np.uint8)


@lru_cache(maxsize=64)
def message(text: str, cell: tuple[int, int] = CELL) -> np.ndarray:
    """Return a pale cell that says why there is no picture; lines are broken to fit."""
    image = Image.new("RGB", cell, NO_PICTURE)
    draw, line_height = ImageDraw.Draw(image), 22
    lines = wrapped(text, cell[0] - 40, 16)
    top = (cell[1] - line_height * len(lines)) // 2
    for number, line in enumerate(lines):
        draw.text((cell[0] / 2, top + number * line_height), line, FAINT, font(16), anchor="ma")
    return np.asarray(image)


def wrapped(text: str, width: int, size: int) -> list[str]:
    """Break a text into lines of at most `width` pixels at a font size."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font(size).getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line] if line else lines


def shortened(text: str, width: int, size: int) -> str:
    """Cut a text that would be wider than `width` pixels, and mark the cut by three dots."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def grid(rows: Sequence[Sequence[Panel]], legend: Mapping[int, str] | None = None, columns: int = 4) -> np.ndarray:
    """Set titled panels in rows of equal width, with a legend of class colours below.

    Args:
        rows: panels of each row; a row of fewer panels than `columns` gets wider cells.
        legend: mask value -> class name; an empty line is left where there is none.
        columns: number of cells that makes the width.

    Returns:
        (H, W, 3) uint8, of a size that depends only on the number of rows and columns.
    """
    width = columns * CELL[0] + (columns - 1) * GAP
    page = _paper(len(rows) * (TITLE + CELL[1] + GAP) + LEGEND, width)
    for number, panels in enumerate(rows):
        cell = wide_cell(len(panels), columns)
        top = number * (TITLE + CELL[1] + GAP)
        for place, (title, picture) in enumerate(panels):
            across = slice(place * (cell[0] + GAP), place * (cell[0] + GAP) + cell[0])
            page[top : top + TITLE, across] = _title(title, cell[0])
            page[top + TITLE : top + TITLE + CELL[1], across] = in_cell(picture, cell)
    page[-LEGEND:] = _legend(tuple((legend or {}).items()), width)
    return page


@lru_cache(maxsize=64)
def _title(text: str, width: int) -> np.ndarray:
    """Return (TITLE, width, 3) uint8; most titles stay while a slider moves."""
    image = Image.new("RGB", (width, TITLE), PAPER)
    ImageDraw.Draw(image).text((1, 5), shortened(text, width, 17), INK, font(17))
    return np.asarray(image)


def wide_cell(n_panels: int, columns: int = 4) -> tuple[int, int]:
    """Return the cell of a row with `n_panels` panels, as wide as `columns` ordinary cells together."""
    width = columns * CELL[0] + (columns - 1) * GAP
    return (width - (n_panels - 1) * GAP) // n_panels, CELL[1]


@lru_cache(maxsize=16)
def _legend(entries: tuple[tuple[int, str], ...], width: int) -> np.ndarray:
    """Return (LEGEND, width, 3) uint8: a plate of each class's colour with its name."""
    image = Image.new("RGB", (width, LEGEND), PAPER)
    draw, left = ImageDraw.Draw(image), 0
    for value, name in entries:
        needed = 34 + font(17).getlength(name)
        if left + needed > width:
            draw.text((min(left, width - 20), 2), "...", INK, font(17))
            break
        rgb = tuple(int(c) for c in palette()[value])
        draw.rectangle((left, 4, left + 26, 21), rgb, (90, 90, 90))
        draw.text((left + 33, 2), name, INK, font(17))
        left += int(needed) + 26
    return np.asarray(image)


def name_tag(picture: np.ndarray, text: str, rgb: Sequence[int] = (0, 0, 0)) -> np.ndarray:
    """Write a short text on a coloured plate at the lower left of a picture."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    text = shortened(text, picture.shape[1] - 14, 16)
    bottom = picture.shape[0]
    draw.rectangle((0, bottom - 24, 11 + font(16).getlength(text), bottom), tuple(int(c) for c in rgb))
    ink = text_colour(tuple(float(c) / 255 for c in rgb))
    draw.text((5, bottom - 21), text, ink, font(16))
    return np.asarray(image)


def to_jpeg(picture: np.ndarray) -> bytes:
    """Return a picture as JPEG without colour subsampling: a tenth of PNG's time, for what follows the hand."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def to_png(picture: np.ndarray) -> bytes:
    """Return a picture as PNG, for what is kept."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
