"""Figures of notebook 03, and the measure behind one of them: how much of the objects a CAM covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from pmm.figures.panels import Panel, draw_curves, draw_marks, heat_overlay
from pmm.figures.style import new_figure, styled
from pmm.method.smoothing import raise_cam, smoothing_exponent

GAIN = 4


@styled
def power_curves(variations: Mapping[str, float], s: float) -> Figure:
    """Draw x ** (1 - s * c_v) over x in 0..1, one curve for each labelled c_v, and the diagonal."""
    x = np.linspace(0, 1, 201, dtype=np.float32)
    series = {"not smoothed": (x, x)}
    for label, c_v in variations.items():
        exponent = smoothing_exponent([c_v], s)
        series[f"{label}: c_v = {c_v:.2f}"] = (x, raise_cam(x[None, None], exponent, t=0.0)[0, 0])
    figure, axes = new_figure(1, 1, 5.0)
    draw_curves(axes[0, 0], series, "activation before, x", "activation after", ylim=(0, 1.02))
    axes[0, 0].set(xlim=(0, 1), aspect="equal")
    return figure


def before_after(image: np.ndarray, name: str, before: np.ndarray, after: np.ndarray) -> list[Panel]:
    """Return four panels for `heat_row`: the image, one class's CAM before and after, and the gain.

    Args:
        image: (H, W, 3) uint8 RGB.
        name: the class.
        before, after: (H, W) float in [0, 1]; the gain is shown GAIN times brighter, since it is small.
    """
    gain = np.clip(GAIN * (after - before), 0, 1).astype(np.float32)
    maps = {f"{name}: before": before, f"{name}: after": after}
    return [
        ("image", image),
        *((k, heat_overlay(image, v)) for k, v in maps.items()),
        (f"added, {GAIN} x brighter", gain),
    ]


def coverage(
    cam: np.ndarray, class_ids: Sequence[int], mask: np.ndarray, level: float = 0.5
) -> dict[int, tuple[int, int, int, int]]:
    """Count, class by class, how far a CAM above a level covers the object and spills over it.

    Args:
        cam: (C, H, W) float in [0, 1].
        class_ids: (C,) mask values of the channels.
        mask: (H, W) uint8 ground truth; 255 is not counted.
        level: activation from which a pixel counts as covered.

    Returns:
        class id -> pixels of the object covered, pixels of the object, other pixels covered, other pixels.
    """
    counts = {}
    for class_id, channel in zip(class_ids, cam, strict=True):
        hot, inside = channel > level, mask == class_id
        outside = ~inside & (mask != 255)
        counts[int(class_id)] = tuple(int(n.sum()) for n in (hot & inside, inside, hot & outside, outside))
    return counts


@styled
def variation_histogram(c_v: np.ndarray, s: float, largest: float) -> Figure:
    """Draw how c_v is spread over many CAMs, with the largest possible value and the limit 1 / s."""
    figure, axes = new_figure(1, 1, 4.2)
    axes[0, 0].hist(c_v, bins=40, range=(0, max(2.2, float(np.max(c_v, initial=0)))))
    axes[0, 0].set(xlabel="coefficient of variation c_v", ylabel="CAMs (image, class)")
    marks = {"largest possible": largest} if np.isfinite(largest) else {}
    if s > 0 and 1 / s <= 4:
        marks[f"1 / s at s = {s:g}"] = 1 / s
    draw_marks(axes[0, 0], marks)
    axes[0, 0].set_xlim(0, 1.15 * max([*marks.values(), 2.2]))
    return figure
