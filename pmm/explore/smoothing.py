"""The view of notebook 03: s and t against one class's map."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pmm.explore import drawing
from pmm.explore.app import Drawn, Panel, Question, less_or_more, menu, only_change, slider
from pmm.explore.drawing import BLUE, GREY, VERMILION, Chart, View
from pmm.explore.picker import ExplorerScene
from pmm.method.smoothing import MIN_EXPONENT, VARIANTS, coefficient_of_variation, raise_cam, smoothing_exponent
from pmm.run.experiment import Experiment

BINS = 40
WHY = {
    "s": (
        "A larger s makes the exponent 1 - s * c_v smaller, and so every value below 1 larger",
        "A smaller s brings the exponent 1 - s * c_v back towards 1, which changes nothing",
    ),
    "t": (
        "With a larger t only strong pixels count: c_v falls, and the exponent comes nearer to 1",
        "With a smaller t weak pixels count, too: c_v rises, and the exponent falls",
    ),
}  # parameter -> what a larger and a smaller value does
PRESETS = {
    "no smoothing": {"s": 0.0},
    "strong smoothing": {"s": 0.75},
    "far too strong": {"s": 3.0},
    "every pixel counts": {"t": 0.0},
}
PALE_BLUE, PALE_GREY = (170, 205, 230), (238, 238, 238)


@dataclass(frozen=True)
class SmoothingState:
    """One setting of the sliders; s, t, variant as in `pmm.method.smoothing.smooth_cam`."""

    class_id: int  # which class of the image
    s: float = 0.3
    t: float = 0.05
    variant: str = "official"

    def parameters(self) -> dict[str, Any]:
        """Return the setting under the names of `pmm.run.params.Params`."""
        return {"s": self.s, "t": self.t, "variant": self.variant}


@dataclass(frozen=True)
class SmoothingStep:
    """What smoothing did to one channel."""

    before: np.ndarray  # (H, W) float32, X(n)
    after: np.ndarray  # (H, W) float32, X(s)
    c_v: float
    mean: float  # of the foreground of X(n), as the deviation
    deviation: float
    wanted: float  # 1 - s * c_v as the equation says, which may be 0 or below
    exponent: float  # the one in use, never below MIN_EXPONENT


@contextmanager
def unwarned() -> Iterator[None]:
    """Silence the warning of a floored exponent inside the block: the views say it in their own words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def smooth_one(scene: ExplorerScene, state: SmoothingState) -> SmoothingStep:
    """Smooth one class's map by eq. 5-6; InputError if it is not in the image or a value is out of range."""
    before = scene.cam[scene.channel(state.class_id)]
    c_v = coefficient_of_variation(before[None], state.t)
    with unwarned():
        exponent = smoothing_exponent(c_v, state.s)
    after = raise_cam(before[None], exponent, state.t, state.variant)[0]
    front = before[before > state.t].astype(np.float64)
    mean, deviation = (float(front.mean()), float(front.std())) if front.size else (0.0, 0.0)
    wanted = 1 - state.s * float(c_v[0])
    return SmoothingStep(before, after, float(c_v[0]), mean, deviation, wanted, float(exponent[0]))


def smoothing_view(scene: ExplorerScene, state: SmoothingState) -> View:
    """Draw CAM before and after, the gain, the histogram with mean and deviation, and the power curve.

    Raises:
        InputError: as `smooth_one`.
    """
    step, name = smooth_one(scene, state), scene.labels[state.class_id]
    share = {key: float((getattr(step, key) > 0.5).mean()) for key in ("before", "after")}
    floor, warning = "", ""
    if step.wanted < MIN_EXPONENT:
        floor = " (floor)"
        warning = (
            f"s = {state.s:.2f} is too large for {name}: 1 - s * c_v = {step.wanted:.2f}. The exponent stays at "
            f"{MIN_EXPONENT:g}, or the map would be flat or upside down. Lower s below {1 / step.c_v:.2f}."
        )
    text = (
        f"{name}: c_v = {step.c_v:.3f}, exponent 1 - {state.s:.2f} x {step.c_v:.3f} = {step.wanted:.3f}",
        f"CAM above 0.5 on {share['before']:.1%} of the image before, {share['after']:.1%} after",
    )
    alt = (
        f"Activation map of {name} before and after smoothing: coefficient of variation {step.c_v:.2f}, exponent "
        f"{step.exponent:.2f}; {share['before']:.0%} of the image above 0.5 before, {share['after']:.0%} after."
    )
    charts = [
        (f"foreground of X(n): c_v = deviation / mean = {step.c_v:.2f}", _histogram(step, state.t)),
        (f"x -> x ** (1 - s * c_v): exponent {step.exponent:.2f}{floor}", _curve(step, state)),
    ]
    numbers = {"c_v": step.c_v, "exponent": step.exponent, "wanted": step.wanted, "share": share}
    return View(drawing.grid([_maps(scene, state, step), charts]), text, alt, numbers, warning, name)


def _maps(scene: ExplorerScene, state: SmoothingState, step: SmoothingStep) -> list[drawing.Cell]:
    before, after = drawing.shrink(step.before), drawing.shrink(step.after)
    return [
        ("photograph", scene.small_image()),
        ("CAM before: X(n)", scene.class_heat(before, state.class_id)),
        (f"CAM after: X(s), s = {state.s:.2f}", scene.class_heat(after, state.class_id)),
        ("what was added (bright = 0.5)", drawing.heat(np.maximum(after - before, 0), top=0.5)),
    ]


def _histogram(step: SmoothingStep, t: float) -> np.ndarray:
    front, edges = step.before > t, np.linspace(0, 1, BINS + 1)
    before, after = (np.histogram(m[front], edges)[0] / max(int(front.sum()), 1) for m in (step.before, step.after))
    top = max(0.1, float(np.ceil(10 * before.max())) / 10)
    names, ticks = ("activation", "share of foreground"), (0, top / 2, top)
    chart = Chart((0, 1), (0, top), *names, yticks=ticks, percent=True, size=drawing.HALF)
    chart.span(max(0.0, step.mean - step.deviation), min(1.0, step.mean + step.deviation), PALE_GREY)
    chart.bars(edges, before, [PALE_BLUE] * BINS)
    chart.curve((edges[1:] + edges[:-1]) / 2, np.minimum(after, top), VERMILION)
    chart.key(("bars: before", BLUE), ("line: after", VERMILION), ("grey: mean -+ deviation", GREY))
    if step.mean > 0:
        chart.mark(step.mean, f"mean {step.mean:.2f}, deviation {step.deviation:.2f}")
    return chart.mark(t, f"t {t:.2f}", GREY, line=1).picture()


def _curve(step: SmoothingStep, state: SmoothingState) -> np.ndarray:
    x, ticks = np.linspace(0, 1, 121), (0, 0.25, 0.5, 0.75, 1)
    y = raise_cam(x[None, None], [step.exponent], state.t, state.variant)[0, 0]
    chart = Chart((0, 1), (0, 1), "activation before", "after", ticks, ticks, size=drawing.HALF)
    chart.curve((0, 1), (0, 1), (170, 170, 170)).curve(x, y, BLUE)
    if step.mean > 0:
        lifted = step.mean**step.exponent
        note = f"mean of the foreground: {step.mean:.2f} -> {lifted:.2f}"
        chart.dot(step.mean, lifted, VERMILION).key((note, VERMILION), ("grey: unchanged", GREY))
    return chart.picture()


def smoothing_question(before: Drawn, now: Drawn) -> Question | None:
    """Ask whether a change of the setting lights up more or less of the image; None for another class."""
    if before.state.class_id != now.state.class_id:
        return None
    first, second = (drawn.view.numbers["share"]["after"] for drawn in (before, now))
    settings = (f"s {drawn.state.s:.2f}, t {drawn.state.t:.2f}" for drawn in (before, now))
    text = f"{' becomes '.join(settings)}. How much of the image is above 0.5 after smoothing?"
    why = f"Above 0.5: {first:.1%} -> {second:.1%} of the image. {only_change(before.state, now.state, WHY)}"
    return Question(text, less_or_more(first, second), why)


def smoothing_panel(experiment: Experiment) -> Panel:
    """Return the sliders of class, s, t and variant."""
    p = experiment.params
    controls = {
        "class_id": menu("class", [("", 0)], 0),
        "variant": menu("variant", reversed(VARIANTS), p.variant),
        "s": slider("s, smoothing", p.s, 0, 0.75, 0.01),
        "t": slider("t, foreground", p.t, 0, 0.95, 0.01),
    }

    def draw(scene: ExplorerScene, state: SmoothingState, _: object) -> View:
        """Draw one setting."""
        return smoothing_view(scene, state)

    question = smoothing_question
    return Panel(experiment, "Smoothing", "smoothing", controls, SmoothingState, draw, question, PRESETS)
