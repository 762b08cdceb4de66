"""The view of notebook 03: s and t against one class's map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pmm.explore import canvas
from pmm.explore.charts import BLUE, GREY, VERMILION, Axes, Chart, Curve
from pmm.explore.sample import Sample
from pmm.explore.view import View, unwarned
from pmm.figures.palette import palette
from pmm.method.smoothing import MIN_EXPONENT, coefficient_of_variation, raise_cam, smoothing_exponent

BINS = 40
PALE_BLUE = (170, 205, 230)


@dataclass(frozen=True)
class SmoothingState:
    """One setting of the sliders.

    Args:
        class_id: which class of the image.
        s: strength, >= 0.
        t: foreground threshold in [0, 1).
        variant: "official" or "paper".
    """

    class_id: int
    s: float = 0.3
    t: float = 0.05
    variant: str = "official"

    def parameters(self) -> dict[str, Any]:
        """Return the setting under the names of `pmm.run.params.Params`."""
        return {"s": self.s, "t": self.t, "variant": self.variant}


@dataclass(frozen=True)
class SmoothingStep:
    """What smoothing did to one channel."""

    before: np.ndarray
    """(H, W) float32, X(n)."""
    after: np.ndarray
    """(H, W) float32, X(s)."""
    c_v: float
    mean: float
    deviation: float
    wanted: float
    """1 - s * c_v as the equation says, which may be 0 or below."""
    exponent: float
    """The exponent in use, never below MIN_EXPONENT."""


def smooth_one(sample: Sample, state: SmoothingState) -> SmoothingStep:
    """Smooth one class's map by eq. 5-6.

    Raises:
        InputError: the class is not in the image, or a value of the state is out of range.
    """
    before = sample.cam[sample.channel(state.class_id)]
    c_v = coefficient_of_variation(before[None], state.t)
    with unwarned():
        exponent = smoothing_exponent(c_v, state.s)
    after = raise_cam(before[None], exponent, state.t, state.variant)[0]
    front = before[before > state.t].astype(np.float64)
    mean, deviation = (front.mean(), front.std()) if front.size else (0.0, 0.0)
    wanted = 1 - state.s * float(c_v[0])
    return SmoothingStep(before, after, float(c_v[0]), float(mean), float(deviation), wanted, float(exponent[0]))


def smoothing_view(sample: Sample, state: SmoothingState) -> View:
    """Draw CAM before and after, the gain, the histogram with mean and deviation, and the power curve.

    Args:
        sample: the scene.
        state: the setting.

    Raises:
        InputError: as `smooth_one`.
    """
    step = smooth_one(sample, state)
    name, floored = sample.name(state.class_id), step.wanted < MIN_EXPONENT
    image = sample.small_image()
    small = {k: canvas.shrink(m) for k, m in {"before": step.before, "after": step.after}.items()}
    tag = (name, palette()[state.class_id])
    gain = np.maximum(small["after"] - small["before"], 0)
    panels = [
        ("photograph", image),
        ("CAM before: X(n)", canvas.name_tag(canvas.heat(small["before"], image=image), *tag)),
        (f"CAM after: X(s), s = {state.s:.2f}", canvas.name_tag(canvas.heat(small["after"], image=image), *tag)),
        ("what was added (bright = 0.5)", canvas.heat(gain, top=0.5)),
    ]
    charts = [
        (f"foreground of X(n): c_v = deviation / mean = {step.c_v:.2f}", _histogram(step, state.t)),
        (f"x -> x ** (1 - s * c_v): exponent {step.exponent:.2f}{' (floor)' if floored else ''}", _curve(step, state)),
    ]
    share = {key: float((m > 0.5).mean()) for key, m in (("before", step.before), ("after", step.after))}
    text = (
        f"{name}: c_v = {step.c_v:.3f}, exponent 1 - {state.s:.2f} x {step.c_v:.3f} = {step.wanted:.3f}",
        f"CAM above 0.5 on {share['before']:.1%} of the image before, {share['after']:.1%} after",
    )
    return View(
        canvas.grid([panels, charts]), text, _alt(name, step, share),
        {"c_v": step.c_v, "exponent": step.exponent, "wanted": step.wanted, "share": share},
        _floor_warning(name, step, state.s) if floored else "",
    )  # fmt: skip


def _floor_warning(name: str, step: SmoothingStep, s: float) -> str:
    return (
        f"s = {s:.2f} is too large for {name}: 1 - s * c_v = {step.wanted:.2f}, and at 0 or below the map would be "
        f"flat or upside down. The exponent stays at {MIN_EXPONENT:g}. Lower s below {1 / step.c_v:.2f}."
    )


def _alt(name: str, step: SmoothingStep, share: dict[str, float]) -> str:
    return (
        f"Activation map of {name} before and after smoothing: coefficient of variation {step.c_v:.2f}, "
        f"exponent {step.exponent:.2f}; {share['before']:.0%} of the image above 0.5 before, "
        f"{share['after']:.0%} after."
    )


def _histogram(step: SmoothingStep, t: float) -> np.ndarray:
    size = canvas.wide_cell(2)
    front = step.before > t
    edges = np.linspace(0, 1, BINS + 1)
    counts = {k: np.histogram(m[front], edges)[0] for k, m in (("before", step.before), ("after", step.after))}
    total = max(int(front.sum()), 1)
    top = max(0.1, float(np.ceil(10 * counts["before"].max() / total)) / 10)
    axes = Axes((0, 1), (0, top), "activation", "share of foreground", yticks=(0, top / 2, top), percent=True)
    chart = Chart(axes, size)
    chart.span(max(0.0, step.mean - step.deviation), min(1.0, step.mean + step.deviation), (238, 238, 238))
    chart.bars(edges, counts["before"] / total, [PALE_BLUE] * BINS)
    centres = (edges[1:] + edges[:-1]) / 2
    chart.curve(Curve(centres, np.minimum(counts["after"] / total, top), VERMILION))
    chart.key(("bars: before", BLUE), ("line: after", VERMILION), ("grey: mean -+ deviation", GREY))
    if step.mean > 0:
        chart.mark(step.mean, f"mean {step.mean:.2f}, deviation {step.deviation:.2f}")
    return chart.mark(t, f"t {t:.2f}", GREY, line=1).picture()


def _curve(step: SmoothingStep, state: SmoothingState) -> np.ndarray:
    x = np.linspace(0, 1, 121)
    y = x**step.exponent
    if state.variant == "official":
        y = np.where(x < state.t, 0.0, y)
    ticks = (0, 0.25, 0.5, 0.75, 1)
    chart = Chart(Axes((0, 1), (0, 1), "activation before", "after", ticks, ticks), canvas.wide_cell(2))
    chart.curve(Curve((0, 1), (0, 1), (170, 170, 170)))
    chart.curve(Curve(x, y, BLUE))
    if step.mean > 0:
        chart.dot(step.mean, step.mean**step.exponent, VERMILION)
        chart.key(
            (f"mean of the foreground: {step.mean:.2f} -> {step.mean**step.exponent:.2f}", VERMILION),
            ("grey: unchanged", GREY),
        )
    return chart.picture()
