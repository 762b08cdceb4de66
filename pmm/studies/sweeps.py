"""Sweeps of one pseudo-mask parameter on a handful of training scenes, judged against ground truth.

A sweep shows what a parameter does. It chooses nothing: with image-level labels alone there is no ground
truth to choose by, and the run's values stand in its parameter file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from pmm.errors import InputError
from pmm.method.crf import CRFSettings, DenseCRF
from pmm.method.metrics import SegmentationScore, confusion_matrix, mean_iou
from pmm.method.pseudo_mask import crf_pseudo_mask, ppmg, threshold_pseudo_mask
from pmm.threads import limit_threads

ALPHAS = (0.25, 0.5, 1.0, 2.0, 4.0)
THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 10))
FINE_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))


@dataclass(frozen=True)
class Sample:
    """What a sweep needs of one scene."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    class_ids: np.ndarray
    """(C,) int64, mask values of the CAM's channels."""
    cam: np.ndarray
    """(C, H, W) float32 in [0, 1]."""
    truth: np.ndarray
    """(H, W) uint8 ground truth, 255 is not judged."""


def judged_ids(experiment: Any, count: int | None = 24) -> list[str]:
    """Choose evenly spaced training images that have a ground truth.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        count: number of images, >= 1; fewer where there are fewer, all for None.

    Raises:
        InputError: `count` is below 1, or no training image has a ground truth.
    """
    if count is not None and count < 1:
        raise InputError(f"count: {count} images; a sweep needs at least 1")
    data = experiment.data
    judged = [i for i in experiment.train_ids if data.has_mask(i)]
    if not judged:
        raise InputError(f"{data.name}: no training image has an exact mask; a sweep cannot be judged without")
    places = np.linspace(0, len(judged) - 1, min(count or len(judged), len(judged))).round().astype(int)
    return [judged[place] for place in places]


def ppmg_alpha_sweep(
    experiment: Any, alphas: Sequence[float] = ALPHAS, s: float | None = None, count: int = 24
) -> dict[str, Any]:
    """Score PPMG for several background exponents alpha.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        alphas: values of alpha, > 0.
        s: smoothing strength; None takes the run's.
        count: number of scenes.

    Returns:
        {"method", "parameter", "values", "miou", "images", "data"}; mIoU as fractions, one a value.

    Raises:
        InputError: as `judged_ids`, or a value is out of range.
    """
    p = experiment.params
    s = p.s if s is None else s
    masks = partial(_ppmg_masks, alphas=tuple(alphas), s=s, t=p.t, variant=p.variant, crf=experiment.crf_settings())
    return _sweep(experiment, f"PPMG, s = {s:g}", "alpha", alphas, masks, count)


def joint_alpha_sweep(experiment: Any, alphas: Sequence[float] = ALPHAS, count: int = 24) -> dict[str, Any]:
    """Score the joint CRF for several background exponents alpha; result as `ppmg_alpha_sweep`."""
    masks = partial(_joint_masks, alphas=tuple(alphas), crf=experiment.crf_settings(joint=True))
    return _sweep(experiment, "joint CRF", "alpha", alphas, masks, count)


def threshold_sweep(experiment: Any, thresholds: Sequence[float] = THRESHOLDS, count: int = 24) -> dict[str, Any]:
    """Score the CAM with several fixed thresholds in [0, 1]; result as `ppmg_alpha_sweep`."""
    masks = partial(_threshold_masks, thresholds=tuple(thresholds))
    return _sweep(experiment, "CAM threshold", "threshold", thresholds, masks, count)


def best(sweep: dict[str, Any]) -> tuple[float, float]:
    """Return the value with the highest mIoU and that mIoU: hindsight, known only from ground truth."""
    place = int(np.nanargmax(sweep["miou"]))
    return sweep["values"][place], sweep["miou"][place]


def sweep_section(sweeps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return sweeps of the same parameter and values as a section of metrics.json."""
    values = [f"{value:g}" for value in sweeps[0]["values"]]
    columns = [sweep["miou"] for sweep in sweeps]
    return {
        "title": f"mIoU of pseudo-masks over {sweeps[0]['parameter']}",
        "data": sweeps[0]["data"],
        "columns": [sweeps[0]["parameter"], *(sweep["method"] for sweep in sweeps)],
        "rows": [list(row) for row in zip(values, *columns, strict=True)],
        "note": "To look at: a sweep against ground truth chooses nothing.",
    }


def best_threshold(experiment: Any, thresholds: Sequence[float] = FINE_THRESHOLDS) -> dict[str, Any]:
    """Score the CAM at the fixed threshold that ground truth likes best, on all training images.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        thresholds: those tried, in [0, 1].

    Returns:
        {"threshold", "miou", "iou", "pixel_accuracy", "images"}, like the facts of the other pseudo-masks.

    Raises:
        InputError: no training image has a ground truth, or a threshold is out of range.
    """
    masks = partial(_threshold_masks, thresholds=tuple(thresholds))
    total, images = _total(experiment, masks, None, "CAM threshold")
    place = int(np.nanargmax([mean_iou(confusion) for confusion in total]))
    score = SegmentationScore(experiment.data.class_names)
    score.confusion[:, :-1] = total[place]
    return {"threshold": float(thresholds[place]), **score.result(), "images": images}


def _sweep(
    experiment: Any,
    method: str,
    parameter: str,
    values: Sequence[float],
    masks: Callable[[Sample], list[np.ndarray]],
    count: int,
) -> dict[str, Any]:
    total, images = _total(experiment, masks, count, f"{method}: {parameter}")
    data, split = experiment.data, experiment.params.train_split
    return {
        "method": method,
        "parameter": parameter,
        "values": [float(value) for value in values],
        "miou": [round(mean_iou(confusion), 4) for confusion in total],
        "images": images,
        "data": f"{data.name}, {images} images of split {split}, against ground truth",
    }


def _total(
    experiment: Any, masks: Callable[[Sample], list[np.ndarray]], count: int | None, title: str
) -> tuple[np.ndarray, int]:
    """Sum up the confusions of the chosen images, (V, n_classes, n_classes), and count the images."""
    ids = judged_ids(experiment, count)
    return total_confusion(experiment, masks, ids, title), len(ids)


def total_confusion(
    experiment: Any, masks: Callable[[Sample], list[np.ndarray]], ids: Sequence[str], title: str = ""
) -> np.ndarray:
    """Make the masks of some training images and sum up their confusions.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        masks: sample -> V masks (H, W) uint8; called from several threads.
        ids: training images that have a ground truth.
        title: of the progress bar; none without a title.

    Returns:
        (V, n_classes, n_classes) int64, see `metrics.confusion_matrix`.
    """
    data = experiment.data
    samples = (Sample(data.image(i), *experiment.cam(i), data.mask(i)) for i in ids)
    work = (delayed(_confusions)(sample, masks, len(data.class_names)) for sample in samples)
    # the lattice lets go of Python's lock; the other engine needs processes
    prefer = "threads" if experiment.crf_settings().engine == "lattice" else "processes"
    found = Parallel(n_jobs=experiment.params.workers or -1, prefer=prefer, return_as="generator")(work)
    return sum(tqdm(found, total=len(ids), desc=title, unit="image", leave=False, disable=not title))


def _confusions(sample: Sample, masks: Callable[[Sample], list[np.ndarray]], n_classes: int) -> np.ndarray:
    """Confusion of one scene for every value of the parameter, (V, n_classes, n_classes)."""
    with limit_threads(1):  # the other scenes keep the other cores busy
        return np.stack([confusion_matrix(sample.truth, mask, n_classes) for mask in masks(sample)])


def _ppmg_masks(
    sample: Sample, *, alphas: Sequence[float], s: float, t: float, variant: str, crf: CRFSettings
) -> list[np.ndarray]:
    shared = DenseCRF(sample.image, crf)
    return [
        ppmg(sample.image, sample.cam, sample.class_ids, s=s, alpha=a, t=t, variant=variant, crf=shared) for a in alphas
    ]


def _joint_masks(sample: Sample, *, alphas: Sequence[float], crf: CRFSettings) -> list[np.ndarray]:
    shared = DenseCRF(sample.image, crf)
    return [crf_pseudo_mask(sample.image, sample.cam, sample.class_ids, alpha=a, crf=shared) for a in alphas]


def _threshold_masks(sample: Sample, *, thresholds: Sequence[float]) -> list[np.ndarray]:
    return [threshold_pseudo_mask(sample.cam, sample.class_ids, t) for t in thresholds]
