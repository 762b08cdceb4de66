"""The view of notebook 04: how a pseudo-mask comes about, how good it is, and how several scenes score.

The mean IoU over alpha and over s on several scenes takes seconds where the picture takes a moment, so it is worked
on scene by scene, may be broken off at any point, and remembers what it has. It shows what a parameter does and
chooses nothing: it looks at ground truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from pmm.errors import InputError
from pmm.explore import drawing
from pmm.explore.app import (
    MOST_CHOICES,
    Against,
    Drawn,
    Panel,
    Question,
    Stop,
    less_or_more,
    log_slider,
    menu,
    only_change,
    slider,
)
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
STRENGTHS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)
SWEPT = {
    "ppmg": (("alpha", ALPHAS), ("s", STRENGTHS)),
    "crf": (("alpha", ALPHAS), ("", ())),
    "threshold": (("", ()), ("", ())),
}  # method -> fields of the state over which the two charts go, with their values; "" for a slider it does not use
SCORED_SCENES, KEPT_SCORES = 6, 100  # scenes that the chart scores together; settings of each that it remembers
STEPS = (
    ("normalise", "eq. 1: X(n) = (X - min X) / (max X - min X), each class by itself, so that every map reaches 1"),
    ("smooth", "eq. 5 and 6: X(s) = X(n) ** (1 - s * c_v); the less even a map, the more its weak parts are lifted"),
    ("background", "eq. 2, for each class: bg = (1 - X(s)) ** alpha; a larger alpha gives a darker background"),
    ("binary CRF", "a dense CRF a class on [bg, X(s)] and the photograph; X(m) is where its answer exceeds 0.5"),
    ("proportion", "eq. 8: P = X(n) / sum(X(n) X(m)), one scale for all classes; a small object gets large shares"),
    (
        "argmax",
        "Y = argmax of X(m) P: each pixel goes to the class with the largest share, to none where X(m) is empty",
    ),
)  # of Algorithm 1: name, and what it does
WHY = {
    "s": (
        "A larger s lifts the weak parts of the map, eq. 6, so more pixels can beat the background",
        "A smaller s leaves the map peaked on its strongest part, eq. 6",
    ),
    "alpha": (
        "A larger alpha lowers the background score (1 - x) ** alpha, eq. 2",
        "A smaller alpha raises the background score (1 - x) ** alpha, eq. 2",
    ),
    "t": (
        "With a larger t only strong pixels count: c_v falls, and the smoothing with it",
        "With a smaller t weak pixels count, too: c_v rises, and the smoothing with it",
    ),
    "cam_threshold": ("Fewer pixels exceed a higher threshold", "More pixels exceed a lower threshold"),
    "crf_gauss_compat": ("Near pixels must agree more, so small parts vanish", "Near pixels may differ more"),
    "crf_bilateral_compat": ("Pixels of one colour must agree more", "Pixels of one colour may differ more"),
}  # parameter -> what a larger and a smaller value does
WHY["alpha_crf"] = WHY["alpha"]
PRESETS = {
    "no smoothing": {"s": 0.0},
    "strong smoothing": {"s": 0.75},
    "small alpha": {"alpha": 0.125},
    "large alpha": {"alpha": 8.0},
    "released code, VOC": {"s": 0.3, "t": 0.05, "alpha": 11.0, "variant": "official"},
    "joint CRF, released": {"method": "crf", "alpha": 24.0},
    "CAM threshold": {"method": "threshold"},
}
UNUSED = {
    "ppmg": ("cam_threshold",),
    "crf": ("s", "t", "variant", "cam_threshold", "step"),
    "threshold": ("s", "t", "alpha", "variant", "step", *CRF_NAMES),
}  # method -> controls that change nothing


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
    step: int = 0  # of Algorithm 1, 1..6, shown for all classes; 0 shows all steps of one class

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
    share: np.ndarray | None  # (C, H, W) float32 >= 0, proportion inside the class's mask; PPMG alone
    c_v: np.ndarray  # (C,) eq. 5; zeros where nothing is smoothed
    wanted: np.ndarray  # (C,) 1 - s * c_v as the equation says
    iou: dict[int, float]  # class id -> IoU against ground truth; empty without
    mean_iou: float  # NaN without ground truth


def make_mask(scene: ExplorerScene, state: MaskState) -> MaskResult:
    """Make the pseudo-mask of a setting; settings seen lately are remembered. InputError if a value is out of range."""
    with unwarned():
        return scene.remember("mask", state.key(), lambda: _made(scene, state))


def _made(scene: ExplorerScene, state: MaskState) -> MaskResult:
    image, cam, ids = scene.image, scene.cam, list(scene.class_ids)
    smoothed, share, c_v = cam, None, np.zeros(len(cam))
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
        share, c_v = steps.foreground * steps.proportion, steps.c_v.astype(np.float64)
    made = partial(MaskResult, mask, smoothed, background, posterior, share, c_v, 1 - state.s * c_v)
    if scene.truth is None:
        return made({}, float("nan"))
    confusion = confusion_matrix(scene.truth, mask, IGNORE_INDEX)
    iou = dict(zip(scene.labels, iou_per_class(confusion)[list(scene.labels)].tolist(), strict=True))
    return made(iou, mean_iou(confusion))


def masks_view(
    scene: ExplorerScene, state: MaskState, against: Against = None, pixel: tuple[int, int] | None = None
) -> View:
    """Draw the photograph, the steps of one class, the mask, the ground truth, what changed, and the IoU.

    With a step of the state, that step for all classes instead; "A" in `against` puts its mask beside the other. A
    `pixel` (row, column) of the mask gets a cross.

    Raises:
        InputError: the class is not in the image, or a value of the state is out of range.
    """
    channel, result = scene.channel(state.class_id), make_mask(scene, state)
    before = make_mask(scene, against[1]) if against else None
    step = state.step if state.method == "ppmg" else 0
    if step:
        picture = drawing.grid([_one_step(scene, state, result)], scene.legend(), big=True)
        text = (f"Algorithm 1, step {step} of {len(STEPS)}: {STEPS[step - 1][0]}", STEPS[step - 1][1])
    else:
        rows = [_step_cells(scene, state, result, channel), _result_cells(scene, state, result, against, before)]
        if pixel:
            rows[1][1] = (rows[1][1][0], _crossed(scene.small_mask(result.mask), pixel, result.mask.shape))
        picture, text = drawing.grid(rows, scene.legend()), _text(scene, result, against, before)
    numbers = {"mean_iou": result.mean_iou, "iou": result.iou}
    alt = f"Pseudo-mask of {scene.id} by {state.short()}. " + ". ".join(text) + "."
    low = [f"{scene.names[i]} ({value:.2f})" for i, value in enumerate(result.wanted) if value < MIN_EXPONENT]
    warning = f"s = {state.s:.2f} is too large for {', '.join(low)}: the exponent 1 - s * c_v stays at {MIN_EXPONENT:g}"
    return View(
        picture, text, alt, numbers, f"{warning}; lower s" if low else "", scene.names[channel], result.mask,
        _file_note(scene, state),
    )  # fmt: skip


def _file_note(scene: ExplorerScene, state: MaskState) -> str:
    """Say what the values of the mask mean, and how the command line takes the setting."""
    named = ", ".join(f"{value} {name}" for value, name in scene.labels.items())
    values = {name: value for name, value in state.parameters().items() if name != "seg_masks"}
    options = " ".join(f"-p {name}={value}" for name, value in {"method": state.method, **values}.items())
    return f": {named}\n# pmm masks --cams CAMS --images IMAGES --out MASKS {options}"


def _one_step(scene: ExplorerScene, state: MaskState, result: MaskResult) -> list[drawing.Cell]:
    """Return large cells of one step of Algorithm 1: the photograph, then up to three classes."""
    shown = list(enumerate(scene.menu))[:3]
    cell, top = drawing.big_cell(1 + len(shown)), float(result.share.max(initial=0)) or 1.0
    if state.step == len(STEPS):
        cell = drawing.big_cell(3)
        last = (
            ("ground truth", scene.small_truth("", cell)) if scene.truth is not None else _cut_out(scene, result, cell)
        )
        return [("photograph", scene.small_image(cell)), ("pseudo-mask Y", scene.small_mask(result.mask, cell)), last]
    maps, titles = {
        1: (scene.cam, "X(n)"),
        2: (result.smoothed, "c_v {c_v:.2f}, exponent {exponent:.2f}"),
        3: (result.background, f"background, alpha = {state.alpha:.3g}"),
        4: (np.float32(result.posterior > 0.5), "X(m): its CRF says {area:.1%}"),
        5: (result.share / top, "P: at most {share:.3%} of the class a pixel"),
    }[state.step]
    cells = [("photograph", scene.small_image(cell))]
    for channel, (_, value) in shown:
        numbers = {"exponent": max(result.wanted[channel], MIN_EXPONENT), "c_v": result.c_v[channel]}
        numbers |= {"area": (result.posterior[channel] > 0.5).mean(), "share": result.share[channel].max(initial=0)}
        cells.append((titles.format(**numbers), scene.class_heat(maps[channel], value, cell=cell)))
    return cells


def _step_cells(scene: ExplorerScene, state: MaskState, result: MaskResult, channel: int) -> list[drawing.Cell]:
    ppmg, shown = state.method == "ppmg", state.class_id
    second = f"2 smoothed, s = {state.s:.2f}" if ppmg else "2 not smoothed"
    third = f"3 background, alpha {state.alpha:.3g}" if state.method != "threshold" else "3 background: constant"
    fourth = {"ppmg": "4 binary CRF", "crf": "4 joint CRF", "threshold": "4 above the threshold"}[state.method]
    background = result.background[min(channel, len(result.background) - 1)]
    return [
        ("photograph", scene.small_image()),
        ("1 CAM, normalised", scene.class_heat(scene.cam[channel], shown)),
        (second, scene.class_heat(result.smoothed[channel], shown)),
        (third, scene.class_heat(background, shown if ppmg else None)),
        (fourth, scene.class_heat(result.posterior[channel].astype(np.float32), shown)),
    ]


def _result_cells(
    scene: ExplorerScene, state: MaskState, result: MaskResult, against: Against, before: MaskResult | None
) -> list[drawing.Cell]:
    title, changed = "changed pixels", drawing.message("move a slider: the pixels that change are marked here")
    if before is not None:
        differ = drawing.shrink(disagreement(before.mask, result.mask))
        changed = drawing.paint(drawing.pale(scene.small_image()), (differ, MARK_RGB))
    if against and against[0] in "AB":
        first = (f"the mask of {against[0]}", scene.small_mask(before.mask))
        title = f"where it differs from {against[0]}"
    elif result.share is None:
        first = ("5 no proportion", drawing.message(f"only PPMG weighs the classes, {TITLES[state.method]} does not"))
    else:
        share = result.share[scene.channel(state.class_id)]
        first = ("5 proportion inside it", scene.class_heat(share, state.class_id, share.max(initial=0) or 1.0))
    if scene.truth is None:
        third, last = _cut_out(scene, result), ("share of the image", _areas(scene, result))
    else:
        third, last = ("ground truth", scene.small_truth("")), ("IoU in % (and change)", _bars(scene, result, before))
    return [first, ("6 pseudo-mask", scene.small_mask(result.mask)), third, (title, changed), last]


def _crossed(picture: np.ndarray, pixel: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Put a black cross in white into a picture (h, w, 3) uint8, at a pixel of the image of `size`, which it shows."""
    row, column = (int((at + 0.5) * side / whole) for at, side, whole in zip(pixel, picture.shape, size, strict=False))
    y, x = np.indices(picture.shape[:2])
    y, x = np.abs(y - row), np.abs(x - column)
    near, far = np.minimum(x, y), np.maximum(x, y)
    return drawing.paint(picture, ((near <= 3) & (far <= 9), (255, 255, 255)), ((near <= 1) & (far <= 7), (0, 0, 0)))


def _cut_out(scene: ExplorerScene, result: MaskResult, cell: tuple[int, int] = drawing.CELL) -> drawing.Cell:
    """Show what the mask takes out of a photograph that has no ground truth."""
    image = scene.small_image(cell)
    inside = drawing.shrink(result.mask > 0, cell)
    return "what it cuts out", np.where(inside[..., None], image, np.uint8(255))


def _areas(scene: ExplorerScene, result: MaskResult) -> np.ndarray:
    shares = {name: float((result.mask == value).mean()) for value, name in scene.labels.items()}
    return drawing.share_bars(shares, [scene.colour(value) for value in scene.labels], [""] * len(shares))


def _bars(scene: ExplorerScene, result: MaskResult, before: MaskResult | None) -> np.ndarray:
    shares = {"mean": result.mean_iou, **{name: result.iou[i] for i, name in scene.labels.items()}}
    earlier = [before.mean_iou, *before.iou.values()] if before else [np.nan] * len(shares)
    notes = [_signed_points(now, then) for now, then in zip(shares.values(), earlier, strict=True)]
    return drawing.share_bars(shares, [(60, 60, 60), *map(scene.colour, scene.labels)], notes)


def _signed_points(now: float, before: float) -> str:
    """Write a difference of two shares in percentage points, such as "+1.2"; "" where one is not known."""
    return f"{100 * (now - before):+.1f}" if np.isfinite(now - before) else ""


def _text(scene: ExplorerScene, result: MaskResult, against: Against, before: MaskResult | None) -> tuple[str, ...]:
    covered = ", ".join(f"{n} {(result.mask == i).mean():.1%}" for i, n in scene.labels.items() if i)
    area = f"share of the image: {covered}, background {(result.mask == 0).mean():.1%}"
    if scene.truth is None:
        return (area,)
    each = ", ".join(f"{scene.labels[i]} {100 * v:.1f} %" for i, v in result.iou.items() if np.isfinite(v))
    mean = f"mean IoU {100 * result.mean_iou:.1f} % against ground truth ({each})"
    if before is None:
        return mean, area
    points = _signed_points(result.mean_iou, before.mean_iou)
    return mean, f"{points} points against {against[0]} ({against[1].short()}); {area}"


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
    log, now = name == "alpha", getattr(state, name)
    ticks, values = [*values[::2], values[-1]] if log else values, sorted({*values, now})
    scores = [scenes_iou(scenes, replace(state, **{name: value}), stop) for value in values]
    ends = values[0], values[-1]
    chart = Chart(ends, (0, 1), name, "", ticks, log=log, percent=True, size=drawing.HALF)
    chart.curve(values, scores, BLUE, dots=True).mark(now, f"{name} {now:.3g}", GREY).dot(now, here, VERMILION)
    chart.key((f"{100 * here:.1f} % now", VERMILION))
    place = int(np.nanargmax(scores))
    title = f"mean IoU over {name}, {len(scenes)} scenes (ground truth: to look at, it chooses nothing)"
    if values[place] == now:
        return (title, chart.picture()), f"no other {name} of the chart, alone, does better"
    best = f"{name} = {values[place]:g} alone would give {100 * scores[place]:.1f} %, the highest of its chart"
    return (title, chart.picture()), best


def masks_question(before: Drawn, now: Drawn) -> Question:
    """Ask whether a change of the setting gives more or less foreground; of another s, who wins a pixel that changes.

    The pixel is the one deepest inside what changes.
    """
    scene, change = now.scene, f"{before.state.short()} becomes {now.state.short()}"
    masks = [make_mask(scene, drawn.state).mask for drawn in (before, now)]
    why = only_change(before.state, now.state, WHY)
    changed = masks[0] != masks[1]
    if before.state.s != now.state.s and len(scene.class_ids) > 1 and changed.any():
        depth = distance_transform_edt(changed)
        pixel = tuple(map(int, np.unravel_index(depth.argmax(), depth.shape)))
        then, won = (int(mask[pixel]) for mask in masks)
        others = (value for value in scene.labels if value not in (then, won))
        choices = tuple(scene.labels[value] for value in sorted((then, won, *islice(others, MOST_CHOICES - 2))))
        why = f"It was {scene.labels[then]} and is {scene.labels[won]}. {why}"
        shown = masks_view(scene, before.state, pixel=pixel)
        return Question(f"{change}. Who wins the pixel with the cross?", scene.labels[won], why, choices, shown)
    first, second = (float((mask > 0).mean()) for mask in masks)
    why = f"Foreground {first:.1%} -> {second:.1%} of the image. {why}"
    return Question(f"{change}. How much foreground?", less_or_more(first, second), why)


def unused_controls(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the controls that the chosen method does not read, and why."""
    return dict.fromkeys(UNUSED[values["method"]], f"not in {TITLES[values['method']]}")


def masks_panel(experiment: Experiment) -> Panel:
    """Return method, s, alpha, t, variant, threshold, class, step and, on a page of their own, the CRF's strengths."""
    p = experiment.params
    steps = [("all steps", 0), *((f"{number} {name}", number) for number, (name, _) in enumerate(STEPS, start=1))]
    controls = {
        "method": menu("method", [(title, key) for key, title in TITLES.items()], "ppmg"),
        "class_id": menu("class", [("", 0)], 0),
        "variant": menu("variant", reversed(VARIANTS), p.variant),
        "s": slider("s, smoothing", p.s, 0, 0.75, 0.01),
        "alpha": log_slider(
            "alpha", p.alpha, -4, 6, (preset["alpha"] for preset in PRESETS.values() if "alpha" in preset)
        ),
        "t": slider("t, foreground", p.t, 0, 0.95, 0.01),
        "cam_threshold": slider("threshold", p.cam_threshold, 0.02, 0.98, 0.02),
        "step": menu("Algorithm 1:", steps, 0),
        "iterations": slider("iterations", p.crf_iterations, 1, 20, 1),
        "gauss_compat": slider("nearness", p.crf_gauss_compat, 0, 30, 0.5),
        "bilateral_compat": slider("colour", p.crf_bilateral_compat, 0, 30, 0.5),
        "gauss_sxy": slider("reach, pixels", p.crf_gauss_sxy, 1, 20, 0.5),
        "bilateral_sxy": slider("colour reach", p.crf_bilateral_sxy, 5, 160, 5),
        "bilateral_srgb": slider("grey levels", p.crf_bilateral_srgb, 2, 60, 1),
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

    return Panel(
        experiment, "Pseudo-mask", "masks", controls, state, masks_view, masks_question, PRESETS, chart,
        ("CRF", folded), unused_controls,
    )  # fmt: skip
