"""Everything the explorer draws: pictures and charts from numpy and Pillow, since matplotlib cannot follow a slider.

A picture is (H, W, 3) uint8. All pictures of a view have one size, whatever the settings, so nothing on the
page moves while a slider does.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pmm.figures.style import HEAT, LINES, figure_html, keep, text_colour
from pmm.method import IGNORE_INDEX
from pmm.run.folder import RunFolder

CELL = (232, 174)  # width and height of a cell, pixels; five of them make the width of a picture
GAP, TITLE, LEGEND = 10, 26, 24  # pixels between cells; height of a cell's title, and of the line of class colours
WIDTH = 5 * CELL[0] + 4 * GAP
WHOLE, HALF, QUARTER = (((WIDTH + GAP) // n - GAP, CELL[1]) for n in (1, 2, 4))  # cells of a row of fewer
FINE = 2  # lines of charts are drawn so many times larger and then reduced, which smooths them
TEXT = 16  # font size in charts, pixels

RGB = tuple[int, ...]
INK, FAINT, RULE, PAPER, PLATE = (25, 25, 25), (120, 120, 120), (225, 225, 225), (255, 255, 255), (244, 244, 244)
RIM = (90, 90, 90)
BLUE, VERMILION, GREEN, _, GREY = (tuple(bytes.fromhex(colour.lstrip("#"))) for colour in LINES[:5])

Cell = tuple[str, np.ndarray]  # title and picture; the picture is fitted into its cell


@dataclass(frozen=True, eq=False)
class View:
    """What a view hands over for one setting."""

    picture: np.ndarray  # (H, W, 3) uint8; the size is the same for all settings of a view
    text: tuple[str, ...]  # lines that stand below the picture
    alt: str  # what a reader who cannot see the picture needs to know
    numbers: dict[str, Any] = field(default_factory=dict)  # those behind the text
    warning: str = ""  # what went out of range and what was done about it; empty where nothing did
    subject: str = ""  # what of the scene it is about, such as a class: part of the name of a saved picture
    mask: np.ndarray | None = None  # (H, W) uint8 pseudo-mask that can be downloaded; None where the view makes none
    file_note: str = ""  # what follows its name in the first line of its parameter file


def show_view(view: View, caption: str, name: str | None = None, run: RunFolder | Path | None = None) -> None:
    """Display a view as a still figure and keep it like the notebooks' other figures, see `pmm.figures.style.show`."""
    from IPython.display import display

    png = encoded(view.picture, "PNG")
    if name is not None and run is not None:
        keep(png, caption, view.alt, name, Path(getattr(run, "path", run)))
    bundle = {"text/html": figure_html(png, caption, view.alt), "text/plain": f"[figure] {view.alt}"}
    display(bundle, raw=True, metadata={"alt": view.alt})


def encoded(picture: np.ndarray, kind: str, palette: np.ndarray | None = None) -> bytes:
    """Return a picture as "PNG", for what is kept, or as "JPEG", in a tenth of the time, for what follows the hand.

    A mask (H, W) uint8 becomes an index PNG with the (256, 3) uint8 colours of `palette`.
    """
    buffer, image = io.BytesIO(), Image.fromarray(picture)
    if palette is not None:
        image.putpalette(palette.tobytes())
    image.save(buffer, kind, **({"quality": 92, "subsampling": 0} if kind == "JPEG" else {}))
    return buffer.getvalue()


def shrink(array: np.ndarray, cell: tuple[int, int] = CELL, smooth: bool = True) -> np.ndarray:
    """Resize an image (H, W, 3) uint8 or a map (H, W) uint8, bool or float to fill a cell as far as its shape allows.

    Args:
        array: image or map.
        cell: width and height to fit into.
        smooth: interpolate; False keeps labels as they are, as bool always is.

    Returns:
        (h, w) or (h, w, 3) of the same type, float32 for any float.
    """
    if array.dtype == bool:
        return shrink(array.astype(np.uint8), cell, smooth=False).astype(bool)
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    scale = min(cell[0] / array.shape[1], cell[1] / array.shape[0])
    size = [max(1, round(side * scale)) for side in array.shape[1::-1]]
    way = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(array).resize(size, way))


def heat(values: np.ndarray, top: float = 1.0, image: np.ndarray | None = None) -> np.ndarray:
    """Colour a map (H, W) float: dark is 0, bright is `top` > 0; over a grey image (H, W, 3) where one is given."""
    steps = np.clip(np.nan_to_num(values) * (255 / top) + 0.5, 0, 255).astype(np.uint8)
    colours = _coloured(steps, _heat_table())
    return np.asarray(colours if image is None else Image.blend(_grey(image), colours, 0.7))


@lru_cache(maxsize=1)
def _heat_table() -> np.ndarray:
    import matplotlib as mpl

    return np.round(255 * mpl.colormaps[HEAT](np.arange(256))[:, :3]).astype(np.uint8)


def _coloured(numbers: np.ndarray, table: np.ndarray) -> Image.Image:
    """Give each number (H, W) uint8 its colour of a table (256, 3) uint8; Pillow takes a tenth of numpy's time."""
    picture = Image.fromarray(numbers)
    picture.putpalette(table.tobytes())
    return picture.convert("RGB")


def _grey(image: np.ndarray, levels: Sequence[int] = range(256)) -> Image.Image:
    return Image.fromarray(image).convert("L").point(levels).convert("RGB")


def pale(image: np.ndarray) -> np.ndarray:
    """Return a grey, light copy of an image (H, W, 3), on which colours stand out."""
    return np.asarray(_grey(image, [110 + grey // 2 for grey in range(256)]))


def class_overlay(image: np.ndarray, mask: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Lay the (256, 3) colours of a mask (H, W) uint8 over a pale image (H, W, 3) uint8; IGNORE_INDEX covers it."""
    share = [round(255 * 0.75)] * 256
    share[0], share[IGNORE_INDEX] = 0, 255
    part = Image.fromarray(mask).point(share)
    return np.asarray(Image.composite(_coloured(mask, colours), Image.fromarray(pale(image)), part))


def border(region: np.ndarray) -> np.ndarray:
    """Return (H, W) bool: the pixels of a region (H, W) bool that touch its outside."""
    padded = np.pad(region, 1, mode="edge")
    return region & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])


def paint(picture: np.ndarray, *marks: tuple[np.ndarray, RGB]) -> np.ndarray:
    """Return a copy with regions (H, W) bool in a colour; later ones lie on top."""
    painted = picture.copy()
    for region, rgb in marks:
        painted[region] = rgb
    return painted


def in_cell(picture: np.ndarray, cell: tuple[int, int] = CELL) -> np.ndarray:
    """Put a picture into the middle of a cell of fixed size, shrunk or enlarged to fit."""
    if picture.shape[1::-1] == cell:
        return picture
    fitted, out = shrink(picture, cell), np.full((cell[1], cell[0], 3), PAPER, np.uint8)
    top, left = (cell[1] - fitted.shape[0]) // 2, (cell[0] - fitted.shape[1]) // 2
    out[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    return out


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


@lru_cache(maxsize=64)
def message(text: str, cell: tuple[int, int] = CELL) -> np.ndarray:
    """Return a pale cell that says why there is no picture; lines are broken to fit."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _font(16).getlength(longer) > cell[0] - 40:
            lines.append(word)
        else:
            lines[-1] = longer
    image = Image.new("RGB", cell, PLATE)
    top = (cell[1] - 22 * len(lines)) // 2
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((cell[0] / 2, top + number * 22), line, FAINT, _font(16), anchor="ma")
    return np.asarray(image)


def shortened(text: str, width: int, size: int) -> str:
    """Cut a text that would be wider than `width` pixels at a font size, and mark the cut by three dots."""
    if _font(size).getlength(text) <= width:
        return text
    while text and _font(size).getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def name_tag(picture: np.ndarray, text: str, rgb: RGB) -> np.ndarray:
    """Write a short text on a coloured plate at the lower left of a picture."""
    image = Image.fromarray(picture)
    draw, bottom = ImageDraw.Draw(image), picture.shape[0]
    text = shortened(text, picture.shape[1] - 14, 16)
    draw.rectangle((0, bottom - 24, 11 + _font(16).getlength(text), bottom), rgb)
    draw.text((5, bottom - 21), text, text_colour(np.divide(rgb, 255)), _font(16))
    return np.asarray(image)


def page_height(rows: int) -> int:
    """Return the height in pixels of a picture with so many rows of cells; its width is WIDTH."""
    return rows * (TITLE + CELL[1] + GAP) + LEGEND


def big_cell(columns: int, rows: int = 2) -> tuple[int, int]:
    """Return width and height of a cell that is as high as so many rows, title included."""
    return (WIDTH + GAP) // columns - GAP, rows * (TITLE + CELL[1] + GAP) - TITLE - GAP


def grid(rows: Sequence[Sequence[Cell]], legend: Mapping[str, RGB] | None = None, big: bool = False) -> np.ndarray:
    """Set titled pictures in rows of equal width, with a legend of class colours below.

    Args:
        rows: cells of each row; a row of fewer than five gets wider cells.
        legend: class name -> colour; an empty line is left where there is none.
        big: each row is as high as two: its cells are those of `big_cell`.

    Returns:
        (H, W, 3) uint8, of a size that depends only on the number of rows.
    """
    page = np.full((page_height(len(rows) * (1 + big)), WIDTH, 3), PAPER, np.uint8)
    for number, cells in enumerate(rows):
        cell = big_cell(len(cells), 1 + big)
        top = number * (TITLE + cell[1] + GAP)
        for left, (title, picture) in zip(range(0, WIDTH, cell[0] + GAP), cells, strict=False):
            page[top : top + TITLE, left : left + cell[0]] = _title(title, cell[0])
            page[top + TITLE : top + TITLE + cell[1], left : left + cell[0]] = in_cell(picture, cell)
    page[-LEGEND:] = _legend(tuple((legend or {}).items()))
    return page


@lru_cache(maxsize=64)
def _title(text: str, width: int) -> np.ndarray:
    """Return (TITLE, width, 3) uint8; most titles stay while a slider moves."""
    image = Image.new("RGB", (width, TITLE), PAPER)
    ImageDraw.Draw(image).text((1, 5), shortened(text, width, 17), INK, _font(17))
    return np.asarray(image)


@lru_cache(maxsize=16)
def _legend(entries: tuple[tuple[str, RGB], ...]) -> np.ndarray:
    """Return (LEGEND, WIDTH, 3) uint8: a plate of each class's colour with its name."""
    image = Image.new("RGB", (WIDTH, LEGEND), PAPER)
    draw, left = ImageDraw.Draw(image), 0
    for name, colour in entries:
        needed = 34 + _font(17).getlength(name)
        if left + needed > WIDTH:
            draw.text((min(left, WIDTH - 20), 2), "...", INK, _font(17))
            break
        draw.rectangle((left, 4, left + 26, 21), colour, RIM)
        draw.text((left + 33, 2), name, INK, _font(17))
        left += int(needed) + 26
    return np.asarray(image)


class Chart:
    """A plot area with axes, on which curves, bars and marks are drawn; each of these returns the chart.

    Args:
        x, y: lowest and highest value.
        xlabel, ylabel: names; that of y stands above the axis.
        xticks, yticks: values with a number; None: even steps.
        log: x in logarithmic steps.
        percent: y is written in per cent.
        size: width and height in pixels.
    """

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], xlabel: str = "", ylabel: str = "",
        xticks: Sequence[float] | None = None, yticks: Sequence[float] | None = None,
        log: bool = False, percent: bool = False, size: tuple[int, int] = CELL,
    ):  # fmt: skip
        self.x, self.y, self.log, self.size = x, y, log, size
        self.left, self.right, self.top, self.bottom = 48, size[0] - 14, 26, size[1] - 44
        self.image = Image.new("RGB", (size[0] * FINE, size[1] * FINE), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.texts: list[tuple[tuple[float, float], str, RGB, str]] = []
        for value in np.linspace(*y, 5) if yticks is None else yticks:
            _, row = self.place(x[0], value)
            self._line((self.left, row, self.right, row), RULE)
            self.text(self.left - 6, row, f"{100 * value:.0f} %" if percent else f"{value:.3g}", FAINT, "rm")
        for value in np.linspace(*x, 5) if xticks is None else xticks:
            column, _ = self.place(value, y[0])
            self._line((column, self.bottom, column, self.bottom + 4), FAINT)
            self.text(column, self.bottom + 5, f"{value:.3g}", FAINT, "ma")
        self._line((self.left, self.bottom, self.right, self.bottom), FAINT)
        self.text((self.left + self.right) / 2, size[1] - 3, xlabel, INK, "md").text(4, 3, ylabel)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a point; points outside the axes go to their border."""
        at, low, high = (math.log(max(v, 1e-9)) if self.log else v for v in (x, *self.x))
        across, up = (at - low) / (high - low), (y - self.y[0]) / (self.y[1] - self.y[0])
        across, up = (min(max(v, 0.0), 1.0) for v in (across, up))
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def _fine(self, x: float, y: float) -> tuple[float, ...]:
        return tuple(FINE * pixel for pixel in self.place(x, y))

    def _line(self, ends: Sequence[float], colour: RGB, width: int = 1) -> None:
        self.draw.line([FINE * pixel for pixel in ends], colour, FINE * width)

    def text(self, column: float, row: float, text: str, colour: RGB = INK, anchor: str = "la") -> Chart:
        """Write a text at a pixel; Pillow's anchor says which of its corners lies there."""
        self.texts.append(((column, row), text, colour, anchor))
        return self

    def curve(self, x: Sequence[float], y: Sequence[float], colour: RGB = BLUE, dots: bool = False) -> Chart:
        """Draw a line, with a dot at each point where told; NaN breaks it."""
        points = list(zip(x, y, strict=True))
        for first, second in pairwise(points):
            if math.isfinite(first[1] + second[1]):
                self._line((*self.place(*first), *self.place(*second)), colour, 3)
        for point in points if dots else ():
            if math.isfinite(point[1]):
                self.dot(*point, colour, 3.5)
        return self

    def dot(self, x: float, y: float, colour: RGB, radius: float = 6.5) -> Chart:
        """Draw one dot with a white rim."""
        column, row = self._fine(x, y)
        for reach, ink in (((radius + 1.5) * FINE, PAPER), (radius * FINE, colour)):
            self.draw.ellipse((column - reach, row - reach, column + reach, row + reach), ink)
        return self

    def mark(self, x: float, text: str = "", colour: RGB = INK, line: int = 0) -> Chart:
        """Draw a dashed vertical line with its name at the top, on text line 0, 1, ..."""
        column, row = self.place(x, self.y[1])
        for start in range(int(row), self.bottom, 9):
            self._line((column, start, column, min(start + 5, self.bottom)), colour, 2)
        anchor, shift = ("ra", -5) if column + 6 + _font(TEXT).getlength(text) > self.size[0] else ("la", 5)
        return self.text(column + shift, row + 2 + 18 * line, text, colour, anchor)

    def bars(self, edges: np.ndarray, heights: np.ndarray, colours: Sequence[RGB]) -> Chart:
        """Draw histogram bars of the given heights between edges (N + 1,)."""
        for first, last, height, colour in zip(edges[:-1], edges[1:], heights, colours, strict=True):
            left, top = self._fine(first, height)
            right, bottom = self._fine(last, self.y[0])
            if bottom - top >= 1:
                self.draw.rectangle((left + 1, top, max(right - 1, left + 1), bottom), colour)
        return self

    def span(self, first: float, last: float, colour: RGB) -> Chart:
        """Shade a range of x behind all that comes later."""
        self.draw.rectangle((*self._fine(first, self.y[1]), *self._fine(last, self.y[0])), colour)
        return self

    def key(self, *entries: tuple[str, RGB]) -> Chart:
        """Write what the colours mean above the plot, from the right."""
        right = float(self.size[0] - 6)
        for text, colour in reversed(entries):
            self.text(right, 3, text, colour, "ra")
            right -= _font(TEXT).getlength(text) + 18
        return self

    def picture(self) -> np.ndarray:
        """Return the chart as (height, width, 3) uint8."""
        image = self.image.reduce(FINE)
        for place, text, colour, anchor in self.texts:
            ImageDraw.Draw(image).text(place, text, colour, _font(TEXT), anchor=anchor)
        return np.asarray(image)


def share_bars(shares: Mapping[str, float], colours: Sequence[RGB], notes: Sequence[str]) -> np.ndarray:
    """Draw a horizontal bar a value in 0..1 with its name, its number and a short note, as a cell; none for NaN."""
    image = Image.new("RGB", CELL, PAPER)
    draw, full = ImageDraw.Draw(image), CELL[0] - 16
    step = min(44, CELL[1] // max(len(shares), 1))
    for number, ((name, value), colour, note) in enumerate(zip(shares.items(), colours, notes, strict=True)):
        top, known = number * step, math.isfinite(value)
        label = f"{f'{100 * value:.1f} %' if known else 'not in the scene'}  {note}".strip()
        room = full - _font(TEXT).getlength(label) - 12
        draw.text((2, top + 2), shortened(name, int(room), TEXT), INK, _font(TEXT))
        draw.text((full, top + 2), label, INK, _font(TEXT), anchor="ra")
        low, high = top + 22, top + min(step - 4, 36)
        if high > low:
            draw.rectangle((2, low, full, high), RULE)
            if known and value > 0:
                draw.rectangle((2, low, 2 + value * (full - 2), high), colour, RIM)
    return np.asarray(image)
