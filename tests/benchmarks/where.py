"""Where the time of a mask goes, step by step on one thread, beside what the memory could carry."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from measure import interleave
from recipe import DEMO, blobs, photograph

from pmm.method.crf import PPMG_CRF, _lattice_engine, _unary
from pmm.method.lattice import LANES, STRIPES, _blur, _pass, _positions, build_lattice, stripes
from pmm.method.pseudo_mask import ppmg
from pmm.threads import limit_threads


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
    features = _bilateral_features(image)
    carried = bandwidth()
    rows = [_row("build the bilateral lattice", lambda: build_lattice(features, 1), rounds, None, carried)]
    for n_classes in (1, 4):
        rows += _steps(image, blobs(0, n_classes, width, height), rounds, carried)
    return {"copy, GB/s": carried, "size": f"{width}x{height}", "iterations": PPMG_CRF.iterations, "steps": rows}


def _bilateral_features(image: np.ndarray) -> np.ndarray:
    s, (height, width) = PPMG_CRF, image.shape[:2]
    position = _positions(height, width) / np.float32(s.bilateral_sxy)
    return np.hstack([position, image.reshape(-1, 3) / np.float32(s.bilateral_srgb)])


def _steps(image: np.ndarray, cam: np.ndarray, rounds: int, carried: float) -> list[dict[str, Any]]:
    n_classes, lanes = len(cam), 1 if len(cam) == 1 else LANES
    engine = _lattice_engine(image, PPMG_CRF, 1)
    gauss, bilateral = engine._lattices
    n = image.shape[0] * image.shape[1]
    logits = np.zeros((1, n, lanes), np.float32)
    tables = [np.zeros((1, lattice.n_vertices + 1, lanes), np.float32) for lattice in (gauss, bilateral)]
    splats = [np.zeros((STRIPES, *table.shape), np.float32) for table in tables]
    lattices = (gauss.vertices, gauss.weights, bilateral.vertices, bilateral.weights)

    def sweep(last: bool) -> None:
        for i, (first, end) in enumerate(stripes(n)):
            outputs = (splats[0][i], splats[1][i])
            _pass(logits, *lattices, *tables, *outputs, first, end, (0,) * lanes, 0, last)

    def blur(k: int) -> None:
        lattice = (gauss, bilateral)[k]
        _blur(splats[k][:, 0], lattice.ranges, lattice.neighbours, np.float32(1), tables[k][0])

    energies = _unary(cam), _unary((1 - cam) ** np.float32(DEMO["alpha"]))
    moved = sum(array.nbytes for array in lattices) + logits.nbytes
    label = f"{n_classes} class{'es' if n_classes > 1 else ''}: "
    whole = partial(ppmg, image, cam, range(1, n_classes + 1), **DEMO)

    def alone() -> None:
        with limit_threads(1):
            whole()

    return [
        _row(label + "slice, tanh, splat, once", lambda: sweep(False), rounds, moved, carried),
        _row(label + "slice and tanh alone", lambda: sweep(True), rounds, moved + logits.nbytes, carried),
        _row(label + "blur the position lattice, once", lambda: blur(0), rounds, None, carried),
        _row(label + "blur the bilateral lattice, once", lambda: blur(1), rounds, None, carried),
        _row(
            label + "all iterations, lattices kept", lambda: engine.binary_mean_field(*energies), rounds, None, carried
        ),
        _row(label + "the whole mask from scratch", alone, rounds, None, carried),
    ]


def _row(step: str, work: Callable[[], Any], rounds: int, moved: int | None, carried: float) -> dict[str, Any]:
    seconds = float(np.median(interleave({step: work}, rounds)[step]))
    row: dict[str, Any] = {"step": step, "ms": round(1000 * seconds, 2)}
    if moved:
        row |= {"MB moved": round(moved / 1e6, 1), "GB/s": round(moved / seconds / 1e9, 1)}
        row["share of the copy's bandwidth"] = round(moved / seconds / 1e9 / carried, 2)
    return row
