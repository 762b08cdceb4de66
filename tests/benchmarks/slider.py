"""Latency of the explorer: from a slider's new value to the new picture, at the level of the widgets.

The next value comes 30 to 500 ms after the picture of the last one, as from a hand that looks and moves on; after the
longer pauses the chart of several scenes is being worked on and is broken off, as in use. Targets: 150 ms at 320x240,
400 ms at 500x375.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from recipe import blobs, photograph

from pmm.data.cams import save_cams
from pmm.explore.app import Explorer
from pmm.explore.masks import masks_panel
from pmm.explore.smoothing import smoothing_panel
from pmm.method.crf import CRFSettings
from pmm.run.folder import RunFolder
from pmm.run.params import Params

CASES = [(1, (320, 240), 150), (3, (320, 240), 150), (1, (500, 375), 400), (3, (500, 375), 400)]
SKIPPED = 3
PAUSES = (0.03, 0.5)


class OneScene:
    """What the explorer asks of an experiment, with one scene of a given size and number of classes."""

    def __init__(self, folder: Path, n_classes: int, size: tuple[int, int]):
        image, cam = photograph(0, *size), blobs(0, n_classes, *size)
        ids = tuple(range(1, n_classes + 1))
        self.params, self.run, self.train_ids = Params(), RunFolder(folder), ["scene"]
        self.judge_ids = self.train_ids
        names = ("background", *(f"class {i}" for i in ids))
        truth = np.where(cam.max(axis=0) > 0.4, cam.argmax(axis=0) + 1, 0).astype(np.uint8)
        self.data = SimpleNamespace(
            name="one", class_names=names, image=lambda _: image, mask=lambda _: truth, labels=lambda _: ids,
            has_mask=lambda _: True,
        )  # fmt: skip
        with self.run.stage("cams", {}, []) as stage:
            save_cams(stage.folder / "scene.npz", ids, cam)

    def crf_settings(self, joint: bool = False) -> CRFSettings:
        """Return the defaults."""
        return CRFSettings()


def latencies(experiment: OneScene, make_panel: Callable, slider: str, values: np.ndarray) -> np.ndarray:
    """Return seconds from each new value of a slider to the picture."""
    explorer = Explorer(experiment, [make_panel(experiment)])
    arrived, seconds = threading.Event(), []
    explorer.panel.main.picture.observe(lambda _: arrived.set(), "value")
    pauses = np.random.default_rng(0).uniform(*PAUSES, len(values))
    for value, pause in zip(values, pauses, strict=True):
        time.sleep(pause)
        arrived.clear()
        start = time.perf_counter()
        explorer.panel.controls[slider].value = float(value)
        if not arrived.wait(20):
            raise RuntimeError(f"no picture came for {slider} = {value}: {explorer.failures}")
        seconds.append(time.perf_counter() - start)
    explorer.worker.wait()
    return np.array(seconds[SKIPPED:])  # the first ones compile and build the lattices


def slider_to_picture(rounds: int) -> list[dict[str, Any]]:
    """(i) Milliseconds from a slider's event to the new picture, for the views with a picture of one scene."""
    steps = np.arange(rounds + SKIPPED)
    moves = (
        (masks_panel, "s", 0.05 + 0.013 * steps),
        (masks_panel, "alpha", 2.0 ** (steps % 8 - 3)),
        (smoothing_panel, "s", 0.05 + 0.013 * steps),
    )
    rows = []
    for n_classes, size, target in CASES:
        with tempfile.TemporaryDirectory() as folder:
            experiment = OneScene(Path(folder), n_classes, size)
            for make_panel, slider, values in moves:
                p50, p95 = 1000 * np.percentile(latencies(experiment, make_panel, slider, values), [50, 95])
                row = {"size": f"{size[0]}x{size[1]}", "classes": n_classes, "view": make_panel(experiment).title}
                row |= {"slider": slider, "p50 ms": round(float(p50), 1), "p95 ms": round(float(p95), 1)}
                rows.append({**row, "target ms": target})
    return rows
