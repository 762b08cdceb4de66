"""Pseudo-masks by many settings, evaluated on training images: sweeps of one parameter, and the grid of PPMG.

Ground truth evaluates here and chooses nothing: with image-level labels alone there is none to choose by, and the
run's values stand in its parameter file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from pmm.errors import InputError
from pmm.method.crf import JOINT_CRF, PPMG_CRF, CRFSettings, DenseCRF
from pmm.method.metrics import SegmentationScore, confusion_matrix, iou_per_class, mean_iou
from pmm.method.pseudo_mask import background_score, crf_pseudo_mask, ppmg, threshold_pseudo_mask
from pmm.run.params import Params
from pmm.studies.records import Cell, Record, gather, manifest, select, stored_cell
from pmm.threads import map_images

if TYPE_CHECKING:  # a process that only makes masks needs no torch
    from pmm.run.experiment import Experiment

ALPHAS = (0.25, 0.5, 1.0, 2.0, 4.0)
THRESHOLDS = (0.02, 0.05, *(round(0.1 * step, 1) for step in range(1, 10)))  # maps of large scales want a small one
FINE_THRESHOLDS = (0.02, *(round(0.05 * step, 2) for step in range(1, 20)))
SWEEPS = {  # method -> its title, the parameter that is swept, and its values
    "ppmg": ("PPMG, s = {s:g}", "alpha", ALPHAS),
    "crf": ("joint CRF", "alpha", ALPHAS),
    "threshold": ("CAM threshold", "threshold", THRESHOLDS),
}
AXES = ("s", "alpha", "t", "variant", "crf_scale")


@dataclass(frozen=True)
class EvaluatedImage:
    """What a setting needs of one training image."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    class_ids: np.ndarray  # (C,) int64, mask values of the CAM's channels
    cam: np.ndarray  # (C, H, W) float32 in [0, 1]
    truth: np.ndarray  # (H, W) uint8 ground truth, IGNORE_INDEX is not evaluated


MaskMaker = Callable[[EvaluatedImage], list[np.ndarray]]
"""Image -> one mask (H, W) uint8 for each of V settings; called from several threads."""


def evaluated_ids(experiment: Experiment, count: int | None = 24) -> list[str]:
    """Choose `count` evenly spaced ids of those that judge; fewer where there are fewer, None all.

    Raises:
        InputError: `count` is below 1, or no training image has a ground truth.
    """
    if count is not None and count < 1:
        raise InputError(f"count: {count} images; a study needs at least 1")
    ids, name = experiment.judge_ids, experiment.data.name
    if not ids:
        raise InputError(f"{name}: no training image has a ground truth; pseudo-masks cannot be evaluated without")
    places = np.linspace(0, len(ids) - 1, min(count or len(ids), len(ids))).round().astype(int)
    return [ids[place] for place in places]


def confusions(experiment: Experiment, masks: MaskMaker, ids: Sequence[str], title: str = "") -> np.ndarray:
    """Evaluate V settings on training images that have a ground truth; `title` is of the progress bar, if any.

    Returns:
        (V, n_classes, n_classes) int64, summed over the images, see `metrics.confusion_matrix`.
    """
    data = experiment.data
    images = (EvaluatedImage(data.image(i), *experiment.cam(i), data.mask(i)) for i in ids)
    count = partial(_confusions, masks, len(data.class_names))
    found = map_images(count, images, workers=experiment.params.workers)
    return sum(tqdm(found, total=len(ids), desc=title, unit="image", leave=False, disable=not title))


def _confusions(masks: MaskMaker, n_classes: int, image: EvaluatedImage) -> np.ndarray:
    return np.stack([confusion_matrix(image.truth, mask, n_classes) for mask in masks(image)])  # (V, n, n)


@dataclass(frozen=True)
class MaskCell:
    """One setting of PPMG."""

    s: float
    alpha: float
    t: float
    variant: str
    crf_scale: float  # factor on both weights of the dense CRF: 0 is no CRF, 1 the run's


def ppmg_masks(cells: Sequence[MaskCell], crf: CRFSettings, image: EvaluatedImage) -> list[np.ndarray]:
    """Make an image's mask by each setting; settings with the same strength of the CRF share its lattices."""
    shared = {scale: DenseCRF(image.image, _scaled(crf, scale)) for scale in {cell.crf_scale for cell in cells}}
    given = image.image, image.cam, image.class_ids
    return [ppmg(*given, s=c.s, alpha=c.alpha, t=c.t, variant=c.variant, crf=shared[c.crf_scale]) for c in cells]


def _scaled(crf: CRFSettings, scale: float) -> CRFSettings:
    weights = {name: scale * getattr(crf, name) for name in ("gauss_compat", "bilateral_compat")}
    return replace(crf, **weights, iterations=crf.iterations if scale else 1)


def _joint_masks(alphas: Sequence[float], crf: CRFSettings, image: EvaluatedImage) -> list[np.ndarray]:
    shared = DenseCRF(image.image, crf)
    return [crf_pseudo_mask(image.image, image.cam, image.class_ids, alpha=a, crf=shared) for a in alphas]


def _threshold_masks(thresholds: Sequence[float], image: EvaluatedImage) -> list[np.ndarray]:
    return [threshold_pseudo_mask(image.cam, image.class_ids, t) for t in thresholds]


def sweep(
    experiment: Experiment, method: str, values: Sequence[float] | None = None, count: int = 24, s: float | None = None
) -> dict[str, Any]:
    """Score a method for several values of its one parameter: alpha > 0, or the threshold in [0, 1].

    Args:
        experiment: the run.
        method: one of `SWEEPS`.
        values: defaults to those of `SWEEPS`, for alpha also those of the run.
        count: number of images.
        s: smoothing strength of PPMG; defaults to the run's.

    Returns:
        {"method", "parameter", "values", "miou", "images", "data"}; mIoU as fractions, one a value.

    Raises:
        InputError: as `evaluated_ids`, the method is unknown, or a value is out of range.
    """
    if method not in SWEEPS:
        raise InputError(f"method = {method}: choose one of {', '.join(SWEEPS)}")
    title, parameter, usual = SWEEPS[method]
    p = experiment.params
    own = own_cell(p) if s is None else replace(own_cell(p), s=s)
    if parameter == "alpha":
        usual = sorted({*usual, *axes(p)["alpha"], p.alpha_crf})
    title, values = title.format(s=own.s), [float(value) for value in (usual if values is None else values)]
    fixed = {"s": own.s} if method == "ppmg" else {}
    masks = _maker(experiment, method, [{**fixed, parameter: value} for value in values])
    ids = evaluated_ids(experiment, count)
    total = confusions(experiment, masks, ids, f"{title}: {parameter}")
    split = experiment.params.split_name("judge")
    data = f"{experiment.data.name}, {len(ids)} images of split {split}, against ground truth"
    found = {"method": title, "parameter": parameter, "values": values}
    return found | {"miou": [round(mean_iou(one), 4) for one in total], "images": len(ids), "data": data}


def methods(params: Params) -> dict[str, list[dict[str, float]]]:
    """List what each way to make pseudo-masks may choose, threshold, alpha, or s and alpha, by the run's axes."""
    s, alphas = axes(params)["s"], axes(params)["alpha"]
    return {
        "threshold": [{"threshold": t} for t in FINE_THRESHOLDS],
        "crf": [{"alpha": alpha} for alpha in alphas],
        "ppmg_s0": [{"s": 0.0, "alpha": alpha} for alpha in alphas],
        "ppmg": [{"s": own, "alpha": alpha} for own in s if own for alpha in alphas],
    }


def ways(params: Params) -> list[tuple[str, float | None]]:
    """List the ways to make masks, each with its CRF's Gaussian weight: the released 3 and 10, and the run's."""
    own = {JOINT_CRF.gauss_compat, PPMG_CRF.gauss_compat, params.crf_joint_gauss_compat, params.crf_gauss_compat}
    return [("threshold", None), *((method, weight) for method in list(methods(params))[1:] for weight in sorted(own))]


def chosen_and_judged(experiment: Experiment, method: str, gauss_compat: float | None = None) -> Cell:
    """Choose one method's setting on every fourth image that judges, and score it on the other three.

    Without such a split the best of many settings would be compared with the best of few, and win by luck.

    Args:
        experiment: the run.
        method: of `methods`.
        gauss_compat: weight of the CRF's Gaussian kernel; None for the run's.

    Returns:
        The setting of `methods` (threshold, s, alpha; None where the method has none), chosen_miou on the images that
        chose, and miou on the others.

    Raises:
        InputError: fewer than four training images judge.
    """
    ids, options = evaluated_ids(experiment, None), methods(experiment.params)[method]
    if len(ids) < 4:
        raise InputError(f"judge_split: {len(ids)} images; one in four chooses, so give at least 4")
    chooses, judges = ids[::4], [i for place, i in enumerate(ids) if place % 4]
    make = partial(_maker, experiment, method, gauss_compat=gauss_compat)
    tried = confusions(experiment, make(options), chooses, f"{method}: choose")
    best = int(np.nanargmax([mean_iou(one) for one in tried]))
    (judged,) = confusions(experiment, make([options[best]]), judges, f"{method}: judge")
    setting = {name: options[best].get(name) for name in ("threshold", "s", "alpha")}
    return {**setting, "chosen_miou": round(mean_iou(tried[best]), 4), "miou": round(mean_iou(judged), 4)}


def _maker(
    experiment: Experiment, method: str, options: Sequence[dict[str, float]], gauss_compat: float | None = None
) -> MaskMaker:
    if method == "threshold":
        return partial(_threshold_masks, [option["threshold"] for option in options])
    crf = experiment.crf_settings(joint=method == "crf")
    crf = crf if gauss_compat is None else replace(crf, gauss_compat=gauss_compat)
    if method == "crf":
        return partial(_joint_masks, [option["alpha"] for option in options], crf)
    own = own_cell(experiment.params)
    return partial(ppmg_masks, [replace(own, **option) for option in options], crf)


def best_in_hindsight(sweep: dict[str, Any]) -> tuple[float, float]:
    """Return the value with the highest mIoU and that mIoU, known only from ground truth."""
    place = int(np.nanargmax(sweep["miou"]))
    return sweep["values"][place], sweep["miou"][place]


def sweep_section(sweeps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return sweeps of the same parameter and values as a section of metrics.json."""
    parameter, values = sweeps[0]["parameter"], [f"{value:g}" for value in sweeps[0]["values"]]
    return {
        "title": f"mIoU of pseudo-masks over {parameter}",
        "data": sweeps[0]["data"],
        "columns": [parameter, *(sweep["method"] for sweep in sweeps)],
        "rows": [list(row) for row in zip(values, *(sweep["miou"] for sweep in sweeps), strict=True)],
        "note": "To look at: a sweep against ground truth chooses nothing.",
    }


def best_threshold(experiment: Experiment, thresholds: Sequence[float] = FINE_THRESHOLDS) -> dict[str, Any]:
    """Score the CAM at the fixed threshold in [0, 1] that ground truth likes best, on all images that judge.

    Returns:
        {"threshold", "miou", "iou", "pixel_accuracy", "images"}, like the facts of the other pseudo-masks.

    Raises:
        InputError: no training image has a ground truth, or a threshold is out of range.
    """
    ids = evaluated_ids(experiment, None)
    total = confusions(experiment, partial(_threshold_masks, thresholds), ids, "CAM threshold")
    place = int(np.nanargmax([mean_iou(confusion) for confusion in total]))
    score = SegmentationScore(experiment.data.class_names)
    score.confusion[:, :-1] = total[place]
    return {"threshold": float(thresholds[place]), **score.result(), "images": len(ids)}


def own_cell(params: Params) -> MaskCell:
    """Return the run's own setting."""
    return MaskCell(params.s, params.alpha, params.t, params.variant, 1.0)


def axes(params: Params) -> dict[str, list[Any]]:
    """Return the values of each axis: those of the run's `ablation_*`, s = 0, and the run's own."""
    return {
        "s": sorted({0.0, params.s, *params.ablation_s}),
        "alpha": sorted({params.alpha, *params.ablation_alpha}),
        "t": sorted({params.t, *params.ablation_t}),
        "variant": ["official", "paper"],
        "crf_scale": sorted({1.0, *params.ablation_crf}),
    }


def plan(params: Params) -> list[MaskCell]:
    """List the grid's cells: s x alpha, then t x variant, then the CRF's strength; each once."""
    own, values = own_cell(params), axes(params)
    cells = [replace(own, s=s, alpha=alpha) for s in values["s"] for alpha in values["alpha"]]
    cells += [replace(own, t=t, variant=variant) for t in values["t"] for variant in values["variant"]]
    cells += [replace(own, crf_scale=scale) for scale in values["crf_scale"]]
    return list(dict.fromkeys(cells))


def run_mask_grid(
    experiment: Experiment, cells: Sequence[MaskCell] | None = None, path: Path | None = None
) -> Record | None:
    """Evaluate every cell that is not stored yet on `ablation_scenes` of the run's training images that judge.

    `cells` defaults to `plan` of the run; `path` is as in `records.gather`.

    Returns:
        A cell has its five settings, miou, iou by class name and the masks' share of background. None where no
        training image has a ground truth.
    """
    p = experiment.params
    if not experiment.judge_ids:
        return None
    ids = evaluated_ids(experiment, p.ablation_scenes)
    inputs = {"cams": experiment.cams().fingerprint, "ids": ids, "kernels": asdict(experiment.crf_settings())}
    if experiment.truth_marks:
        inputs["truth"] = experiment.truth_marks
    store = experiment.run.path / "ablation" / "masks.json"

    def measured(cell: MaskCell) -> list[Cell]:
        """Evaluate one cell, or take it from the run's folder."""
        return [stored_cell(store, {**asdict(cell), **inputs}, partial(_measure, experiment, cell, ids))]

    planned = tqdm(plan(p) if cells is None else cells, desc="mask grid", unit="cell")
    units = ((asdict(cell), partial(measured, cell)) for cell in planned)
    return gather(manifest(experiment, "masks", "judge", len(ids), [p.seed], "PPMG", crf=True), units, path)


def _measure(experiment: Experiment, cell: MaskCell, ids: Sequence[str]) -> Cell:
    confusion = confusions(experiment, partial(ppmg_masks, [cell], experiment.crf_settings()), ids)[0]
    iou = dict(zip(experiment.data.class_names, map(float, iou_per_class(confusion)), strict=True))
    background = float(confusion[:, 0].sum() / confusion.sum())
    return {**asdict(cell), "miou": mean_iou(confusion), "iou": iou, "background": background}


def background_shares(experiment: Experiment, alphas: Sequence[float]) -> list[float]:
    """Measure for each alpha > 0 the share of pixels that eq. 2 gives to the background without any CRF.

    A pixel is background where its background score is at least the strongest class. The first `ablation_scenes`
    training images are measured.
    """
    cams = (experiment.cam(i)[1] for i in experiment.train_ids[: experiment.params.ablation_scenes])
    shares = [[(background_score(cam, a) >= cam.max(axis=0, initial=0)).mean() for a in alphas] for cam in cams]
    return np.mean(shares, axis=0).tolist()


def own_of(record: Record) -> dict[str, Any]:
    """Return the setting of the run that made a grid."""
    return {name: record.manifest["params"][name] for name in AXES[:-1]} | {"crf_scale": 1.0}


def pick(record: Record, *free: str, **fixed: Any) -> list[Cell]:
    """Return the cells of a grid that have the `fixed` values, the run's own on all other axes but the `free`.

    They are sorted by the free axes.
    """
    wanted = {name: value for name, value in {**own_of(record), **fixed}.items() if name not in free}
    return sorted(select(record.cells, **wanted), key=lambda cell: [cell[name] for name in free])


def table(record: Record, row: str, column: str) -> tuple[list[Any], list[Any], np.ndarray]:
    """Lay two axes of a grid out, everything else being the run's own.

    Returns:
        Row values, column values, (rows, columns) mIoU as fractions, NaN where a cell is not in the grid.
    """
    found = {(cell[row], cell[column]): cell["miou"] for cell in pick(record, row, column)}
    rows, columns = (sorted(set(values)) for values in zip(*found, strict=True))
    return rows, columns, np.array([[found.get((r, c)) for c in columns] for r in rows], dtype=float)  # None is NaN


def class_table(record: Record, axis: str) -> tuple[list[str], list[Any], np.ndarray]:
    """Return class names, the axis's values and (classes, values) IoU, everything else being the run's own."""
    cells = pick(record, axis)
    rows = {name: [cell["iou"][name] for cell in cells] for name in cells[0]["iou"]}
    rows = {name: values for name, values in rows.items() if any(value is not None for value in values)}
    return list(rows), [cell[axis] for cell in cells], np.array(list(rows.values()), dtype=float)


def curves(record: Record, axis: str, lines: str | None = None) -> dict[str, tuple[list[Any], list[float]]]:
    """Return mIoU in per cent over `axis`, one curve a value of `lines` or "mIoU"; everything else is the run's own."""
    if lines is None:
        cells = pick(record, axis)
        return {"mIoU": ([c[axis] for c in cells], (100 * np.array([c["miou"] for c in cells], dtype=float)).tolist())}
    names, values, miou = table(record, lines, axis)
    shown = [name if isinstance(name, str) else f"{name:g}" for name in names]
    return {f"{lines} = {name}": (values, (100 * row).tolist()) for name, row in zip(shown, miou, strict=True)}
