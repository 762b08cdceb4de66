"""A run without any training, for the tests of the explorer: four tiny scenes with CAMs."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pmm.data.cams import save_cams
from pmm.method.crf import CRFSettings
from pmm.run.folder import RunFolder
from pmm.run.params import Params

SIZE = (48, 64)
NAMES = ("background", "one", "two_words", "three")


def truth_of(number):
    mask = np.zeros(SIZE, np.uint8)
    mask[10:30, 8:28] = 1
    mask[20:40, 38:58] = 2
    if number % 2:
        mask[mask == 2] = 0
    mask[9, 8:28] = 255
    return mask


def image_of(number):
    noise = np.random.default_rng(number).integers(0, 20, (*SIZE, 3))
    colours = np.array([[40, 40, 40], [210, 60, 60], [60, 60, 210]])
    return (colours[np.where(truth_of(number) == 255, 0, truth_of(number))] + noise).astype(np.uint8)


def cam_of(number):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    centres = [(20, 18), (30, 48)][: 1 if number % 2 else 2]
    maps = [np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 150.0) for cy, cx in centres]
    return np.stack([(m - m.min()) / (m.max() - m.min()) for m in maps]).astype(np.float32)


class TinyRun:
    """What the explorer asks of a `pmm.run.experiment.Experiment`."""

    def __init__(self, folder, cams=True, segmenter=True, early=True):
        self.params = Params(runs_dir=str(folder), run_name="tiny", crf_iterations=2)
        self.run = RunFolder(folder / "tiny")
        self.train_ids = self.judge_ids = [f"scene{n}" for n in range(4)]
        number = lambda i: int(i[-1])  # noqa: E731
        self.data = SimpleNamespace(
            name="squares",
            class_names=NAMES,
            image=lambda i: image_of(number(i)),
            image_path=lambda i: Path(f"{i}.png"),
            mask=lambda i: truth_of(number(i)),
            labels=lambda i: (1,) if number(i) % 2 else (1, 2),
            has_mask=lambda i: True,
        )
        self.asked = 0
        if cams:
            with self.run.stage("cams", {}, []) as stage:
                for n, i in enumerate(self.train_ids):
                    save_cams(stage.folder / f"{i}.npz", self.data.labels(i), cam_of(n))
        if segmenter:
            with self.run.stage("segmenter/pus", {}, []) as stage:
                if early:
                    (stage.folder / "early.pt").touch()

    def crf_settings(self, joint=False):
        return CRFSettings(iterations=2)

    def pseudo_mask(self, masks, image_id):
        return np.roll(np.where(self.data.mask(image_id) == 255, 0, self.data.mask(image_id)), 4, axis=1)

    def loss_map(self, name, image_id, masks, early=False):
        self.asked += 1
        noise = np.random.default_rng(int(early)).random(SIZE) * 0.5
        wrong = self.pseudo_mask(masks, image_id) != self.data.mask(image_id)
        return (noise + 2 * wrong).astype(np.float32)
