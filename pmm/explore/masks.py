"""The view of notebook 04: how a pseudo-mask comes about, how good it is, and how several scenes score.

The mean IoU over alpha and over s on several scenes takes seconds where the picture takes a moment, so it is worked
on scene by scene, may be broken off at any point, and remembers what it has. It shows what a parameter does and
chooses nothing: it looks at ground truth.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np

from pmm.errors import InputError
from pmm.explore import drawing
from pmm.explore.app import Panel, Stop, log_slider, menu, slider
from pmm.explore.drawing import BLUE, GREY, VERMILION, Chart, View
from pmm.explore.picker import ExplorerScene, load_scene
from pmm.explore.smoothing import unwarned
from pmm.figures.masks import MARK_RGB, disagreement
from pmm.method import IGNORE_INDEX
from pmm.method.crf import CRFSettings
from pmm.method.metrics import confusion_matrix, iou_per_class, mean_iou
from pmm.method.pseudo_mask import crf_pseudo_mask_steps, ppmg_steps, threshold_pseudo_mask
from pmm.method.smoothing import MIN_EXPONENT, VARIANTS
from pmm.run.experiment import Experiment
from pmm.studies.masks import evaluated_ids

TITLES = {"ppmg": "PPMG", "crf": "joint CRF", "threshold": "CAM threshold"}
CRF_NAMES = ("iterations", "gauss_sxy", "gauss_compat", "bilateral_sxy", "bilateral_srgb", "bilateral_compat")
ALPHAS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0)
SWEPT = {
    "ppmg": (("alpha", ALPHAS), ("s", STRENGTHS)),
    "crf": (("alpha", ALPHAS), ("", ())),
    "threshold": (("", ()), ("", ())),
}  # method -> fields of the state over which the two charts go, with their values; "" for a slider it does not use
SCORED_SCENES, KEPT_SCORES = 6, 100  # scenes that the chart scores together; settings of each that it remembers
PAUSE = 1.0  # seconds without a movement after which the next one is compared with what stands there


@dataclass(frozen=True)
class MaskState:
    """One setting of the sliders; s, alpha, t, variant as in `pmm.method.pseudo_mask.ppmg`."""

    method: str = "ppmg"  # one of TITLES
    s: float = 0.3
    alpha: float = 0.5  # also that of the joint CRF
    t: float = 0.05
    variant: str = "official"
    cam_threshold: float = 0.5  # of the CAM threshold, in [0, 1]
    crf: CRFSettings = field(default_factory=CRFSettings)
    class_id: int = 1  # whose steps are shown; it does not change the mask

    def __post_init__(self) -> None:
        if self.method not in TITLES:
            raise InputError(f"method: {self.method!r} is unknown; choose one of {', '.join(TITLES)}")

    def parameters(self) -> dict[str, Any]:
        """Return the setting under the names of `pmm.run.params.Params`; only what its method uses."""
        if self.method == "threshold":
            return {"seg_masks": "threshold", "cam_threshold": self.cam_threshold}
        crf = {f"crf_{name}": getattr(self.crf, name) for name in CRF_NAMES}
        if self.method == "crf":
            crf["crf_joint_gauss_compat"] = crf.pop("crf_gauss_compat")
            return {"seg_masks": "crf", "alpha_crf": self.alpha, **crf}
        return {"seg_masks": "ppmg", **self.ppmg(), **crf}

    def ppmg(self) -> dict[str, Any]:
        """Return what PPMG takes besides the CRF."""
        return {name: getattr(self, name) for name in ("s", "t", "alpha", "variant")}

    def key(self) -> tuple:
        """Return what the mask depends on."""
        return tuple(self.parameters().items())

    def short(self) -> str:
        """Name the setting in a few words."""
        words = {
            "ppmg": f"s {self.s:.2f}, alpha {self.alpha:.3g}, t {self.t:.2f}",
            "crf": f"alpha {self.alpha:.3g}",
            "threshold": f"threshold {self.cam_threshold:.2f}",
        }
        return f"{TITLES[self.method]}, {words[self.method]}"


@dataclass(frozen=True, eq=False)
class MaskResult:
    """A pseudo-mask with its steps and, against ground truth, its quality."""

    mask: np.ndarray  # (H, W) uint8
    smoothed: np.ndarray  # (C, H, W) float32: the maps that enter the CRF
    background: np.ndarray  # (C, H, W) or (1, H, W) float32: one score a class in PPMG, one for all else
    posterior: np.ndarray  # (C, H, W) float32 or bool: what decides where each class is
    share: np.ndarray | None  # (C, H, W) in [0, 1], proportion inside the class's mask over its maximum; PPMG alone
    wanted: np.ndarray  # (C,) 1 - s * c_v as the equation says; ones where nothing is smoothed
    iou: dict[int, float]  # class id -> IoU against ground truth; empty without
    mean_iou: float  # NaN without ground truth


Earlier = tuple[MaskState, MaskResult] | None  # an earlier setting of the same scene, to compare with, and its result


def make_mask(scene: ExplorerScene, state: MaskState) -> MaskResult:
    """Make the pseudo-mask of a setting; settings seen lately are remembered. InputError if a value is out of range."""
    with unwarned():
        return scene.remember("mask", state.key(), lambda: _made(scene, state))


def _made(scene: ExplorerScene, state: MaskState) -> MaskResult:
    image, cam, ids = scene.image, scene.cam, list(scene.class_ids)
    smoothed, share, wanted = cam, None, np.ones(len(cam))
    if state.method == "threshold":
        mask = threshold_pseudo_mask(cam, ids, state.cam_threshold)
        background = np.full((1, *mask.shape), state.cam_threshold, np.float32)
        posterior = mask == np.reshape(ids, (-1, 1, 1))
    elif state.method == "crf":
        steps = crf_pseudo_mask_steps(image, cam, ids, alpha=state.alpha, crf=scene.crf(state.crf))
        mask, background, posterior = steps.mask, steps.background[None], steps.posterior[1:]
    else:
        steps = ppmg_steps(image, cam, ids, crf=scene.crf(state.crf), **state.ppmg())
        mask, smoothed, background, posterior = steps.mask, steps.smoothed, steps.background, steps.posterior
        share, wanted = steps.foreground * steps.proportion, 1 - state.s * steps.c_v.astype(np.float64)
        share /= np.maximum(share.max(axis=(1, 2), keepdims=True, initial=0), np.finfo(np.float32).tiny)
    if scene.truth is None:
        return MaskResult(mask, smoothed, background, posterior, share, wanted, {}, float("nan"))
    confusion = confusion_matrix(scene.truth, mask, IGNORE_INDEX)
    iou = dict(zip(scene.labels, iou_per_class(confusion)[list(scene.labels)].tolist(), strict=True))
    return MaskResult(mask, smoothed, background, posterior, share, wanted, iou, mean_iou(confusion))


def masks_view(scene: ExplorerScene, state: MaskState, before: Earlier = None) -> View:
    """Draw the steps of one class, the mask, the ground truth, what changed, and the IoU.

    Raises:
        InputError: the class is not in the image, or a value of the state is out of range.
    """
    channel, result = scene.channel(state.class_id), make_mask(scene, state)
    rows = [_step_cells(scene, state, result, channel), _result_cells(scene, result, before)]
    numbers = {"mean_iou": result.mean_iou, "iou": result.iou, "foreground": float((result.mask > 0).mean())}
    text = _text(scene, result, before)
    alt = f"Pseudo-mask of {scene.id} by {state.short()}. " + ". ".join(text) + "."
    low = [f"{scene.names[i]} ({value:.2f})" for i, value in enumerate(result.wanted) if value < MIN_EXPONENT]
    warning = (
        f"s = {state.s:.2f} is too large for {', '.join(low)}: 1 - s * c_v would turn the map flat or upside down. "
        f"The exponent stays at {MIN_EXPONENT:g}; lower s."
    )
    picture = drawing.grid(rows, scene.legend())
    return View(picture, text, alt, numbers, warning if low else "", scene.names[channel])


def _step_cells(scene: ExplorerScene, state: MaskState, result: MaskResult, channel: int) -> list[drawing.Cell]:
    ppmg, shown = state.method == "ppmg", state.class_id
    first = f"1 smoothed CAM, s = {state.s:.2f}" if ppmg else "1 CAM, not smoothed"
    second = f"2 background, alpha = {state.alpha:.3g}" if state.method != "threshold" else "2 background: a constant"
    third = {"ppmg": "3 binary CRF", "crf": "3 joint CRF", "threshold": "3 above the threshold"}[state.method]
    background = result.background[min(channel, len(result.background) - 1)]
    if result.share is not None:
        last = scene.class_heat(result.share[channel], shown)
    else:
        why = f"no proportion: only PPMG weighs the classes, {TITLES[state.method]} takes the highest"
        last = drawing.message(why)
    return [
        (first, scene.class_heat(result.smoothed[channel], shown)),
        (second, scene.class_heat(background, shown if ppmg else None)),
        (third, scene.class_heat(result.posterior[channel].astype(np.float32), shown)),
        ("4 proportion inside it", last),
    ]


def _result_cells(scene: ExplorerScene, result: MaskResult, before: Earlier) -> list[drawing.Cell]:
    changed = drawing.message("move a slider: the pixels that change are marked here")
    if before is not None:
        differ = drawing.shrink(disagreement(before[1].mask, result.mask))
        changed = drawing.paint(drawing.pale(scene.small_image()), (differ, MARK_RGB))
    return [
        ("5 pseudo-mask", scene.small_mask(result.mask)),
        ("ground truth", scene.small_truth("no ground truth: nothing to compare with")),
        ("changed pixels", changed),
        ("IoU in % (change in points)", _bars(scene, result, before)),
    ]


def _bars(scene: ExplorerScene, result: MaskResult, before: Earlier) -> np.ndarray:
    if scene.truth is None:
        return drawing.message("IoU needs ground truth, and a photograph of your own has none")
    shares = {"mean": result.mean_iou, **{name: result.iou[i] for i, name in scene.labels.items()}}
    earlier = [before[1].mean_iou, *before[1].iou.values()] if before else [np.nan] * len(shares)
    notes = [_signed_points(now, then) for now, then in zip(shares.values(), earlier, strict=True)]
    return drawing.share_bars(shares, [(60, 60, 60), *map(scene.colour, scene.labels)], notes)


def _signed_points(now: float, before: float) -> str:
    """Write a difference of two shares in percentage points, such as "+1.2"; "" where one is not known."""
    return f"{100 * (now - before):+.1f}" if np.isfinite(now - before) else ""


def _text(scene: ExplorerScene, result: MaskResult, before: Earlier) -> tuple[str, ...]:
    covered = ", ".join(f"{n} {(result.mask == i).mean():.1%}" for i, n in scene.labels.items() if i)
    area = f"share of the image: {covered}, background {(result.mask == 0).mean():.1%}"
    if scene.truth is None:
        return (area,)
    each = ", ".join(f"{scene.labels[i]} {100 * v:.1f} %" for i, v in result.iou.items() if np.isfinite(v))
    mean = f"mean IoU {100 * result.mean_iou:.1f} % against ground truth ({each})"
    if before is None:
        return mean, area
    points = _signed_points(result.mean_iou, before[1].mean_iou)
    return mean, f"{points} points against the previous setting ({before[0].short()})", area


class _Stopped(Exception):
    """A newer setting waits."""


def scored_scenes(experiment: Experiment, count: int = SCORED_SCENES) -> list[ExplorerScene]:
    """Read evenly spaced training images of a run that judge its masks; none where there is no ground truth."""
    if not experiment.judge_ids:
        return []
    return [load_scene(experiment, i) for i in evaluated_ids(experiment, count)]


def scenes_iou(scenes: Sequence[ExplorerScene], state: MaskState, stop: Stop = lambda: False) -> float:
    """Return the mean IoU of one or more scenes with ground truth together; settings seen before cost nothing."""
    n_classes = 1 + max(
        int(np.max(x.truth, where=x.truth != IGNORE_INDEX, initial=max(x.class_ids, default=0))) for x in scenes
    )

    def confusion(scene: ExplorerScene) -> np.ndarray:
        """Score one scene, unless a newer setting waits."""
        if stop():
            raise _Stopped
        return confusion_matrix(scene.truth, make_mask(scene, state).mask, n_classes)

    return mean_iou(sum(x.remember("confusion", state.key(), partial(confusion, x), KEPT_SCORES) for x in scenes))


def scores_view(scenes: Sequence[ExplorerScene], state: MaskState, stop: Stop = lambda: False) -> View | None:
    """Draw mean IoU over alpha and over s around a setting; None if `stop`, asked scene by scene, broke it off.

    Args:
        scenes: with ground truth; none gives a picture that says so.
        state: the setting in the middle.
        stop: whether to break off.
    """
    if not scenes:
        note = "no chart of mean IoU: no training image of this run has ground truth"
        return View(drawing.grid([[("", drawing.message(note, drawing.WHOLE))]]), (note,), note)
    try:
        here = scenes_iou(scenes, state, stop)
        curves = [_curve(scenes, state, here, *swept, stop) for swept in SWEPT[state.method]]
    except _Stopped:
        return None
    cells, best = zip(*curves, strict=True)
    known = f"mean IoU of {len(scenes)} scenes together against ground truth"
    text = f"{known}: {100 * here:.1f} % at {state.short()}", "; ".join(filter(None, best))
    return View(drawing.grid([cells]), text, ". ".join(text) + ".", {"mean_iou": here})


def _curve(
    scenes: Sequence[ExplorerScene], state: MaskState, here: float, name: str, values: Sequence[float], stop: Stop
) -> tuple[drawing.Cell, str]:
    """Return the chart over one field of the state, and where it is highest."""
    if not name:
        return ("", drawing.message(f"{TITLES[state.method]} does not use this slider", drawing.HALF)), ""
    scores = [scenes_iou(scenes, replace(state, **{name: value}), stop) for value in values]
    log, now = name == "alpha", getattr(state, name)
    ends, ticks = (min(values[0], now), max(values[-1], now)), [*values[::2], values[-1]] if log else values
    chart = Chart(ends, (0, 1), name, "", ticks, log=log, percent=True, size=drawing.HALF)
    chart.curve(values, scores, BLUE, dots=True).mark(now, f"{name} {now:.3g}", GREY).dot(now, here, VERMILION)
    chart.key((f"{100 * here:.1f} % now", VERMILION))
    place = int(np.nanargmax(scores))
    title = f"mean IoU over {name}, {len(scenes)} scenes (ground truth: to look at, it chooses nothing)"
    return (title, chart.picture()), f"over {name} the highest is {100 * scores[place]:.1f} % at {values[place]:g}"


class _Compared:
    """`masks_view` with the setting from before the last movement to compare with."""

    def __init__(self) -> None:
        self._scene: ExplorerScene | None = None
        self._base: Earlier = None
        self._shown: Earlier = None
        self._moved = 0.0

    def __call__(self, scene: ExplorerScene, state: MaskState) -> View:
        """Draw a setting; after a pause, what was shown becomes what it is compared with."""
        result, now = make_mask(scene, state), time.monotonic()
        if scene is not self._scene:
            self._scene, self._base = scene, None
        elif self._shown[1] is not result:
            if now - self._moved > PAUSE:
                self._base = self._shown
            self._moved = now
        self._shown = state, result
        return masks_view(scene, state, self._base)


def masks_panel(experiment: Experiment) -> Panel:
    """Return method, s, alpha, t, variant, threshold, class and, folded away, the CRF's strengths."""
    p = experiment.params
    controls = {
        "method": menu("method", [(title, key) for key, title in TITLES.items()], "ppmg"),
        "class_id": menu("steps of class", [("", 0)], 0),
        "s": slider("s, smoothing", p.s, 0, 3, 0.05),
        "alpha": log_slider("alpha, background", p.alpha, -4, 6),
        "t": slider("t, threshold", p.t, 0, 0.95, 0.01),
        "variant": menu("variant", reversed(VARIANTS), p.variant),
        "cam_threshold": slider("CAM threshold", p.cam_threshold, 0.02, 0.98, 0.02),
        "iterations": slider("CRF iterations", p.crf_iterations, 1, 20, 1),
        "gauss_compat": slider("CRF nearness", p.crf_gauss_compat, 0, 30, 0.5),
        "bilateral_compat": slider("CRF colour", p.crf_bilateral_compat, 0, 30, 0.5),
        "gauss_sxy": slider("reach, pixels", p.crf_gauss_sxy, 1, 20, 0.5),
        "bilateral_sxy": slider("colour: pixels", p.crf_bilateral_sxy, 5, 160, 5),
        "bilateral_srgb": slider("colour: grey levels", p.crf_bilateral_srgb, 2, 60, 1),
    }
    folded = [name for name in controls if name in CRF_NAMES]
    scored = cache(partial(scored_scenes, experiment))  # read when first asked for

    def state(**values: Any) -> MaskState:
        """Return the setting of the controls."""
        crf = replace(experiment.crf_settings(), **{name: values.pop(name) for name in folded})
        return MaskState(**values, crf=crf)

    def chart(state: MaskState, stop: Stop) -> View | None:
        """Score several images."""
        return scores_view(scored(), state, stop)

    strengths = "Strengths of the dense CRF", folded
    return Panel(experiment, "Pseudo-mask", "masks", controls, state, _Compared(), chart, strengths)
