"""One record for every study: how it was made, and its cells, one for each setting and seed.

    {"manifest": {"study", "dataset", "split", "images", ...}, "cells": [{"s": 0.3, "seed": 0, "miou": 0.61}, ...]}

A cell is a small JSON-like mapping of settings and scores; scores are fractions 0..1, None where there was nothing
to compare with. Finished cells are kept at once, so that an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pmm
from pmm.errors import InputError
from pmm.files import read_json, without_nan, write_text
from pmm.run.folder import environment, fingerprint, project_root

if TYPE_CHECKING:
    from pmm.run.experiment import Experiment

EVEN = 0.0005
"""Differences in mIoU below this, 0.05 points, count as none."""
COLUMNS = {
    "masks": ("s", "alpha", "t", "variant", "crf_scale", "miou", "iou", "background"),
    "augment": ("augment", "seed", "s", "alpha", "miou", "c_v"),
    "losses": ("masks", "title", "pus", "variant", "beta", "kappa", "seed", "miou"),
    "cyclic": ("filtered", "seed", "round", "masks_miou", "model_miou"),
}
"""Study -> what each of its cells must tell."""
TABLES = {
    "masks": (
        "Pseudo-masks over s, alpha, t, variant and CRF",
        {"s": "s", "alpha": "alpha", "t": "t", "variant": "variant", "crf_scale": "CRF strength", "miou": "mIoU",
         "background": "background"},
        "To look at: a grid evaluated by ground truth chooses nothing.",
    ),
    "augment": (
        "Smoothing by augmentation",
        {"augment": "augmentation", "seed": "seed", "s": "s", "alpha": "alpha", "c_v": "mean c_v",
         "val_map": "classifier, val mAP", "miou": "mIoU"},
        "",
    ),
    "losses": (
        "Pretended under-fitting: settings by seeds",
        {"masks": "training masks", "title": "loss (beta/kappa)", "mean": "val mIoU, mean", "spread": "spread",
         "seeds": "seeds"},
        "Spread: sample standard deviation over the seeds of the training; masks are the same.",
    ),
    "cyclic": (
        "Cyclic rounds",
        {"filtered": "filtered", "seed": "seed", "round": "round", "masks_miou": "masks, train",
         "model_miou": "model, val"},
        "",
    ),
}  # fmt: skip
"""Study -> title of its table, key of a cell (of `summarise` for losses) -> heading, note."""
SCORES = ("miou", "masks_miou", "model_miou")
SHOWN_AS_THEY_ARE = (*SCORES, "val_map", "background", "mean", "spread", "seeds")
"""Numbers of a table; all other columns are settings, which it spells out."""

Cell = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """A study with the cells that are finished."""

    manifest: dict[str, Any]
    """study, dataset, split and images that the scores were measured on, training_images, seeds, method, crf, params,
    environment."""
    cells: list[Cell]


def manifest(
    experiment: Experiment, study: str, split: str, images: int, seeds: Sequence[int], method: str, crf: bool
) -> dict[str, Any]:
    """Say how a study is made.

    Args:
        experiment: the run.
        study: one of `COLUMNS`.
        split: "train" or "val", the images whose ground truth evaluates.
        images: their number.
        seeds: of the trainings.
        method: what is evaluated, in words.
        crf: whether the evaluated masks went through a CRF.
    """
    p = experiment.params
    data = {"dataset": experiment.data.name, "split": getattr(p, f"{split}_split"), "images": images}
    trained = {"training_images": len(experiment.train_ids), "seeds": list(seeds), "method": method, "crf": crf}
    return {"study": study} | data | trained | {"params": p.model_dump(), "environment": environment()}


def gather(made: Mapping[str, Any], cells: Iterable[Mapping[str, Any]], path: str | Path | None = None) -> Record:
    """Put cells together as they finish.

    Args:
        made: the `manifest`.
        cells: in the order of the study; each may take its time.
        path: a JSON file that is written anew after every cell; None writes none.
    """
    record = Record(dict(made), [])
    for cell in cells:
        record.cells.append(dict(cell))
        if path is not None:
            write_record(record, path)
    return record


def write_record(record: Record, path: str | Path) -> Path:
    """Write a record as JSON, whole or not at all; return the path."""
    content = without_nan(asdict(check_record(asdict(record), str(path))))
    write_text(Path(path), json.dumps(content, indent=1) + "\n")
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
        _check_cell(cell, COLUMNS[made["study"]], f"{source}: cell {number}")
    return Record(dict(made), cells)


def _check_cell(cell: Any, columns: Sequence[str], where: str) -> None:
    for key in columns:
        if not isinstance(cell, Mapping) or key not in cell:
            raise InputError(f"{where}: {key} is missing; run the study again")
        if key in SCORES and cell[key] is not None and not _is_share(cell[key]):
            raise InputError(f"{where}: {key} is no fraction 0..1; run the study again")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1


class CellStore:
    """Finished cells in one JSON file, by the fingerprint of everything that decides them."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def get(self, key: Mapping[str, Any]) -> Cell | None:
        """Return a finished cell, or None.

        Raises:
            InputError: the file is no JSON object.
        """
        return read_json(self.path).get(self._mark(key))

    def put(self, key: Mapping[str, Any], cell: Mapping[str, Any]) -> Cell:
        """Keep a finished cell, and return it as the file holds it."""
        kept = json.loads(json.dumps(without_nan(dict(cell))))
        write_text(self.path, json.dumps({**read_json(self.path), self._mark(key): kept}, indent=1) + "\n")
        return kept

    @staticmethod
    def _mark(key: Mapping[str, Any]) -> str:
        return fingerprint({"cell": dict(key), "version": pmm.__version__})


def seeds_of(experiment: Experiment) -> list[int]:
    """Return the run's `ablation_seeds`.

    Raises:
        InputError: there are none.
    """
    if not experiment.params.ablation_seeds:
        raise InputError("ablation_seeds: is empty; give at least one seed, three show a spread")
    return list(experiment.params.ablation_seeds)


def select(cells: Iterable[Cell], **fixed: Any) -> list[Cell]:
    """Return the cells that have all the given values, in order."""
    return [cell for cell in cells if all(cell[name] == value for name, value in fixed.items())]


@dataclass(frozen=True)
class Difference:
    """What one setting gains over another: seed -> difference, a fraction; the pairs that have both scores."""

    gains: Mapping[Any, float]

    @property
    def seeds(self) -> int:
        """Number of pairs."""
        return len(self.gains)

    @property
    def mean(self) -> float:
        """Mean of the differences; NaN without any."""
        return statistics.fmean(self.gains.values()) if self.gains else math.nan

    @property
    def spread(self) -> float | None:
        """Sample standard deviation of the differences; None for fewer than two."""
        return statistics.stdev(self.gains.values()) if self.seeds > 1 else None

    @property
    def ahead(self) -> int:
        """Number of pairs that gain."""
        return sum(gain > 0 for gain in self.gains.values())

    @property
    def verdict(self) -> str:
        """The difference in words, see `verdict`."""
        return verdict(self.mean, self.spread, self.ahead, self.seeds)


def compare(cells: Iterable[Cell], against: Iterable[Cell], score: str = "miou", pair: str = "seed") -> Difference:
    """Subtract the score of one setting from that of another, seed by seed.

    Args:
        cells, against: the cells of both settings, one for each seed; see `select`.
        score: what is compared.
        pair: what two cells must share to be compared.
    """
    plain = {cell[pair]: cell[score] for cell in against if cell[score] is not None}
    both = [cell for cell in cells if cell[score] is not None and cell[pair] in plain]
    return Difference({cell[pair]: cell[score] - plain[cell[pair]] for cell in both})


def verdict(mean: float, spread: float | None, ahead: int, seeds: int) -> str:
    """Word a difference: a gain or a loss only where every seed agrees and the mean exceeds the spread and EVEN."""
    if spread is None:
        return "one seed, no verdict" if seeds else "no seed has both"
    if max(abs(mean), spread) < EVEN:
        return "makes no difference"
    if abs(mean) <= spread or ahead not in (0, seeds):
        return "within the spread of the seeds"
    return "gains" if mean > 0 else "loses"


def summarise(cells: Iterable[Cell], *settings: str, score: str = "miou") -> list[Cell]:
    """Reduce the seeds of each setting to mean and spread.

    Args:
        cells: of a study.
        *settings: the keys that tell settings apart.
        score: what is reduced; the cells must have it.

    Returns:
        A row for each setting: the settings, seeds (their number), values (the scores), mean, and spread (the sample
        standard deviation, None for a single seed), rounded to four digits.
    """
    groups: dict[tuple, list[float]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell[name] for name in settings), []).append(cell[score])
    rows = []
    for group, values in groups.items():
        spread = round(statistics.stdev(values), 4) if len(values) > 1 else None
        facts = {"seeds": len(values), "values": values, "mean": round(statistics.fmean(values), 4), "spread": spread}
        rows.append(dict(zip(settings, group, strict=True)) | facts)
    return rows


def made_with(record: Record) -> str:
    """Say in words what the scores of a record were measured on."""
    made = record.manifest
    seeds = f"seed {made['seeds'][0]}" if len(made["seeds"]) == 1 else f"{len(made['seeds'])} seeds"
    return (
        f"{made['dataset']}, {made['images']} images of split {made['split']}, {made['training_images']} training "
        f"images, {seeds}, {made['method']}, CRF: {'yes' if made['crf'] else 'no'}"
    )


def origin(record: Record | None, name: str) -> str:
    """Say in one line how results/<name>.json was made, or that it is absent."""
    if record is None:
        return f"results/{name}.json is absent: no longer study to show; params/ablations.yaml makes one."
    return f"results/{name}.json: {made_with(record)}."


def metrics_section(record: Record, which: str = "") -> dict[str, Any]:
    """Return a record as a section of metrics.json: a row for each cell, or for each setting of the losses.

    Args:
        record: the study.
        which: ends the title, where several records of one study stand side by side.
    """
    title, columns, note = TABLES[record.manifest["study"]]
    rows = summarise(record.cells, "masks", "title") if record.manifest["study"] == "losses" else record.cells
    shown = [[_spelled(name, row.get(name)) for name in columns] for row in rows]
    title = f"{title}: {which}" if which else title
    return {"title": title, "data": made_with(record), "columns": list(columns.values()), "rows": shown, "note": note}


def _spelled(name: str, value: Any) -> Any:
    if name in SHOWN_AS_THEY_ARE:
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, int | float) else str(value or "–").replace("_", " ")
