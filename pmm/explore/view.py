"""What every view hands over: a picture, its words, its numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pmm.explore.canvas import to_png
from pmm.figures.style import figure_html, keep
from pmm.run.folder import RunFolder


@dataclass(frozen=True, eq=False)
class View:
    """The outcome of one setting."""

    picture: np.ndarray
    """(H, W, 3) uint8; the size is the same for all settings of a view."""
    text: tuple[str, ...]
    """Lines that stand below the picture."""
    alt: str
    """What a reader who cannot see the picture needs to know."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """The numbers behind the text."""
    warning: str = ""
    """What went out of range and what was done about it; empty where nothing did."""


@contextmanager
def unwarned() -> Iterator[None]:
    """Silence the warning of a floored exponent inside the block: the view says it in its own words."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"pmm\.")
        warnings.filterwarnings("ignore", message="s: ")
        yield


def signed_points(now: float, before: float | None) -> str:
    """Write a difference of two shares in percentage points, such as "+1.2"; "" where one is not known."""
    if before is None or not np.isfinite(now) or not np.isfinite(before):
        return ""
    return f"{100 * (now - before):+.1f}"


def show_view(view: View, caption: str, name: str | None = None, run: RunFolder | Path | None = None) -> None:
    """Display a view as a still figure with its alternative text, and keep it like the notebooks' other figures.

    Args:
        view: what a view function returned.
        caption: one sentence under the figure.
        name: file name without suffix, beginning with the notebook's number.
        run: run folder; with name, it gets figures/<name>.png.

    Raises:
        InputError: name does not begin with two digits and `_`.
    """
    from IPython.display import display

    png = to_png(view.picture)
    if name is not None and run is not None:
        keep(png, caption, view.alt, name, Path(getattr(run, "path", run)))
    bundle = {"text/html": figure_html(png, caption, view.alt), "text/plain": f"[figure] {view.alt}"}
    display(bundle, raw=True, metadata={"alt": view.alt})
