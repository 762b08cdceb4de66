"""Deliberately wrong masks: the ground truth with a known share of their object pixels changed, region by region."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pmm.errors import InputError
from pmm.method import IGNORE_INDEX
from pmm.method.cam import check_class_ids

CELLS = 8  # along the shorter side of an image; a region is the part of one class inside one cell


def flip_regions(mask: ArrayLike, class_ids: Sequence[int], share: float, seed: int, image_id: str) -> np.ndarray:
    """Give whole regions of the objects another value, until about `share` of the object pixels are wrong.

    A changed region becomes background or another class of the image, each with equal chance. Single wrong pixels
    would be too easy: pseudo-masks are wrong in whole parts, too.

    Args:
        mask: (H, W) uint8, the ground truth; 255 and background stay.
        class_ids: mask values of the classes in the image.
        share: of the object pixels that change, in [0, 1].
        seed: of the choice.
        image_id: each image has its own choice, the same in every run.

    Returns:
        (H, W) uint8 copy. The share is met as closely as whole regions allow.

    Raises:
        InputError: `share` is outside [0, 1], `mask` is not (H, W) uint8, or `class_ids` are no class ids.

    Examples:
        >>> mask = np.full((8, 8), 3, np.uint8)
        >>> wrong = flip_regions(mask, [3], share=0.25, seed=0, image_id="2007_000032")
        >>> np.unique(wrong, return_counts=True)
        (array([0, 3], dtype=uint8), array([16, 48]))
    """
    labels = np.array(mask)
    if labels.dtype != np.uint8 or labels.ndim != 2:
        raise InputError(f"mask: (H, W) uint8 expected, got {labels.shape} of {labels.dtype}")
    if not 0 <= share <= 1:
        raise InputError(f"share: {share} is outside [0, 1]")
    check_class_ids(class_ids, len(class_ids))
    objects = (labels > 0) & (labels != IGNORE_INDEX)
    if not objects.any():
        return labels
    random = np.random.default_rng([seed, zlib.crc32(image_id.encode())])  # crc32: Python's hash differs each run
    _, region, sizes = np.unique(_regions(labels)[objects], return_inverse=True, return_counts=True)
    order = random.permutation(len(sizes))
    wrong = np.concatenate([[0], np.cumsum(sizes[order])])  # pixels changed by the first 0, 1, 2, ... regions
    values = labels[objects]  # (pixels of objects,)
    for chosen in order[: np.abs(wrong - share * wrong[-1]).argmin()]:
        where = region == chosen
        others = [value for value in (0, *class_ids) if value != values[where][0]]
        values[where] = random.choice(others)
    labels[objects] = values
    return labels


def _regions(labels: np.ndarray) -> np.ndarray:
    """Number each pixel's cell and class, (H, W) int64."""
    height, width = labels.shape
    side = max(1, round(min(height, width) / CELLS))
    rows, columns = np.arange(height)[:, None] // side, np.arange(width)[None] // side
    return (rows * width + columns) * 256 + labels
