"""Where the time of a mask goes, step by step on one thread, beside what the memory could carry."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from measure import interleave
from recipe import DEMO, blobs, one_thread, photograph

from pmm.method.crf import PPMG_CRF, DenseCRF, unary
from pmm.method.lattice import _TANH, _rows, bilateral_features, build_lattice
from pmm.method.pseudo_mask import ppmg


def bandwidth() -> float:
    """Measure how many GB/s one thread reads and writes: a copy of 256 MiB, the best of five."""
    source, target = np.ones(1 << 26, np.float32), np.empty(1 << 26, np.float32)
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return round(2 * source.nbytes / best / 1e9, 1)


def where_time_goes(rounds: int, width: int = 500, height: int = 375) -> dict[str, Any]:
    """(h) Milliseconds of each step for one and four classes, and the gigabytes a second that it moves."""
    image = photograph(0, width, height)
    reach = (PPMG_CRF.bilateral_sxy,) * 2, (PPMG_CRF.bilateral_srgb,) * 3
    features = bilateral_features(image, *reach)
    carried = bandwidth()
    rows = [_row("build the bilateral lattice", lambda: build_lattice(features, 1), rounds, None, carried)]
    for n_classes in (1, 4):
        rows += _steps(image, blobs(0, n_classes, width, height), rounds, carried)
    return {"copy, GB/s": carried, "size": f"{width}x{height}", "iterations": PPMG_CRF.iterations, "steps": rows}


def _steps(image: np.ndarray, cam: np.ndarray, rounds: int, carried: float) -> list[dict[str, Any]]:
    n_classes = len(cam)
    field = DenseCRF(image)._field
    logits = _rows(np.zeros((n_classes, image.shape[0] * image.shape[1]), np.float32), 0)
    tables = field._tables(logits)

    energies = unary(cam), unary((1 - cam) ** np.float32(DEMO["alpha"]))
    lattices = [kernel.lattice for kernel in field._kernels]
    moved = sum(lattice.vertices.nbytes + lattice.slice_weights.nbytes for lattice in lattices) + logits.nbytes
    label = f"{n_classes} class{'es' if n_classes > 1 else ''}: "
    whole = partial(ppmg, image, cam, range(1, n_classes + 1), **DEMO)
    channels = 2 * logits.nbytes
    steps: dict[str, tuple[Callable[[], Any], int | None]] = {
        "slice, tanh, splat, once": (lambda: field._pass(logits, tables, _TANH, slices=True, last=False), moved),
        "slice and tanh alone": (lambda: field._pass(logits, tables, _TANH, slices=True, last=True), moved + channels),
        "blur both lattices, once": (lambda: field._blur(tables, n_classes), None),
        "all iterations, lattices kept": (lambda: field.binary_posterior(*energies, PPMG_CRF.iterations), None),
        "the whole mask from scratch": (whole, None),
    }
    return [
        _row(label + step, partial(one_thread, work), rounds, amount, carried) for step, (work, amount) in steps.items()
    ]


def _row(step: str, work: Callable[[], Any], rounds: int, moved: int | None, carried: float) -> dict[str, Any]:
    seconds = float(np.median(interleave({step: work}, rounds)[step]))
    row: dict[str, Any] = {"step": step, "ms": round(1000 * seconds, 2)}
    if moved:
        row |= {"MB moved": round(moved / 1e6, 1), "GB/s": round(moved / seconds / 1e9, 1)}
        row["share of the copy's bandwidth"] = round(moved / seconds / 1e9 / carried, 2)
    return row
