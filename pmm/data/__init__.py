"""Data sets behind one interface: image, image-level labels, ground truth."""

from pathlib import Path

from pmm.data.coco import COCOData
from pmm.data.folder import FolderData
from pmm.data.images import SegmentationData
from pmm.data.scenes import ScenesData
from pmm.data.voc import VOCData
from pmm.errors import InputError

__all__ = ["SegmentationData", "open_dataset"]

_DATASETS = {"scenes": ScenesData, "voc": VOCData, "coco": COCOData, "folder": FolderData}


def open_dataset(kind: str, root: str | Path) -> SegmentationData:
    """Open the data set of a kind ("scenes", "voc", "coco" or "folder") in its folder.

    Raises:
        InputError: no such kind, or the folder is not of that kind.
    """
    if kind not in _DATASETS:
        raise InputError(f"dataset: found {kind!r}; choose one of {', '.join(_DATASETS)}")
    return _DATASETS[kind](root)
