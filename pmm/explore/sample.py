"""One scene as the explorer keeps it: image, CAM, names, ground truth where there is one, and its CRFs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from pmm.data.cam_files import load_cams
from pmm.errors import InputError
from pmm.explore import canvas
from pmm.figures.style import spaced
from pmm.method.cam import check_cam, check_class_ids
from pmm.method.crf import CRFSettings, DenseCRF, check_image

KEPT = 6
"""Results a sample remembers of each kind; the oldest goes first."""
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Sample:
    """A scene or a photograph, ready for every view.

    Raises:
        InputError: image, CAM, ids and ground truth do not fit each other.
    """

    id: str
    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    cam: np.ndarray
    """(C, H, W) float32 in [0, 1], normalised."""
    class_ids: tuple[int, ...]
    """(C,) mask values of the channels."""
    names: tuple[str, ...]
    """(C,) names of the channels, as prose writes them."""
    truth: np.ndarray | None = None
    """(H, W) uint8 ground truth, 255 unknown; None where there is none."""
    note: str = ""
    """What a reader must know of it, such as that it was made smaller."""
    _memory: dict[str, OrderedDict] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        size = check_image(self.image).shape[:2]
        check_class_ids(self.class_ids, len(check_cam(self.cam)))
        if self.cam.shape[1:] != size:
            raise InputError(f"{self.id}: its CAM has the size {self.cam.shape[1:]}, the image {size}; make it anew")
        if self.truth is not None and self.truth.shape != size:
            raise InputError(f"{self.id}: its exact mask has the size {self.truth.shape}, the image {size}")

    def name(self, class_id: int) -> str:
        """Return a class's name; 0 is the background.

        Raises:
            InputError: the class is not in this image.
        """
        return "background" if class_id == 0 else self.names[self.channel(class_id)]

    def channel(self, class_id: int) -> int:
        """Return the CAM channel of a class.

        Raises:
            InputError: the class is not in this image.
        """
        if class_id not in self.class_ids:
            there = ", ".join(f"{i} ({n})" for i, n in zip(self.class_ids, self.names, strict=True)) or "none"
            raise InputError(f"class {class_id}: not in {self.id}; the classes there are {there}")
        return self.class_ids.index(class_id)

    def legend(self) -> dict[int, str]:
        """Return mask value -> name of everything that a mask of this sample may show."""
        names = {0: "background", **dict(zip(self.class_ids, self.names, strict=True))}
        return names if self.truth is None or not (self.truth == 255).any() else {**names, 255: "not judged"}

    def small_image(self) -> np.ndarray:
        """Return the image (h, w, 3) at the size at which the views show it."""
        return self.remember("small", "image", lambda: canvas.shrink(self.image))

    def small_truth(self) -> np.ndarray:
        """Return the ground truth over the image (h, w, 3); only for samples that have one."""
        return self.remember("small", "truth", self._drawn_truth)

    def _drawn_truth(self) -> np.ndarray:
        return canvas.class_overlay(self.small_image(), canvas.shrink(self.truth, smooth=False))

    def crf(self, settings: CRFSettings) -> DenseCRF:
        """Return the dense CRF of this image; its lattices stay while sliders move."""
        return self.remember("crf", settings, lambda: DenseCRF(self.image, settings))

    def remember(self, kind: str, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` gave for this key; the last few keys of each kind are kept."""
        kept = self._memory.setdefault(kind, OrderedDict())
        if key not in kept:
            kept[key] = make()
            while len(kept) > KEPT:
                kept.popitem(last=False)
        kept.move_to_end(key)
        return kept[key]

    def only(self, class_ids: Sequence[int]) -> Sample:
        """Return this sample with some of its classes.

        Raises:
            InputError: a class is not in this image.
        """
        channels = [self.channel(i) for i in class_ids]
        chosen = tuple(self.class_ids[c] for c in channels), tuple(self.names[c] for c in channels)
        return Sample(self.id, self.image, self.cam[channels], *chosen, self.truth, self.note)


def check_cams_exist(experiment: Any) -> None:
    """Check that a run has CAMs; the explorer reads them and never trains.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.

    Raises:
        InputError: it has none; names the command that makes them.
    """
    if experiment.run.recorded("cams") is None:
        raise InputError(
            f"{experiment.run.path}: no CAMs here; make them first: make demo, "
            "or pmm run PARAMS.yaml --only 01 --only 02"
        )


def from_experiment(experiment: Any, image_id: str) -> Sample:
    """Read one training image of a run, with the CAM that the run made.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        image_id: one of its training images.

    Raises:
        InputError: the run has no CAMs, or no such image.
    """
    check_cams_exist(experiment)
    data = experiment.data
    class_ids, cam = load_cams(experiment.run.recorded("cams").folder / f"{image_id}.npz")
    names = tuple(spaced(data.class_names[i]) for i in class_ids)
    truth = data.mask(image_id) if data.has_mask(image_id) else None
    return Sample(image_id, data.image(image_id), cam, tuple(int(i) for i in class_ids), names, truth)


def gallery_ids(experiment: Any, count: int = 8) -> list[str]:
    """Choose scenes for the thumbnails: spread over the run, with ground truth first, several classes first.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        count: how many, at most.
    """
    data, ids = experiment.data, experiment.train_ids
    spread = [ids[i] for i in np.linspace(0, len(ids) - 1, min(len(ids), 10 * count)).round().astype(int)]
    unique = list(dict.fromkeys(spread))
    best = sorted(unique, key=lambda i: (not data.has_mask(i), abs(len(data.labels(i)) - 2)))
    return best[:count]
