"""Pseudo-masks by many settings, evaluated on training images: sweeps of one parameter, and the grid of PPMG.

Ground truth evaluates here and chooses nothing: with image-level labels alone there is none to choose by, and the
run's values stand in its parameter file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from pmm.errors import InputError
from pmm.method.crf import CRFSettings, DenseCRF
from pmm.method.metrics import SegmentationScore, confusion_matrix, iou_per_class, mean_iou
from pmm.method.pseudo_mask import background_score, crf_pseudo_mask, ppmg, threshold_pseudo_mask
from pmm.run.params import Params
from pmm.studies.records import Cell, CellStore, Record, gather, manifest, select
from pmm.threads import map_images

if TYPE_CHECKING:  # a process that only makes masks needs no torch
    from pmm.run.experiment import Experiment

ALPHAS = (0.25, 0.5, 1.0, 2.0, 4.0)
THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 10))
FINE_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
SWEEPS = {
    "ppmg": ("PPMG, s = {s:g}", "alpha", ALPHAS),
    "crf": ("joint CRF", "alpha", ALPHAS),
    "threshold": ("CAM threshold", "threshold", THRESHOLDS),
}
"""Method -> its title, the parameter that is swept, and its values."""
AXES = ("s", "alpha", "t", "variant", "crf_scale")


@dataclass(frozen=True)
class EvaluatedImage:
    """What a setting needs of one training image."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    class_ids: np.ndarray
    """(C,) int64, mask values of the CAM's channels."""
    cam: np.ndarray
    """(C, H, W) float32 in [0, 1]."""
    truth: np.ndarray
    """(H, W) uint8 ground truth, IGNORE_INDEX is not evaluated."""


MaskMaker = Callable[[EvaluatedImage], list[np.ndarray]]
"""Image -> one mask (H, W) uint8 for each of V settings; called from several threads."""


def evaluated_ids(experiment: Experiment, count: int | None = 24) -> list[str]:
    """Choose evenly spaced training images that have a ground truth.

    Args:
        experiment: the run.
        count: number of images, >= 1; fewer where there are fewer, all for None.

    Raises:
        InputError: `count` is below 1, or no training image has a ground truth.
    """
    if count is not None and count < 1:
        raise InputError(f"count: {count} images; a study needs at least 1")
    data = experiment.data
    ids = [i for i in experiment.train_ids if data.has_mask(i)]
    if not ids:
        raise InputError(f"{data.name}: no training image has a ground truth; pseudo-masks cannot be evaluated without")
    places = np.linspace(0, len(ids) - 1, min(count or len(ids), len(ids))).round().astype(int)
    return [ids[place] for place in places]


def confusions(experiment: Experiment, masks: MaskMaker, ids: Sequence[str], title: str = "") -> np.ndarray:
    """Evaluate several settings on some training images.

    Args:
        experiment: the run.
        masks: makes an image's masks, one for each of V settings.
        ids: training images that have a ground truth.
        title: of the progress bar; none without a title.

    Returns:
        (V, n_classes, n_classes) int64, summed over the images, see `metrics.confusion_matrix`.
    """
    data = experiment.data
    images = (EvaluatedImage(data.image(i), *experiment.cam(i), data.mask(i)) for i in ids)
    count = partial(_confusions, masks, len(data.class_names))
    processes = experiment.crf_settings().engine != "lattice"  # which releases the GIL
    found = map_images(count, images, workers=experiment.params.workers, processes=processes)
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
    crf_scale: float
    """Factor on both weights of the dense CRF: 0 is no CRF, 1 the run's."""


def ppmg_masks(cells: Sequence[MaskCell], crf: CRFSettings, image: EvaluatedImage) -> list[np.ndarray]:
    """Make an image's mask by each setting; settings with the same strength of the CRF share its lattices."""
    shared = {scale: DenseCRF(image.image, _scaled(crf, scale)) for scale in {cell.crf_scale for cell in cells}}
    masks = []
    for cell in cells:
        settings = {name: getattr(cell, name) for name in ("s", "alpha", "t", "variant")}
        masks.append(ppmg(image.image, image.cam, image.class_ids, **settings, crf=shared[cell.crf_scale]))
    return masks


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
        values: None takes those of `SWEEPS`.
        count: number of images.
        s: smoothing strength of PPMG; None takes the run's.

    Returns:
        {"method", "parameter", "values", "miou", "images", "data"}; mIoU as fractions, one a value.

    Raises:
        InputError: as `evaluated_ids`, the method is unknown, or a value is out of range.
    """
    if method not in SWEEPS:
        raise InputError(f"method = {method}: choose one of {', '.join(SWEEPS)}")
    s = experiment.params.s if s is None else s
    title, parameter, usual = SWEEPS[method]
    title, values = title.format(s=s), [float(value) for value in (usual if values is None else values)]
    ids = evaluated_ids(experiment, count)
    total = confusions(experiment, _swept(experiment, method, values, s), ids, f"{title}: {parameter}")
    split = experiment.params.train_split
    return {
        "method": title,
        "parameter": parameter,
        "values": values,
        "miou": [round(mean_iou(confusion), 4) for confusion in total],
        "images": len(ids),
        "data": f"{experiment.data.name}, {len(ids)} images of split {split}, against ground truth",
    }


def _swept(experiment: Experiment, method: str, values: Sequence[float], s: float) -> MaskMaker:
    if method == "threshold":
        return partial(_threshold_masks, values)
    if method == "crf":
        return partial(_joint_masks, values, experiment.crf_settings(joint=True))
    own = replace(own_cell(experiment.params), s=s)
    return partial(ppmg_masks, [replace(own, alpha=alpha) for alpha in values], experiment.crf_settings())


def best_in_hindsight(sweep: dict[str, Any]) -> tuple[float, float]:
    """Return the value with the highest mIoU and that mIoU, known only from ground truth."""
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


def best_threshold(experiment: Experiment, thresholds: Sequence[float] = FINE_THRESHOLDS) -> dict[str, Any]:
    """Score the CAM at the fixed threshold that ground truth likes best, on all training images.

    Args:
        experiment: the run.
        thresholds: those tried, in [0, 1].

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
    own = own_cell(params)
    return {
        "s": sorted({0.0, own.s, *params.ablation_s}),
        "alpha": sorted({own.alpha, *params.ablation_alpha}),
        "t": sorted({own.t, *params.ablation_t}),
        "variant": ["official", "paper"],
        "crf_scale": sorted({own.crf_scale, *params.ablation_crf}),
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
    """Evaluate every cell that is not stored yet on the run's `ablation_scenes` training images.

    Args:
        experiment: the run.
        cells: None takes `plan` of the run.
        path: as in `records.gather`.

    Returns:
        A cell has its five settings, miou, iou by class name and the masks' share of background. None where no
        training image has a ground truth.
    """
    p = experiment.params
    if not any(experiment.data.has_mask(i) for i in experiment.train_ids):
        return None
    ids = evaluated_ids(experiment, p.ablation_scenes)
    made = manifest(experiment, "masks", "train", len(ids), [p.seed], "PPMG", crf=True)
    return gather(made, _finished(experiment, plan(p) if cells is None else cells, ids), path)


def _finished(experiment: Experiment, cells: Sequence[MaskCell], ids: Sequence[str]) -> Iterator[Cell]:
    store = CellStore(experiment.run.path / "ablation" / "masks.json")
    inputs = {"cams": experiment.cams().fingerprint, "ids": ids, "kernels": asdict(experiment.crf_settings())}
    if experiment.truth_marks:
        inputs["truth"] = experiment.truth_marks
    for cell in tqdm(cells, desc="mask grid", unit="cell"):
        key = {**asdict(cell), **inputs}
        yield store.get(key) or store.put(key, _measure(experiment, cell, ids))


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
    ids = experiment.train_ids[: experiment.params.ablation_scenes]
    shares = np.zeros((len(ids), len(alphas)))
    for row, image_id in enumerate(ids):
        cam = experiment.cam(image_id)[1]
        strongest = cam.max(axis=0, initial=0)
        shares[row] = [(background_score(cam, alpha) >= strongest).mean() for alpha in alphas]
    return shares.mean(axis=0).tolist()


def own_of(record: Record) -> dict[str, Any]:
    """Return the setting of the run that made a grid."""
    return {name: record.manifest["params"][name] for name in AXES[:-1]} | {"crf_scale": 1.0}


def pick(record: Record, *free: str, **fixed: Any) -> list[Cell]:
    """Return the cells of a grid with the given values; an axis that is neither free nor given is the run's own.

    Args:
        record: as `run_mask_grid` returned.
        *free: axes that may have any value, by which the cells are sorted.
        **fixed: axis -> value.
    """
    wanted = {name: value for name, value in {**own_of(record), **fixed}.items() if name not in free}
    return sorted(select(record.cells, **wanted), key=lambda cell: [cell[name] for name in free])


def table(record: Record, row: str, column: str) -> tuple[list[Any], list[Any], np.ndarray]:
    """Lay two axes of a grid out as a table of mIoU, everything else being the run's own.

    Returns:
        Row values, column values, (rows, columns) mIoU as fractions, NaN where a cell is not in the grid.
    """
    cells = pick(record, row, column)
    rows, columns = (sorted({cell[axis] for cell in cells}) for axis in (row, column))
    values = np.full((len(rows), len(columns)), np.nan)
    for cell in cells:
        values[rows.index(cell[row]), columns.index(cell[column])] = _known(cell["miou"])
    return rows, columns, values


def class_table(record: Record, axis: str) -> tuple[list[str], list[Any], np.ndarray]:
    """Return class names, the axis's values and (classes, values) IoU, everything else being the run's own."""
    cells = pick(record, axis)
    names = [name for name in cells[0]["iou"] if any(cell["iou"][name] is not None for cell in cells)]
    values = np.array([[_known(cell["iou"][name]) for cell in cells] for name in names])
    return names, [cell[axis] for cell in cells], values


def curves(record: Record, axis: str, lines: str) -> dict[str, tuple[list[Any], list[float]]]:
    """Return one curve of mIoU in per cent over `axis` for each value of `lines`, everything else being the run's."""
    names, values, miou = table(record, lines, axis)
    shown = [f"{name:g}" if isinstance(name, int | float) else str(name) for name in names]
    return {f"{lines} = {name}": (values, (100 * row).tolist()) for name, row in zip(shown, miou, strict=True)}


def curve(record: Record, axis: str) -> tuple[list[Any], list[float]]:
    """Return mIoU in per cent over `axis`, everything else being the run's own."""
    cells = pick(record, axis)
    return [cell[axis] for cell in cells], [100 * _known(cell["miou"]) for cell in cells]


def _known(value: float | None) -> float:
    return float("nan") if value is None else float(value)
