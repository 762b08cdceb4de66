"""What all grids of notebook 07 share: a store of finished cells, and result files with their origin.

A grid is a list of cells, each a small JSON-like mapping. A finished cell is stored at once, so an
interrupted grid goes on where it stopped, and a cell whose inputs are unchanged is never computed twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pmm
from pmm.errors import InputError
from pmm.files import read_json, without_nan, write_text
from pmm.run.folder import environment, fingerprint, project_root

COLUMNS = {
    "mask_ablations": ("s", "alpha", "t", "variant", "crf", "miou", "iou", "background"),
    "augment_ablations": ("augment", "seed", "s", "alpha", "miou", "c_v"),
    "cyclic_ablations": ("filtered", "seed", "round", "masks", "model"),
}
"""Name of a result file -> what each of its cells must tell."""


class CellStore:
    """Finished cells in one JSON file, by the fingerprint of everything that decides them."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def get(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a finished cell, or None.

        Raises:
            InputError: the file is no JSON object.
        """
        return read_json(self.path).get(self._mark(key))

    def put(self, key: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a finished cell, and return it as the file holds it."""
        kept = json.loads(json.dumps(without_nan(dict(cell))))
        write_text(self.path, json.dumps({**read_json(self.path), self._mark(key): kept}, indent=1) + "\n")
        return kept

    @staticmethod
    def _mark(key: Mapping[str, Any]) -> str:
        return fingerprint({"cell": dict(key), "version": pmm.__version__})


def gather(experiment: Any, cells: Sequence[Mapping[str, Any]], data: str) -> dict[str, Any]:
    """Put cells together with how they were made.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        cells: in the order of the grid.
        data: data set, split and number of images that judge.

    Returns:
        {"manifest": {"environment", "params", "data"}, "cells"}, as `write_grid` stores it.
    """
    manifest = {"environment": environment(), "params": experiment.params.model_dump(), "data": data}
    return {"manifest": manifest, "cells": [dict(cell) for cell in cells]}


def write_grid(results: Mapping[str, Any], name: str, folder: str | Path) -> Path:
    """Write a grid as <folder>/<name>.json, whole or not at all; return the path."""
    path = Path(folder) / f"{name}.json"
    write_text(path, json.dumps(without_nan(check_grid(results, name, str(path))), indent=1) + "\n")
    return path


def load_grid(name: str, folder: str | Path | None = None) -> dict[str, Any] | None:
    """Read a grid; None where the file does not exist.

    Args:
        name: one of `COLUMNS`.
        folder: None takes the project's `results/`.

    Raises:
        InputError: the file is no JSON object, or a part is missing or out of range.
    """
    path = committed(name) if folder is None else Path(folder) / f"{name}.json"
    return check_grid(read_json(path), name, str(path)) if path.exists() else None


def committed(name: str) -> Path:
    """Return where the committed file of a grid lies, or would lie."""
    return project_root() / "results" / f"{name}.json"


def check_grid(results: Mapping[str, Any], name: str, source: str) -> dict[str, Any]:
    """Return a grid as a dict if it is complete, raise InputError naming `source` otherwise."""
    if name not in COLUMNS:
        raise InputError(f"name = {name}: choose one of {', '.join(COLUMNS)}")
    manifest, cells = results.get("manifest"), results.get("cells")
    if not isinstance(manifest, Mapping) or not isinstance(manifest.get("params"), Mapping):
        raise InputError(f"{source}: manifest is missing or of the wrong type; run the grid again")
    if not isinstance(cells, list) or not cells:
        raise InputError(f"{source}: cells is missing or empty; run the grid again")
    for number, cell in enumerate(cells, 1):
        missing = [key for key in COLUMNS[name] if not isinstance(cell, Mapping) or key not in cell]
        if missing:
            raise InputError(f"{source}: cell {number}: {missing[0]} is missing; run the grid again")
        for key in {"miou", "masks", "model"} & set(COLUMNS[name]):
            if cell[key] is not None and not _is_share(cell[key]):
                raise InputError(f"{source}: cell {number}: {key} is no fraction 0..1; run the grid again")
    return dict(results)


def origin(results: Mapping[str, Any] | None, name: str) -> str:
    """Say in one line what a committed grid was measured on, or that there is none."""
    if results is None:
        return f"results/{name}.json is absent: no longer grid to show; params/ablations.yaml makes one."
    return f"results/{name}.json: {results['manifest'].get('data', 'data not recorded')}."


def section(results: Mapping[str, Any], title: str, columns: Mapping[str, str], note: str = "") -> dict[str, Any]:
    """Return a grid as a section of metrics.json.

    Args:
        results: as `gather` returned.
        title: of the table.
        columns: key of a cell -> heading; shares are shown as per cent, settings as they are.
        note: what a reader must know.
    """
    shares = {"miou", "masks", "model", "val_map", "background"}
    rows = [
        [cell.get(key) if key in shares else _spelled(cell.get(key)) for key in columns] for cell in results["cells"]
    ]
    data = results["manifest"].get("data", "")
    return {"title": title, "data": data, "columns": list(columns.values()), "rows": rows, "note": note}


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, int | float) else str("–" if value is None else value)


def seeds_of(experiment: Any) -> list[int]:
    """Return the run's `ablation_seeds`.

    Raises:
        InputError: there are none.
    """
    seeds = list(experiment.params.ablation_seeds)
    if not seeds:
        raise InputError("ablation_seeds: is empty; give at least one seed, three show a spread")
    return seeds


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1
