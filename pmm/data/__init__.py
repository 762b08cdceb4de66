"""Data sets behind one interface: image, image-level labels, mask."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from pmm.data.coco import COCOData
from pmm.data.folder import FolderData
from pmm.data.scenes import ScenesData
from pmm.data.voc import VOCData
from pmm.errors import InputError

__all__ = ["COCOData", "FolderData", "ScenesData", "SegmentationData", "VOCData", "open_dataset"]


@runtime_checkable
class SegmentationData(Protocol):
    """What every data set offers.

    Attributes:
        name: what tables and figures call the set.
        class_names: index 0 is "background", so a mask value is an index.
    """

    @property
    def name(self) -> str:
        """What tables and figures call the set."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, "background" first."""
        ...

    def ids(self, split: str) -> list[str]:
        """Image ids of a split."""
        ...

    def image_path(self, image_id: str) -> Path:
        """Path of an image."""
        ...

    def image(self, image_id: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        ...

    def labels(self, image_id: str) -> tuple[int, ...]:
        """Sorted class ids that are present; may be empty. Never read from masks."""
        ...

    def has_mask(self, image_id: str) -> bool:
        """Whether `mask` finds a ground truth."""
        ...

    def mask(self, image_id: str) -> np.ndarray:
        """(H, W) uint8 ground truth, 255 unknown; for evaluation only."""
        ...

    def mask_source(self, image_id: str) -> Path:
        """Path of the file that `mask` reads, whether it exists or not."""
        ...


_KINDS: dict[str, Callable[[str | Path], SegmentationData]] = {
    "scenes": ScenesData,
    "voc": VOCData,
    "coco": COCOData,
    "folder": FolderData,
}


def open_dataset(kind: str, root: str | Path) -> SegmentationData:
    """Open a data set.

    Args:
        kind: "scenes", "voc", "coco" or "folder".
        root: its folder.

    Returns:
        the data set.

    Raises:
        InputError: no such kind, or the folder is not of that kind.
    """
    if kind not in _KINDS:
        raise InputError(f"dataset: found {kind!r}; choose one of {', '.join(_KINDS)}")
    return _KINDS[kind](root)
