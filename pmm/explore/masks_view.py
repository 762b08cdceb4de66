"""The view of notebook 04: how a pseudo-mask comes about, and how good it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pmm.errors import InputError
from pmm.explore import canvas
from pmm.explore.charts import share_bars
from pmm.explore.sample import Sample
from pmm.explore.view import View, signed_points, unwarned
from pmm.figures.masks import MARK_RGB, disagreement
from pmm.figures.palette import palette
from pmm.method.crf import CRFSettings
from pmm.method.metrics import confusion_matrix, iou_per_class, mean_iou
from pmm.method.pseudo_mask import PpmgSteps, background_score, ppmg_steps, threshold_pseudo_mask
from pmm.method.smoothing import MIN_EXPONENT

METHODS = {"ppmg": "PPMG", "crf": "joint CRF", "threshold": "CAM threshold"}


@dataclass(frozen=True)
class MaskState:
    """One setting of the sliders.

    Args:
        method: one of METHODS.
        s, alpha, t, variant: as in `pmm.method.pseudo_mask.ppmg`; alpha is also that of the joint CRF.
        cam_threshold: of the CAM threshold, in [0, 1].
        crf: strengths of the dense CRF.
        class_id: whose steps are shown; it does not change the mask.
    """

    method: str = "ppmg"
    s: float = 0.3
    alpha: float = 0.5
    t: float = 0.05
    variant: str = "official"
    cam_threshold: float = 0.5
    crf: CRFSettings = field(default_factory=CRFSettings)
    class_id: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method: {self.method!r} is unknown; choose one of {', '.join(METHODS)}")

    def parameters(self) -> dict[str, Any]:
        """Return the setting under the names of `pmm.run.params.Params`."""
        crf = {f"crf_{name}": getattr(self.crf, name) for name in _CRF_NAMES}
        if self.method == "threshold":
            return {"seg_masks": "threshold", "cam_threshold": self.cam_threshold}
        if self.method == "crf":
            crf["crf_joint_gauss_compat"] = crf.pop("crf_gauss_compat")
            return {"seg_masks": "crf", "alpha_crf": self.alpha, **crf}
        own = {"s": self.s, "t": self.t, "alpha": self.alpha, "variant": self.variant}
        return {"seg_masks": "ppmg", **own, **crf}

    def short(self) -> str:
        """Name the setting in a few words."""
        words = {
            "ppmg": f"s {self.s:.2f}, alpha {self.alpha:.3g}, t {self.t:.2f}",
            "crf": f"alpha {self.alpha:.3g}",
            "threshold": f"threshold {self.cam_threshold:.2f}",
        }
        return f"{METHODS[self.method]}, {words[self.method]}"


_CRF_NAMES = ("iterations", "gauss_sxy", "gauss_compat", "bilateral_sxy", "bilateral_srgb", "bilateral_compat")


@dataclass(frozen=True, eq=False)
class MaskResult:
    """A pseudo-mask with its steps and, against ground truth, its quality."""

    mask: np.ndarray
    """(H, W) uint8."""
    smoothed: np.ndarray
    """(C, H, W) float32: the maps that enter the CRF."""
    background: np.ndarray
    """(C, H, W) or (1, H, W) float32: one score a class in PPMG, one for all else."""
    posterior: np.ndarray
    """(C, H, W) float32 or bool: what decides where each class is."""
    share: np.ndarray | None
    """(C, H, W) float32 in [0, 1], proportion inside the class's mask over its maximum; None without PPMG."""
    wanted: np.ndarray
    """(C,) 1 - s * c_v as the equation says; ones where nothing is smoothed."""
    iou: dict[int, float]
    """Class id -> IoU against ground truth; empty without."""
    mean_iou: float
    """NaN without ground truth."""


def make_mask(sample: Sample, state: MaskState) -> MaskResult:
    """Make the pseudo-mask of a setting; settings seen lately are remembered.

    Args:
        sample: the scene.
        state: the setting; `class_id` does not matter here.

    Raises:
        InputError: a value of the state is out of range.
    """
    with unwarned():
        return sample.remember("mask", _key(state), lambda: _made(sample, state))


def _key(state: MaskState) -> tuple:
    common = (state.method, state.crf)
    if state.method == "threshold":
        return (*common[:1], state.cam_threshold)
    if state.method == "crf":
        return (*common, state.alpha)
    return (*common, state.alpha, state.s, state.t, state.variant)


def _made(sample: Sample, state: MaskState) -> MaskResult:
    cam, ids, ones = sample.cam, list(sample.class_ids), np.ones(len(sample.cam))
    if state.method == "threshold":
        mask = threshold_pseudo_mask(cam, ids, state.cam_threshold)
        flat = np.full((1, *mask.shape), state.cam_threshold, np.float32)
        region = np.stack([mask == i for i in ids]) if ids else np.zeros((0, *mask.shape), bool)
        return MaskResult(mask, cam, flat, region, None, ones, *_quality(sample, mask))
    if state.method == "crf":
        background = background_score(cam, state.alpha)[None]
        # as `pmm.method.pseudo_mask.crf_pseudo_mask`, with the posterior kept
        posterior = sample.crf(state.crf).posterior(np.concatenate([background, cam])) if ids else background
        mask = np.array([0, *ids], np.uint8)[posterior.argmax(axis=0)]
        return MaskResult(mask, cam, background, posterior[1:], None, ones, *_quality(sample, mask))
    options = {"s": state.s, "alpha": state.alpha, "t": state.t, "variant": state.variant}
    steps = ppmg_steps(sample.image, cam, ids, crf=sample.crf(state.crf), **options)
    wanted = 1 - state.s * steps.c_v.astype(np.float64)
    kept = (steps.smoothed, steps.background, steps.posterior, _relative_share(steps), wanted)
    return MaskResult(steps.mask, *kept, *_quality(sample, steps.mask))


def _relative_share(steps: PpmgSteps) -> np.ndarray:
    share = steps.foreground * steps.proportion
    return share / np.maximum(share.max(axis=(1, 2), keepdims=True, initial=0), np.finfo(np.float32).tiny)


def _quality(sample: Sample, mask: np.ndarray) -> tuple[dict[int, float], float]:
    if sample.truth is None:
        return {}, float("nan")
    confusion = confusion_matrix(sample.truth, mask, 255)
    iou = iou_per_class(confusion)
    return {i: float(iou[i]) for i in (0, *sample.class_ids)}, mean_iou(confusion)


def masks_view(sample: Sample, state: MaskState, before: tuple[MaskState, MaskResult] | None = None) -> View:
    """Draw the steps of one class, the mask, the exact mask, what changed, and the IoU.

    Args:
        sample: the scene.
        state: the setting.
        before: an earlier setting of the same scene and its result, to compare with.

    Raises:
        InputError: the class is not in the image, or a value of the state is out of range.
    """
    channel, result = sample.channel(state.class_id), make_mask(sample, state)
    picture = canvas.grid(
        [_step_panels(sample, state, result, channel), _result_panels(sample, result, before)],
        sample.legend(),
    )
    numbers = {"mean_iou": result.mean_iou, "iou": result.iou, "foreground": float((result.mask > 0).mean())}
    text = _text(sample, state, result, before)
    alt = f"Pseudo-mask of {sample.id} by {state.short()}. " + ". ".join(text) + "."
    return View(picture, text, alt, numbers, _warning(sample, state, result))


def _step_panels(sample: Sample, state: MaskState, result: MaskResult, channel: int) -> list[canvas.Panel]:
    image, name = sample.small_image(), sample.name(state.class_id)
    colour = palette()[state.class_id]

    def over(array: np.ndarray, tagged: bool = True) -> np.ndarray:
        """Draw a map of the chosen class over the image."""
        picture = canvas.heat(canvas.shrink(array.astype(np.float32)), image=image)
        return canvas.name_tag(picture, name, colour) if tagged else picture

    background = result.background[min(channel, len(result.background) - 1)]
    third = {"ppmg": "3 binary CRF", "crf": "3 joint CRF", "threshold": "3 above the threshold"}[state.method]
    first = f"1 smoothed CAM, s = {state.s:.2f}" if state.method == "ppmg" else "1 CAM, not smoothed"
    second = f"2 background, alpha = {state.alpha:.3g}" if state.method != "threshold" else "2 background: a constant"
    if result.share is None:
        last = canvas.message(f"no proportion: only PPMG weighs the classes, {METHODS[state.method]} takes the highest")
    else:
        last = over(result.share[channel])
    return [
        (first, over(result.smoothed[channel])),
        (second, over(background, tagged=state.method == "ppmg")),
        (third, over(result.posterior[channel])),
        ("4 proportion inside it", last),
    ]


def _result_panels(
    sample: Sample, result: MaskResult, before: tuple[MaskState, MaskResult] | None
) -> list[canvas.Panel]:
    image = sample.small_image()
    exact = canvas.message("no exact mask: nothing to compare with")
    if sample.truth is not None:
        exact = sample.small_truth()
    changed = canvas.message("move a slider: the pixels that change are marked here")
    if before is not None:
        differ = canvas.shrink(disagreement(before[1].mask, result.mask))
        changed = canvas.paint(canvas.pale(image), (differ, MARK_RGB))
    return [
        ("5 pseudo-mask", canvas.class_overlay(image, canvas.shrink(result.mask, smooth=False))),
        ("exact mask (ground truth)", exact),
        ("changed pixels", changed),
        ("IoU in % (change in points)", _bars(sample, result, before[1] if before else None)),
    ]


def _bars(sample: Sample, result: MaskResult, before: MaskResult | None) -> np.ndarray:
    if sample.truth is None:
        return canvas.message("IoU needs an exact mask, and a photograph of your own has none")
    rows = {0: "background", **dict(zip(sample.class_ids, sample.names, strict=True))}
    shares = {"mean": result.mean_iou, **{rows[i]: result.iou[i] for i in rows}}
    notes = [signed_points(result.mean_iou, before and before.mean_iou)]
    notes += [signed_points(result.iou[i], before and before.iou[i]) for i in rows]
    colours = [(60, 60, 60), *(palette()[i] for i in rows)]
    return share_bars(shares, colours, notes)


def _text(
    sample: Sample, state: MaskState, result: MaskResult, before: tuple[MaskState, MaskResult] | None
) -> tuple[str, ...]:
    covered = ", ".join(
        f"{n} {(result.mask == i).mean():.1%}" for i, n in zip(sample.class_ids, sample.names, strict=True)
    )
    area = f"share of the image: {covered}, background {(result.mask == 0).mean():.1%}"
    if sample.truth is None:
        return (area,)
    each = ", ".join(f"{sample.name(i)} {100 * v:.1f} %" for i, v in result.iou.items() if np.isfinite(v))
    mean = f"mean IoU {100 * result.mean_iou:.1f} % against ground truth ({each})"
    if before is None:
        return mean, area
    points = signed_points(result.mean_iou, before[1].mean_iou)
    return mean, f"{points} points against the previous setting ({before[0].short()})", area


def _warning(sample: Sample, state: MaskState, result: MaskResult) -> str:
    low = [f"{sample.names[i]} ({value:.2f})" for i, value in enumerate(result.wanted) if value < MIN_EXPONENT]
    if not low:
        return ""
    return (
        f"s = {state.s:.2f} is too large for {', '.join(low)}: 1 - s * c_v would turn the map flat or upside down. "
        f"The exponent stays at {MIN_EXPONENT:g}; lower s."
    )
