"""What every view hands over: a picture, its words, its numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np


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
