"""One record for every study: how it was made, and its cells, one for each setting and seed.

    {"manifest": {"study", "dataset", "split", "images", ...}, "cells": [{"s": 0.3, "seed": 0, "miou": 0.61}, ...]}

A cell is a small JSON-like mapping of settings and scores; scores are fractions 0..1, None where there was nothing
to compare with. Finished cells are kept at once, so that an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pmm
from pmm.errors import InputError
from pmm.files import read_json, without_nan, write_text
from pmm.run.folder import environment, fingerprint, project_root
from pmm.run.params import Params

if TYPE_CHECKING:
    from pmm.run.experiment import Experiment

EVEN = 0.0005  # differences in mIoU below this, 0.05 points, count as none
COLUMNS = {  # study -> what each of its cells must tell
    "masks": ("s", "alpha", "t", "variant", "crf_scale", "miou", "iou", "background"),
    "methods": ("method", "gauss_compat", "seed", "threshold", "s", "alpha", "chosen_miou", "miou"),
    "augment": ("augment", "seed", "s", "alpha", "miou", "c_v"),
    "losses": ("masks", "title", "pus", "variant", "beta", "kappa", "seed", "miou"),
    "cyclic": ("filtered", "seed", "round", "masks_miou", "model_miou"),
}
TABLES = {  # study -> title of its table, keys of a cell (for losses: of a row of `summarise`), note
    "masks": (
        "Pseudo-masks over s, alpha, t, variant and CRF",
        ("s", "alpha", "t", "variant", "crf_scale", "miou", "background"),
        "To look at: a grid evaluated by ground truth chooses nothing.",
    ),
    "methods": (
        "Ways to make pseudo-masks, each with its own setting",
        ("method", "gauss_compat", "seed", "threshold", "s", "alpha", "chosen_miou", "miou"),
        "Pixel labels of every fourth judged training image chose the setting; mIoU is of the other three.",
    ),
    "augment": ("Smoothing by augmentation", ("augment", "seed", "s", "alpha", "c_v", "val_map", "miou"), ""),
    "losses": (
        "Pretended under-fitting: settings by seeds",
        ("masks", "title", "mean", "spread", "seeds"),
        "Spread: sample standard deviation over the seeds of the training; masks are the same.",
    ),
    "cyclic": ("Cyclic rounds", COLUMNS["cyclic"], ""),
}
HEADINGS = {  # of a table's columns, where they differ from the key
    "crf_scale": "CRF strength", "gauss_compat": "Gaussian weight", "miou": "mIoU",
    "augment": "augmentation", "c_v": "mean c_v", "val_map": "classifier, val mAP", "masks": "training masks",
    "title": "loss (beta/kappa)", "mean": "val mIoU, mean", "chosen_miou": "mIoU where chosen",
    "masks_miou": "masks, train", "model_miou": "model, val",
}  # fmt: skip
# parameters that decide no cell of a study, and those that decide the cells of some studies alone
PLACES = (
    *("run_name", "runs_dir", "data_dir", "device", "workers", "loader_workers", "cam_batch_size"),
    *("ablation_seeds", "ablation_scenes", "ablation_train"),
)
GRID_AXES = ("ablation_s", "ablation_alpha", "ablation_t", "ablation_crf")
SCORES = ("miou", "masks_miou", "model_miou", "chosen_miou")
SHOWN_AS_THEY_ARE = (*SCORES, "val_map", "background", "mean", "spread", "seeds")  # all else is spelled out

Cell = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """A study with the cells that are finished."""

    manifest: dict[str, Any]  # see `manifest`
    cells: list[Cell]
    source: str = ""  # name of the file in `results/` that it was read from


def manifest(
    experiment: Experiment, study: str, split: str, images: int, seeds: Sequence[int], method: str, crf: bool
) -> dict[str, Any]:
    """Say how a study, one of `COLUMNS`, is made.

    Args:
        experiment, study: the run, and what is studied with it.
        split, images: "train", "judge" or "val", whose ground truth evaluates, and their number.
        seeds: of the trainings.
        method, crf: what is evaluated, in words, and whether it went through a CRF.
    """
    p = experiment.params
    data = {"dataset": experiment.data.name, "split": p.split_name(split), "images": images}
    trained = {"training_images": len(experiment.train_ids), "seeds": list(seeds), "method": method, "crf": crf}
    params = p.model_dump() | {name: Path(getattr(p, name)).name for name in ("data_dir", "runs_dir")}  # not where
    made = {"inputs": experiment.inputs_mark, "params": params, "environment": environment()}
    return {"study": study} | data | trained | made


def gather(
    made: Mapping[str, Any],
    units: Iterable[tuple[Mapping[str, Any], Callable[[], Iterable[Mapping[str, Any]]]]],
    path: str | Path | None = None,
) -> Record:
    """Put the cells of a study, whose `manifest` is `made`, together as they finish.

    Args:
        made: the manifest.
        units: the values that tell some cells from all others, and what measures these cells. It is not called where
            `path` holds them already, measured on the same data with the same parameters.
        path: the JSON file that is written anew after every unit, if any. A study goes on on another machine where
            its file is laid there, such as one of `results/`; how many cells are taken from it is printed.
    """
    record, known = Record(dict(made), []), _finished(made, path)
    for setting, measure in units:
        record.cells.extend(select(known, **setting) or [{**setting, **cell} for cell in measure()])
        if path is not None:
            write_record(record, path)
    return record


def _finished(made: Mapping[str, Any], path: str | Path | None) -> list[Cell]:
    """Cells that the file holds of the same study on the same data with the same parameters."""
    record = load_record(path) if path is not None else None
    if record is None or _decisive(record.manifest) != _decisive(made):
        return []
    print(f"{Path(path).name}: holds {len(record.cells)} finished cells; those asked for are not measured again")
    return record.cells


def _decisive(made: Mapping[str, Any]) -> dict[str, Any]:
    """What of a manifest decides the scores: not where it ran, nor which other cells were asked for."""
    other = PLACES if made["study"] in ("augment", "methods") else (*PLACES, *GRID_AXES)
    known = Params().model_dump()  # older records lack the newest parameters, and hold some that are gone
    params = {name: made["params"].get(name, default) for name, default in known.items() if name not in other}
    facts = ("study", "dataset", "split", "images", "training_images", "crf", "inputs")
    what = {name: made.get(name) for name in facts}
    return what | {"params": params, "version": made.get("environment", {}).get("pmm")}


def write_record(record: Record, path: str | Path) -> Path:
    """Write a record as JSON, whole or not at all; return the path."""
    content = {"manifest": record.manifest, "cells": record.cells}
    check_record(content, str(path))
    write_text(Path(path), json.dumps(without_nan(content), indent=1) + "\n")
    return Path(path)


def load_record(path: str | Path) -> Record | None:
    """Read a record; None where the file does not exist.

    Args:
        path: a JSON file, or the bare name of one in the project's `results/`, such as mask_ablations.

    Raises:
        InputError: the file is no JSON object, or a part is missing or out of range.
    """
    path = Path(path) if Path(path).suffix else project_root() / "results" / f"{path}.json"
    return check_record(read_json(path), str(path)) if path.exists() else None


def find_record(name: str, experiment: Experiment) -> Record | None:
    """Read the record in `results/` of a study that was measured on the run's data; None where there is none.

    Any file whose name ends in `name` may hold it, such as voc2012_animals_mask_ablations.json. Its manifest decides:
    the data set's name, and the number of training images where the run did not name its data itself (`data_name`).
    """
    data, images = experiment.data.name, len(experiment.train_ids)
    named = experiment.params.dataset == "scenes" or bool(experiment.params.data_name)
    for path in sorted((project_root() / "results").glob(f"*{name}.json")):
        record = load_record(path)
        same = named or record.manifest["training_images"] == images
        if same and record.manifest["dataset"] == data:
            return replace(record, source=f"results/{path.name}")
    return None


def check_record(content: Mapping[str, Any], source: str) -> Record:
    """Return a record if it is complete, raise InputError naming `source` otherwise."""
    made, cells = content.get("manifest"), content.get("cells")
    if not isinstance(made, Mapping) or not isinstance(made.get("params"), Mapping):
        raise InputError(f"{source}: manifest is missing or of the wrong type; run the study again")
    if made.get("study") not in COLUMNS:
        raise InputError(f"{source}: study = {made.get('study')}: choose one of {', '.join(COLUMNS)}")
    if not isinstance(cells, list) or not cells:
        raise InputError(f"{source}: cells is missing or empty; run the study again")
    for number, cell in enumerate(cells, 1):
        for key in COLUMNS[made["study"]]:
            if not isinstance(cell, Mapping) or key not in cell:
                raise InputError(f"{source}: cell {number}: {key} is missing; run the study again")
            if key in SCORES and not _is_score(cell[key]):
                raise InputError(f"{source}: cell {number}: {key} is no fraction 0..1; run the study again")
    return Record(dict(made), cells)


def _is_score(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value <= 1)  # not NaN


def stored_cell(path: Path, key: Mapping[str, Any], measure: Callable[[], Cell]) -> Cell:
    """Return the finished cell that a JSON file keeps under a key; measure and keep it, NaN as None, if there is none.

    The key is everything that decides the cell, JSON-like; the version of the package is added.

    Raises:
        InputError: the file is there but is no JSON object.
    """
    mark = fingerprint({"cell": dict(key), "version": pmm.__version__})
    kept = read_json(path).get(mark)
    if not kept:
        kept = json.loads(json.dumps(without_nan(measure())))
        write_text(path, json.dumps({**read_json(path), mark: kept}, indent=1) + "\n")
    return kept


def seeds_of(experiment: Experiment) -> list[int]:
    """Return the run's `ablation_seeds`; InputError where there are none."""
    if not experiment.params.ablation_seeds:
        raise InputError("ablation_seeds: is empty; give at least one seed, three show a spread")
    return list(experiment.params.ablation_seeds)


def select(cells: Iterable[Cell], **fixed: Any) -> list[Cell]:
    """Return the cells that have all the given values, in order."""
    return [cell for cell in cells if all(cell[name] == value for name, value in fixed.items())]


class Difference:
    """What one setting gains over another.

    Args:
        gains: seed -> difference, a fraction; the pairs that have both scores.
    """

    def __init__(self, gains: Mapping[Any, float]):
        self.gains, self.seeds = gains, len(gains)
        self.mean = statistics.fmean(gains.values()) if gains else math.nan
        self.spread = statistics.stdev(gains.values()) if len(gains) > 1 else None  # sample standard deviation
        self.ahead = sum(gain > 0 for gain in gains.values())  # pairs that gain

    @property
    def verdict(self) -> str:
        """The difference in words: a gain or loss only where all seeds agree and the mean exceeds spread and EVEN."""
        if self.spread is None:
            return "one seed, no verdict" if self.seeds else "no seed has both"
        if max(abs(self.mean), self.spread) < EVEN:
            return "makes no difference"
        if abs(self.mean) <= self.spread or self.ahead not in (0, self.seeds):
            return "within the spread of the seeds"
        return "gains" if self.mean > 0 else "loses"


def compare(cells: Iterable[Cell], against: Iterable[Cell], score: str = "miou") -> Difference:
    """Subtract a score of one setting from that of another, seed by seed; one cell a seed on either side."""
    plain = {cell["seed"]: cell[score] for cell in against if cell[score] is not None}
    both = [cell for cell in cells if cell[score] is not None and cell["seed"] in plain]
    return Difference({cell["seed"]: cell[score] - plain[cell["seed"]] for cell in both})


def summarise(cells: Iterable[Cell], *settings: str) -> list[Cell]:
    """Reduce the seeds of each setting, which the keys `settings` tell apart, to mean and spread of mIoU.

    Returns:
        A row for each setting: the settings, seeds (their number), values (the scores), mean, and spread (the sample
        standard deviation, None for a single seed), rounded to four digits.
    """
    groups: dict[tuple, list[float]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell[name] for name in settings), []).append(cell["miou"])
    return [dict(zip(settings, group, strict=True)) | _reduced(values) for group, values in groups.items()]


def _reduced(values: Sequence[float]) -> dict[str, Any]:
    spread = round(statistics.stdev(values), 4) if len(values) > 1 else None
    return {"seeds": len(values), "values": values, "mean": round(statistics.fmean(values), 4), "spread": spread}


def made_with(record: Record) -> str:
    """Say in words what the scores of a record were measured on."""
    made = record.manifest
    seeds = f"seed {made['seeds'][0]}" if len(made["seeds"]) == 1 else f"{len(made['seeds'])} seeds"
    gpu = made.get("environment", {}).get("gpu")
    return (
        f"{made['dataset']}, {made['images']} images of split {made['split']}, {made['training_images']} training "
        f"images, {seeds}, {made['method']}, CRF: {'yes' if made['crf'] else 'no'}{f', on an {gpu}' if gpu else ''}"
    )


def origin(record: Record | None, name: str) -> str:
    """Say in one line how a record was made and where it lies, or that `results/` has none of these data."""
    if record is None:
        return f"results/ has no {name} of these data; parameters like those of params/ablations.yaml make it."
    return f"{record.source or 'this run'}: {made_with(record)}."


def metrics_section(record: Record, which: str = "") -> dict[str, Any]:
    """Return a record as a section of metrics.json: a row for each cell, or for each setting of the losses.

    `which` ends the title, where several records of one study stand side by side.
    """
    title, columns, note = TABLES[record.manifest["study"]]
    rows = summarise(record.cells, "masks", "title") if record.manifest["study"] == "losses" else record.cells
    return {
        "title": f"{title}: {which}" if which else title,
        "data": made_with(record),
        "columns": [HEADINGS.get(name, name) for name in columns],
        "rows": [[_spelled(name, row.get(name)) for name in columns] for row in rows],
        "note": note,
    }


def _spelled(name: str, value: Any) -> Any:
    if name in SHOWN_AS_THEY_ARE:
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, int | float) else str(value or "–").replace("_", " ")


def published_section(figure: str | None = None, dataset: str | None = None) -> dict[str, Any]:
    """Return the published numbers of the paper and of work on the same pipeline, as a section of metrics.json.

    A figure that was not found is not among them; a detail that its source does not state is None, never guessed.

    Args:
        figure: "segmentation model", "CAM, multi-crop test" or "segmentation model of URN"; defaults to all.
        dataset: "VOC 2012" or "COCO 2014"; defaults to all.

    Raises:
        InputError: results/published.json is missing or damaged.
    """
    section = read_json(path := project_root() / "results" / "published.json")
    if not section:
        raise InputError(f"{path}: the published numbers are missing; restore the file from the project")
    rows = [row for row in section["rows"] if figure in (None, row[0]) and dataset in (None, row[1])]
    return {**section, "rows": rows}
