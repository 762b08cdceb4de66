"""Sliders, menus, pictures and words of the explorer as ipywidgets, all of one look."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

import ipywidgets as widgets

from pmm.explore import canvas
from pmm.explore.view import View

LABEL = {"description_width": "150px"}
PICTURE_SIZES = {1: (1204, 285), 2: (1204, 544)}
"""Width and height of a picture of one or two rows of panels."""
WIDE = widgets.Layout(width="420px", max_width="100%")


def clean(value: float) -> float:
    """Round what a slider says: a step of 0.05 must not give 0.15000000000000002."""
    return float(f"{value:.4g}")


def words_html(view: View) -> str:
    """Write a view's lines as a list, with its alternative text for who cannot see the picture."""
    # ipywidgets' Image has no alt, and its script fails on a tooltip; so the alternative text stands beside it, unseen
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in view.text if line)
    alt = f'<span class="pmm-alt" role="img" aria-label="{html.escape(view.alt)}"></span>'
    return alt + f'<ul class="pmm-words" role="status" aria-live="polite">{lines}</ul>'


def picture_widget(rows: int = 2) -> widgets.Image:
    """Return the widget of a picture of one or two rows, with a note in it until the first one is drawn."""
    # until the first picture is drawn: without one the browser shows the sign of a broken image
    empty = canvas.to_jpeg(canvas.message("drawn as soon as the sliders rest", PICTURE_SIZES[rows]))
    image = widgets.Image(
        value=empty, format="jpeg", layout=widgets.Layout(width="100%", max_width="1204px", height="auto")
    )
    image.add_class("pmm-picture").add_class(f"pmm-rows-{rows}")
    return image


def row(controls: Iterable[widgets.Widget]) -> widgets.Widget:
    """Put widgets beside each other, in more lines where the page is narrow."""
    return widgets.Box(list(controls), layout=widgets.Layout(flex_flow="row wrap", align_items="center"))


def slider(name: str, value: float, low: float, high: float, step: float) -> widgets.Widget:
    """Return a slider that reaches the value, whole numbers or two digits."""
    kind = widgets.IntSlider if isinstance(step, int) and isinstance(value, int) else widgets.FloatSlider
    limits = {"min": min(low, value), "max": max(high, value), "step": step}
    options = {} if kind is widgets.IntSlider else {"readout_format": ".2f"}
    return kind(value=value, description=name, style=LABEL, layout=WIDE, **limits, **options)


def log_slider(name: str, value: float, low: float, high: float) -> widgets.Widget:
    """Return a slider over powers of two, from 2 ** low to 2 ** high."""
    limits = {"base": 2.0, "min": low, "max": high, "step": 0.125, "readout_format": ".3g"}
    return widgets.FloatLogSlider(value=min(max(value, 2.0**low), 2.0**high), description=name, style=LABEL,
                                  layout=WIDE, **limits)  # fmt: skip


def menu(name: str, options: list, value: Any) -> widgets.Dropdown:
    """Return a menu."""
    return widgets.Dropdown(options=options, value=value, description=name, style=LABEL, layout=WIDE)
