"""Charts from Pillow alone, for what follows a slider: curves, histogram, bars, a gauge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from pmm.explore.canvas import CELL, FAINT, INK, PAPER, RULE, font, shortened
from pmm.figures.palette import LINES

FINE = 2
"""Lines are drawn so many times larger and then reduced, which smooths them."""
TEXT = 15


def rgb(colour: str) -> tuple[int, int, int]:
    """Return a colour such as "#0072B2" as three numbers 0..255."""
    red, green, blue = bytes.fromhex(colour.lstrip("#"))
    return red, green, blue


BLUE, VERMILION, GREEN, PINK, GREY = (rgb(colour) for colour in LINES[:5])


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    x: Sequence[float]
    y: Sequence[float]
    colour: tuple[int, int, int] = BLUE
    label: str = ""
    dashed: bool = False


@dataclass(frozen=True)
class Axes:
    """Range, ticks and names of a chart's axes.

    Args:
        x, y: lowest and highest value.
        xlabel, ylabel: names; that of y stands above the axis.
        xticks, yticks: values with a number; even steps unless told.
        log: x in logarithmic steps.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    xlabel: str = ""
    ylabel: str = ""
    xticks: Sequence[float] = ()
    yticks: Sequence[float] = ()
    log: bool = False
    percent: bool = False


class Chart:
    """A plot area with axes, on which curves, bars and marks are drawn.

    Args:
        axes: ranges and names.
        size: width and height in pixels.
    """

    def __init__(self, axes: Axes, size: tuple[int, int] = CELL):
        self.axes, self.size = axes, size
        self.left, self.right, self.top, self.bottom = 48, size[0] - 14, 26, size[1] - 44
        self.image = Image.new("RGB", (size[0] * FINE, size[1] * FINE), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.texts: list[tuple[tuple[float, float], str, tuple[int, int, int], str]] = []
        self._frame()

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a point; points outside the axes go to their border."""
        a = self.axes
        position = [math.log(max(v, 1e-9)) if a.log else v for v in (x, *a.x)]
        across = (position[0] - position[1]) / (position[2] - position[1])
        up = (y - a.y[0]) / (a.y[1] - a.y[0])
        across, up = (min(max(v, 0.0), 1.0) for v in (across, up))
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def curve(self, curve: Curve) -> Chart:
        """Draw a line; NaN breaks it."""
        points = [self._fine(x, y) if math.isfinite(y) else None for x, y in zip(curve.x, curve.y, strict=True)]
        for number, (first, second) in enumerate(pairwise(points)):
            if first and second and not (curve.dashed and number % 2):
                self.draw.line([first, second], curve.colour, 3 * FINE, joint="curve")
        return self

    def dots(self, curve: Curve) -> Chart:
        """Draw a dot at each point of a curve."""
        for x, y in zip(curve.x, curve.y, strict=True):
            if math.isfinite(y):
                self.dot(x, y, curve.colour, 3.5)
        return self

    def dot(self, x: float, y: float, colour: Sequence[int], radius: float = 6.5) -> Chart:
        """Draw one dot with a white rim."""
        column, row = self._fine(x, y)
        for reach, ink in (((radius + 1.5) * FINE, PAPER), (radius * FINE, tuple(colour))):
            self.draw.ellipse((column - reach, row - reach, column + reach, row + reach), ink)
        return self

    def mark(self, x: float, text: str = "", colour: Sequence[int] = INK, line: int = 0) -> Chart:
        """Draw a dashed vertical line with its name at the top, on text line 0, 1, ..."""
        column, row = self.place(x, self.axes.y[1])
        for start in range(int(row), int(self.bottom), 9):
            ends = (column * FINE, start * FINE, column * FINE, min(start + 5, self.bottom) * FINE)
            self.draw.line(ends, tuple(colour), 2 * FINE)
        if text:
            room = font(TEXT).getlength(text)
            anchor, shift = ("ra", -5) if column + 6 + room > self.size[0] else ("la", 5)
            self.texts.append(((column + shift, row + 2 + 18 * line), text, tuple(colour), anchor))
        return self

    def bars(self, edges: np.ndarray, heights: np.ndarray, colours: Sequence[Sequence[int]]) -> Chart:
        """Draw histogram bars of the given heights between edges (N + 1,)."""
        for first, last, height, colour in zip(edges[:-1], edges[1:], heights, colours, strict=True):
            left, top = self._fine(first, height)
            right, bottom = self._fine(last, self.axes.y[0])
            if bottom - top >= 1:
                self.draw.rectangle((left + 1, top, max(right - 1, left + 1), bottom), tuple(colour))
        return self

    def span(self, first: float, last: float, colour: Sequence[int]) -> Chart:
        """Shade a range of x behind all that comes later."""
        left, top = self._fine(first, self.axes.y[1])
        right, bottom = self._fine(last, self.axes.y[0])
        self.draw.rectangle((left, top, right, bottom), tuple(colour))
        return self

    def note(self, text: str, colour: Sequence[int] = INK, line: int = 0, right: bool = True) -> Chart:
        """Write a text inside the plot, at the right or the left, on text line 0, 1, ..."""
        column = self.right - 4 if right else self.left + 6
        self.texts.append(((column, self.top + 2 + 18 * line), text, tuple(colour), "ra" if right else "la"))
        return self

    def key(self, *entries: tuple[str, Sequence[int]]) -> Chart:
        """Write what the colours mean above the plot, from the right."""
        right = float(self.size[0] - 6)
        for text, colour in reversed(entries):
            self.texts.append(((right, 3), text, tuple(colour), "ra"))
            right -= font(TEXT).getlength(text) + 18
        return self

    def picture(self) -> np.ndarray:
        """Return the chart as (height, width, 3) uint8."""
        image = self.image.reduce(FINE)
        draw = ImageDraw.Draw(image)
        for place, text, colour, anchor in self.texts:
            draw.text(place, text, colour, font(TEXT), anchor=anchor)
        return np.asarray(image)

    def _fine(self, x: float, y: float) -> tuple[float, float]:
        column, row = self.place(x, y)
        return column * FINE, row * FINE

    def _frame(self) -> None:
        a = self.axes
        for value in a.yticks if len(a.yticks) else np.linspace(*a.y, 5):
            _, row = self.place(a.x[0], value)
            self.draw.line((self.left * FINE, row * FINE, self.right * FINE, row * FINE), RULE, FINE)
            label = f"{100 * value:.0f} %" if a.percent else f"{value:.3g}"
            self.texts.append(((self.left - 6, row), label, FAINT, "rm"))
        for value in a.xticks if len(a.xticks) else np.linspace(*a.x, 5):
            column, _ = self.place(value, a.y[0])
            self.draw.line((column * FINE, self.bottom * FINE, column * FINE, (self.bottom + 4) * FINE), FAINT, FINE)
            self.texts.append(((column, self.bottom + 5), f"{value:.3g}", FAINT, "ma"))
        self.draw.line((self.left * FINE, self.bottom * FINE, self.right * FINE, self.bottom * FINE), FAINT, FINE)
        middle = (self.left + self.right) / 2
        self.texts.append(((middle, self.size[1] - 3), a.xlabel, INK, "md"))
        self.texts.append(((4, 3), a.ylabel, INK, "la"))


def share_bars(
    shares: Mapping[str, float], colours: Sequence[Sequence[int]], notes: Sequence[str], size: tuple[int, int] = CELL
) -> np.ndarray:
    """Draw named horizontal bars of values in 0..1, each with its number and a short note.

    Args:
        shares: name -> value; NaN draws no bar.
        colours: one a bar.
        notes: one a bar, such as the difference to an earlier value; "" for none.
        size: width and height in pixels.

    Returns:
        (height, width, 3) uint8.
    """
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    step = min(44, size[1] // max(len(shares), 1))
    full = size[0] - 16
    for number, ((name, value), colour, note) in enumerate(zip(shares.items(), colours, notes, strict=True)):
        top = number * step
        known = math.isfinite(value)
        text = f"{100 * value:.1f} %" if known else "not in the scene"
        label = f"{text}  {note}".strip()
        room = full - font(TEXT).getlength(label) - 12
        draw.text((2, top + 2), shortened(name, int(room), TEXT), INK, font(TEXT))
        draw.text((full, top + 2), label, INK, font(TEXT), anchor="ra")
        low, high = top + 22, top + min(step - 4, 36)
        if high > low:
            draw.rectangle((2, low, full, high), RULE)
            if known and value > 0:
                draw.rectangle((2, low, 2 + value * (full - 2), high), tuple(int(c) for c in colour), (90, 90, 90))
    return np.asarray(image)
