"""The grid of pseudo-masks: s x alpha, t x variant, strength of the CRF, judged on training scenes.

Ground truth judges here and chooses nothing: with image-level labels alone there is none to choose by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from pmm.method.metrics import iou_per_class, mean_iou
from pmm.method.pseudo_mask import background_score, ppmg
from pmm.run.params import Params
from pmm.studies.grids import CellStore, gather, section
from pmm.studies.sweeps import Sample, judged_ids, total_confusion

AXES = ("s", "alpha", "t", "variant", "crf")


@dataclass(frozen=True)
class MaskCell:
    """One setting of PPMG."""

    s: float
    alpha: float
    t: float
    variant: str
    crf: float
    """Factor on both weights of the dense CRF: 0 is no CRF, 1 the run's."""


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
        "crf": sorted({own.crf, *params.ablation_crf}),
    }


def plan(params: Params) -> list[MaskCell]:
    """List the grid's cells: s x alpha, then t x variant, then the CRF's strength; each once."""
    own, values = own_cell(params), axes(params)
    cells = [replace(own, s=s, alpha=alpha) for s in values["s"] for alpha in values["alpha"]]
    cells += [replace(own, t=t, variant=variant) for t in values["t"] for variant in values["variant"]]
    cells += [replace(own, crf=crf) for crf in values["crf"]]
    return list(dict.fromkeys(cells))


def run_mask_grid(
    experiment: Any, cells: Sequence[MaskCell] | None = None, count: int | None = None
) -> dict[str, Any] | None:
    """Compute every cell that is not stored yet.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        cells: None takes `plan` of the run.
        count: number of scenes that judge; None takes the run's `ablation_scenes`.

    Returns:
        As `grids.gather`; a cell has its five settings, miou, iou by class name and the masks' share of
        background. None where no training image has a ground truth.
    """
    data, params = experiment.data, experiment.params
    if not any(data.has_mask(i) for i in experiment.train_ids):
        return None
    ids = judged_ids(experiment, count or params.ablation_scenes)
    cells = plan(params) if cells is None else list(cells)
    store = CellStore(experiment.run.path / "ablation" / "masks.json")
    inputs = {"cams": experiment.cams().fingerprint, "ids": ids, "kernels": asdict(experiment.crf_settings())}
    if experiment.truth_marks:
        inputs["truth"] = experiment.truth_marks
    done = []
    for cell in tqdm(cells, desc="mask grid", unit="cell"):
        key = {**asdict(cell), **inputs}
        done.append(store.get(key) or store.put(key, _measure(experiment, cell, ids)))
    split = params.train_split
    return gather(experiment, done, f"{data.name}, {len(ids)} images of split {split}, seed {params.seed}, PPMG")


def _measure(experiment: Any, cell: MaskCell, ids: Sequence[str]) -> dict[str, Any]:
    """Make the masks of one cell and compare them with ground truth."""
    crf = experiment.crf_settings()
    weights = {"gauss_compat": crf.gauss_compat * cell.crf, "bilateral_compat": crf.bilateral_compat * cell.crf}
    crf = replace(crf, **weights, iterations=crf.iterations if cell.crf else 1)
    settings = {name: getattr(cell, name) for name in ("s", "alpha", "t", "variant")}

    def masks(sample: Sample) -> list[np.ndarray]:
        """Make the one mask of the cell."""
        return [ppmg(sample.image, sample.cam, sample.class_ids, **settings, crf=crf)]

    confusion = total_confusion(experiment, masks, ids)[0]
    iou = dict(zip(experiment.data.class_names, map(float, iou_per_class(confusion)), strict=True))
    background = float(confusion[:, 0].sum() / confusion.sum())
    return {**asdict(cell), "miou": mean_iou(confusion), "iou": iou, "background": background}


def background_shares(experiment: Any, alphas: Sequence[float], count: int | None = None) -> list[float]:
    """Measure the share of pixels that eq. 2 gives to the background without any CRF.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        alphas: background exponents, > 0.
        count: number of training images; None takes the run's `ablation_scenes`.

    Returns:
        For each alpha the share of pixels whose background score is at least the strongest class.
    """
    ids = experiment.train_ids[: count or experiment.params.ablation_scenes]
    shares = np.zeros((len(ids), len(alphas)))
    for row, image_id in enumerate(ids):
        cam = experiment.cam(image_id)[1]
        strongest = cam.max(axis=0, initial=0)
        shares[row] = [(background_score(cam, alpha) >= strongest).mean() for alpha in alphas]
    return shares.mean(axis=0).tolist()


def own_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the setting of the run that made a grid."""
    params = results["manifest"]["params"]
    return {name: params[name] for name in AXES[:-1]} | {"crf": 1.0}


def pick(results: Mapping[str, Any], **fixed: Any) -> list[dict[str, Any]]:
    """Return the cells with the given values, in order; what is not given is the run's own, "any" is all.

    Args:
        results: as `run_mask_grid` returned.
        **fixed: axis -> value, or "any".
    """
    wanted = {**own_of(results), **fixed}
    return [c for c in results["cells"] if all(v == "any" or c[name] == v for name, v in wanted.items())]


def table(results: Mapping[str, Any], row: str, column: str) -> tuple[list[Any], list[Any], np.ndarray]:
    """Lay two axes out as a table of mIoU, everything else being the run's own.

    Returns:
        Row values, column values, (rows, columns) mIoU as fractions, NaN where a cell is not in the grid.
    """
    cells = pick(results, **{row: "any", column: "any"})
    rows, columns = (sorted({cell[axis] for cell in cells}) for axis in (row, column))
    values = np.full((len(rows), len(columns)), np.nan)
    for cell in cells:
        values[rows.index(cell[row]), columns.index(cell[column])] = _known(cell["miou"])
    return rows, columns, values


def class_table(results: Mapping[str, Any], axis: str) -> tuple[list[str], list[Any], np.ndarray]:
    """Return class names, the axis's values and (classes, values) IoU, everything else being the run's own."""
    cells = sorted(pick(results, **{axis: "any"}), key=lambda cell: cell[axis])
    names = [name for name in cells[0]["iou"] if any(cell["iou"][name] is not None for cell in cells)]
    values = np.array([[_known(cell["iou"][name]) for cell in cells] for name in names])
    return names, [cell[axis] for cell in cells], values


def curves(results: Mapping[str, Any], axis: str, lines: str) -> dict[str, tuple[list[Any], list[float]]]:
    """Return one curve of mIoU in per cent over `axis` for each value of `lines`, everything else being the run's."""
    names, values, miou = table(results, lines, axis)
    shown = [f"{name:g}" if isinstance(name, int | float) else str(name) for name in names]
    return {f"{lines} = {name}": (values, (100 * row).tolist()) for name, row in zip(shown, miou, strict=True)}


def curve(results: Mapping[str, Any], axis: str, what: str = "miou") -> tuple[list[Any], list[float]]:
    """Return one number of the cells in per cent over `axis`, everything else being the run's own."""
    cells = sorted(pick(results, **{axis: "any"}), key=lambda cell: cell[axis])
    return [cell[axis] for cell in cells], [100 * _known(cell[what]) for cell in cells]


def metrics_section(results: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Return the grid as a section of metrics.json."""
    columns = {**dict(zip(AXES, AXES, strict=True)), "crf": "CRF strength", "miou": "mIoU", "background": "background"}
    return section(results, title, columns, "To look at: a grid judged by ground truth chooses nothing.")


def _known(value: float | None) -> float:
    return float("nan") if value is None else float(value)
