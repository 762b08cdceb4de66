"""Data sets behind one interface: image, image-level labels, ground truth; whole, or only the classes of interest."""

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from pmm.data.coco import COCOData
from pmm.data.folder import FolderData
from pmm.data.images import SegmentationData
from pmm.data.scenes import ScenesData
from pmm.data.voc import VOCData
from pmm.errors import InputError
from pmm.method import IGNORE_INDEX

__all__ = ["ChosenClasses", "SegmentationData", "choose_classes", "open_dataset"]

_DATASETS = {"scenes": ScenesData, "voc": VOCData, "coco": COCOData, "folder": FolderData}


def open_dataset(
    kind: str, root: str | Path, *, classes: Collection[str] = (), require_any: Collection[str] = (), name: str = ""
) -> SegmentationData:
    """Open the data set of a kind ("scenes", "voc", "coco" or "folder") in its folder.

    Args:
        kind, root: of the set.
        classes, require_any: names, as in `ChosenClasses`; both empty: the whole set.
        name: what tables and figures call it; empty: its own name.

    Raises:
        InputError: no such kind, the folder is not of that kind, or as in `ChosenClasses`.
    """
    if kind not in _DATASETS:
        raise InputError(f"dataset: found {kind!r}; choose one of {', '.join(_DATASETS)}")
    whole = _DATASETS[kind](root, name=name or None)
    return ChosenClasses(whole, classes, require_any, name) if classes or require_any else whole


class ChosenClasses(SegmentationData):
    """A data set seen through the classes of interest: no other class exists, and no image with another label.

    An image stays if all its labels are among `classes` and one of them is in `require_any`. The classes are numbered
    anew, 1 .. n, in the order of the whole set; pixels of another class are unknown, 255, in the ground truth.

    Args:
        whole: the data set.
        classes: names of the classes; empty: all.
        require_any: names, each among `classes`; empty: no demand, so that an image without any label stays, too.
        name: what tables and figures call it; defaults to the name of the whole with the number of classes.

    Raises:
        InputError: a name is no class of the set, or one of `require_any` is not among `classes`.
    """

    def __init__(
        self, whole: SegmentationData, classes: Collection[str] = (), require_any: Collection[str] = (), name: str = ""
    ) -> None:
        self.whole, self.root, self._name = whole, whole.root, name
        self.class_names = choose_classes(whole.class_names, classes, require_any)
        self.left_out: dict[str, int] = {}  # split -> images that the rule leaves out, once its ids were asked for
        self._require_any = [name for name in self.class_names if name in require_any]
        self._new_ids = {whole.class_names.index(name): i for i, name in enumerate(self.class_names)}
        self._required = {whole.class_names.index(name) for name in self._require_any}
        self._table = np.full(256, IGNORE_INDEX, np.uint8)  # mask value of the whole set -> of this one
        self._table[list(self._new_ids)] = list(self._new_ids.values())
        self._known: dict[str, tuple[int, ...]] = {}  # VOC's labels are one file an image: read each once

    @property
    def name(self) -> str:
        """What tables and figures call the set."""
        whole, chosen = len(self.whole.class_names) - 1, len(self.class_names) - 1
        part = f"{chosen} of {whole} classes" if chosen < whole else f"images with {' or '.join(self._require_any)}"
        return self._name or f"{self.whole.name}, {part}"

    def ids(self, split: str) -> list[str]:
        """As in `SegmentationData`, without the images that the rule leaves out; InputError where none is left."""
        listed = self.whole.ids(split)
        ids = [image_id for image_id in listed if self._is_chosen(self._whole_labels(image_id))]
        self.left_out[split] = len(listed) - len(ids)
        if not ids:
            raise InputError(f"{self.root}: {self.left_out_note(split)}; choose classes that the split shows")
        return ids

    def left_out_note(self, split: str) -> str:
        """As in `SegmentationData`."""
        if not self.left_out.get(split):
            return ""
        count, total = self.left_out[split], len(self.whole.ids(split))
        none = f" or none of {', '.join(self._require_any)}" if self._require_any else ""
        return f"{split}: {count} of {total} images show other classes{none}, and are left out"

    def image_path(self, image_id: str) -> Path:
        """As in `SegmentationData`."""
        return self.whole.image_path(image_id)

    def labels(self, image_id: str) -> tuple[int, ...]:
        """As in `SegmentationData`, of the classes of interest only."""
        return tuple(self._new_ids[i] for i in self._whole_labels(image_id) if i in self._new_ids)

    def mask_source(self, image_id: str) -> Path:
        """As in `SegmentationData`."""
        return self.whole.mask_source(image_id)

    def has_mask(self, image_id: str) -> bool:
        """As in `SegmentationData`."""
        return self.whole.has_mask(image_id)

    def mask(self, image_id: str) -> np.ndarray:
        """As in `SegmentationData`, pixels of other classes unknown."""
        return self._table[self.whole.mask(image_id)]

    def _whole_labels(self, image_id: str) -> tuple[int, ...]:
        if image_id not in self._known:
            self._known[image_id] = self.whole.labels(image_id)
        return self._known[image_id]

    def _is_chosen(self, labels: Sequence[int]) -> bool:
        return self._new_ids.keys() >= set(labels) and (not self._required or not self._required.isdisjoint(labels))


def choose_classes(
    class_names: Sequence[str], classes: Collection[str] = (), require_any: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the class names that `ChosenClasses` keeps, "background" first; errors as there."""
    known = class_names[1:]
    for parameter, names, allowed in (("classes", classes, known), ("require_any", require_any, classes or known)):
        for name in names:
            if name not in allowed:
                near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(allowed)}"
                outside = "is not among classes" if name in known else "is no class of the data set"
                raise InputError(f"{parameter}: {name!r} {outside}; {hint}")
    return (class_names[0], *(name for name in known if name in (classes or known)))
