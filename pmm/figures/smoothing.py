"""Figures of notebook 03, and the measure behind one of them: how much of the objects a CAM covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pmm.figures.data import overlay_panels
from pmm.figures.panels import curves, draw_marks, heat_row, spread_in_words
from pmm.figures.style import CaptionedFigure, new_figure, spaced, styled
from pmm.method import IGNORE_INDEX
from pmm.method.smoothing import raise_cam, smooth_cam, smoothing_exponent

if TYPE_CHECKING:  # its import brings torch
    from pmm.run.experiment import Experiment

GAIN = 4
"""The activation that smoothing adds is small."""
Found = tuple[float, str, int]
"""A map among all training CAMs: its c_v, the image's id, the class id."""


def class_map(experiment: Experiment, image_id: str, class_id: int) -> np.ndarray:
    """Return the (H, W) float32 CAM of one class that the image shows."""
    class_ids, cam = experiment.cam(image_id)
    return cam[list(class_ids).index(class_id)]


def extremes_figure(experiment: Experiment, extremes: Mapping[str, Found]) -> CaptionedFigure:
    """Draw some maps beside their images; keys say in a word what each is, such as even or uneven."""
    data, panels = experiment.data, []
    for c_v, image_id, class_id in extremes.values():
        title = f"{spaced(data.class_names[class_id])}, c_v = {c_v:.2f}"
        panels += overlay_panels(data.image(image_id), {title: class_map(experiment, image_id, class_id)})
    return heat_row(panels).say(f"Images with one map each, from left to right: {', '.join(extremes)}.")


@styled
def power_curves(variations: Mapping[str, float], s: float) -> CaptionedFigure:
    """Draw x ** (1 - s * c_v) over x in 0..1, one curve for each labelled c_v, and the diagonal."""
    x = np.linspace(0, 1, 201, dtype=np.float32)
    series = {"not smoothed": (x, x)}
    for label, c_v in variations.items():
        exponent = smoothing_exponent([c_v], s)
        series[f"{label}: c_v = {c_v:.2f}"] = (x, raise_cam(x[None, None], exponent, t=0.0)[0, 0])
    figure = curves(series, "activation before, x", "activation after", ylim=(0, 1.02), height=5.0)
    figure.axes[0].set(xlim=(0, 1), aspect="equal")
    values = ", ".join(f"{label} {c_v:.2f}" for label, c_v in variations.items())
    return figure.say(
        f"The correction for {len(variations)} real values of c_v, at s = {s:g}.",
        f"Curves from (0, 0) to (1, 1) that bulge upwards, the more the higher c_v: {values}.",
    )


def before_after_figure(experiment: Experiment, chosen: Sequence[Found]) -> CaptionedFigure:
    """Draw maps before and after smoothing with the run's parameters, a row each, and what was added, GAIN-fold."""
    p, data, panels = experiment.params, experiment.data, []
    for _, image_id, class_id in chosen:
        name, before = spaced(data.class_names[class_id]), class_map(experiment, image_id, class_id)
        after = smooth_cam(before[None], p.s, p.t, p.variant)[0]
        panels += overlay_panels(data.image(image_id), {f"{name}: before": before, f"{name}: after": after})
        panels.append((f"added, {GAIN} x brighter", np.clip(GAIN * (after - before), 0, 1).astype(np.float32)))
    figure = heat_row(panels)
    found = ", ".join(f"{spaced(data.class_names[c])} (c_v {c_v:.2f})" for c_v, _, c in chosen)
    return figure.say(
        f"{len(chosen)} maps before and after smoothing with s = {p.s:g}, and the activation that was added.",
        f"Rows of photograph, map before, map after and the gain for {found}.",
    )


def coverage(
    cam: np.ndarray, class_ids: Sequence[int], mask: np.ndarray, level: float = 0.5
) -> dict[int, tuple[int, int, int, int]]:
    """Count, class by class, how far a CAM above a level covers the object and spills over it.

    Args:
        cam: (C, H, W) float in [0, 1].
        class_ids: (C,) mask values of the channels.
        mask: (H, W) uint8 ground truth; IGNORE_INDEX is not counted.
        level: activation from which a pixel counts as covered.

    Returns:
        class id -> pixels of the object covered, pixels of the object, other pixels covered, other pixels.
    """
    counts = {}
    for class_id, channel in zip(class_ids, cam, strict=True):
        hot, inside = channel > level, mask == class_id
        outside = ~inside & (mask != IGNORE_INDEX)
        counts[int(class_id)] = tuple(int(n.sum()) for n in (hot & inside, inside, hot & outside, outside))
    return counts


def coverage_figure(rates: Mapping[float, tuple[float, float]], s: float, images: int) -> CaptionedFigure:
    """Draw the covered shares of object and other pixels over the smoothing strength.

    Args:
        rates: strength -> covered share of the object pixels, and of the other pixels.
        s: the run's strength.
        images: number of images counted.
    """
    strengths, (inside, outside) = list(rates), zip(*rates.values(), strict=True)
    series = {"object pixels covered": (strengths, inside), "other pixels covered": (strengths, outside)}
    figure = curves(series, "smoothing strength s", "share of pixels", marks={"s used": s}, ylim=(0, 1.15))
    return figure.say(f"Share of pixels with a CAM above 0.5, in {images} training images, against ground truth.")


@styled
def variation_histogram(c_v: np.ndarray, s: float, largest: float) -> CaptionedFigure:
    """Draw how c_v is spread over many CAMs, with the largest possible value and the limit 1 / s."""
    figure, axes = new_figure()
    axes[0, 0].hist(c_v, bins=40, range=(0, max(2.2, float(np.max(c_v, initial=0)))))
    axes[0, 0].set(xlabel="coefficient of variation c_v", ylabel="CAMs (image, class)")
    marks = {"largest possible": largest} if np.isfinite(largest) else {}
    if s > 0 and 1 / s <= 4:
        marks[f"1 / s at s = {s:g}"] = 1 / s
    draw_marks(axes[0, 0], marks)
    axes[0, 0].set_xlim(0, 1.15 * max([*marks.values(), 2.2]))
    return figure.say("The coefficient of variation of all training CAMs.", f"Histogram of {spread_in_words(c_v)}.")
