"""Mean IoU over alpha and over s on a handful of scenes: a chart that follows the masks view.

It takes seconds where the picture takes a moment, so it is worked on scene by scene, may be broken off at any
point, and remembers what it has. It shows what a parameter does and chooses nothing: it looks at ground truth.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pmm.explore import canvas
from pmm.explore.charts import BLUE, GREY, VERMILION, Axes, Chart, Curve
from pmm.explore.masks_view import METHODS, MaskState, make_mask
from pmm.explore.sample import Sample, from_experiment
from pmm.explore.view import View
from pmm.method.metrics import UNKNOWN, confusion_matrix, mean_iou
from pmm.studies.sweeps import judged_ids

ALPHAS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0)
HANDFUL = 6
KEPT = 600
Stop = Callable[[], bool]


class Handful:
    """A few scenes with ground truth, scored together for any setting; settings seen before cost nothing.

    Args:
        samples: scenes, each with ground truth.
    """

    def __init__(self, samples: Sequence[Sample]):
        self.samples = [sample for sample in samples if sample.truth is not None]
        ids = [i for sample in self.samples for i in (*sample.class_ids, *np.unique(sample.truth)) if i != UNKNOWN]
        self._n = 1 + max((int(i) for i in ids), default=0)
        self._known: OrderedDict[tuple, np.ndarray] = OrderedDict()

    @classmethod
    def of(cls, experiment: Any, count: int = HANDFUL) -> Handful:
        """Take evenly spaced training scenes of a run that have ground truth; none where it has none."""
        if not any(experiment.data.has_mask(i) for i in experiment.train_ids):
            return cls([])
        return cls([from_experiment(experiment, i) for i in judged_ids(experiment, count)])

    def mean_iou(self, state: MaskState, stop: Stop = lambda: False) -> float | None:
        """Return the mean IoU of all scenes together, or None if `stop` said so before it was known."""
        total = np.zeros((self._n, self._n), np.int64)
        for number, sample in enumerate(self.samples):
            key = (number, replace(state, class_id=0))
            if key not in self._known:
                if stop():
                    return None
                self._known[key] = confusion_matrix(sample.truth, make_mask(sample, state).mask, self._n)
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
            total += self._known[key]
        return mean_iou(total)

    def curve(self, state: MaskState, name: str, values: Sequence[float], stop: Stop) -> list[float] | None:
        """Return the mean IoU for several values of one field of the state, or None if stopped."""
        found = []
        for value in values:
            score = self.mean_iou(replace(state, **{name: value}), stop)
            if score is None:
                return None
            found.append(score)
        return found


def live_view(handful: Handful, state: MaskState, stop: Stop = lambda: False) -> View | None:
    """Draw mean IoU over alpha and over s with the current setting marked.

    Args:
        handful: the scenes.
        state: the current setting; all its other values hold along the curves.
        stop: asked before each piece of work; True breaks off.

    Returns:
        None if `stop` broke it off.
    """
    if not handful.samples:
        cell = canvas.wide_cell(1)
        note = "no chart of mean IoU: no training scene of this run has an exact mask"
        return View(canvas.grid([[("", canvas.message(note, cell))]]), (note,), note)
    here = handful.mean_iou(state, stop)
    parts = [_part(handful, state, here, *swept, stop) for swept in _swept(state)] if here is not None else [None]
    if None in parts:
        return None
    n = len(handful.samples)
    text = f"mean IoU of {n} scenes together against ground truth: {100 * here:.1f} % at {state.short()}"
    panels = [part[0] for part in parts]
    best = "; ".join(part[1] for part in parts if part[1])
    picture = canvas.grid([panels])
    return View(picture, (text, best), f"{text}. {best}.", {"mean_iou": here})


def _swept(state: MaskState) -> list[tuple[str, Sequence[float]]]:
    alpha, strength = ("alpha", ALPHAS), ("s", STRENGTHS)
    return {"ppmg": [alpha, strength], "crf": [alpha, ("", ())], "threshold": [("", ()), ("", ())]}[state.method]


def _part(
    handful: Handful, state: MaskState, here: float, name: str, values: Sequence[float], stop: Stop
) -> tuple[canvas.Panel, str] | None:
    size = canvas.wide_cell(2)
    if not name:
        return ("", canvas.message(f"{METHODS[state.method]} does not use this slider", size)), ""
    scores = handful.curve(state, name, values, stop)
    if scores is None:
        return None
    log, now = name == "alpha", getattr(state, name)
    ends = (min(values[0], now), max(values[-1], now)) if log else (0.0, max(values[-1], now))
    ticks = [v for v in values if not log or v in ALPHAS[::2] or v == ALPHAS[-1]]
    chart = Chart(Axes(ends, (0, 1), name, "", ticks, (0, 0.25, 0.5, 0.75, 1), log, percent=True), size)
    curve = Curve(values, scores, BLUE)
    chart.curve(curve).dots(curve).mark(now, f"{name} {now:.3g}", GREY).dot(now, here, VERMILION)
    chart.key((f"{100 * here:.1f} % now", VERMILION))
    place = int(np.nanargmax(scores))
    title = f"mean IoU over {name}, {len(handful.samples)} scenes (ground truth: to look at, it chooses nothing)"
    return (title, chart.picture()), f"over {name} the highest is {100 * scores[place]:.1f} % at {values[place]:g}"
