"""Class activation maps (CAMs) as arrays: normalise, check (their images, too), and take over from other packages.

A CAM says, for each class that is present in an image, how strongly each pixel supports that class. Between
the stages it is a float32 array (C, H, W) in [0, 1], one channel per present class, at the image's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from pmm.errors import InputError
from pmm.method import IGNORE_INDEX

MAX_CLASS_ID = IGNORE_INDEX - 1  # largest mask value of a class: 0 is the background, IGNORE_INDEX means unknown
HALF_OF_ALL = float(np.finfo(np.float64).max) / 2  # beyond it a difference may overflow
RANGE_TOLERANCE = 1e-6  # interpolating a map in [0, 1] may overshoot by rounding; so much is clipped in silence


def normalize_cam(cam: ArrayLike) -> np.ndarray:
    """Scale every channel of a CAM to [0, 1] by its own minimum and maximum.

        X(n) = (X - min X) / (max X - min X)        (eq. 1)

    Args:
        cam: (C, H, W) real numbers of any range, e.g. raw class scores per pixel.

    Returns:
        (C, H, W) float32 in [0, 1]; a constant channel becomes zeros.

    Raises:
        InputError: `cam` is not a non-empty three-dimensional array of finite real numbers.

    Examples:
        >>> normalize_cam([[[2, 4], [6, 3]]])
        array([[[0.  , 0.5 ],
                [1.  , 0.25]]], dtype=float32)
    """
    # float64, so that max - min can neither overflow nor lose a small range beside a large offset
    scores = _finite_maps(cam, "cam").astype(np.float64)
    if not len(scores):
        return scores.astype(np.float32)
    if max(scores.max(), -scores.min()) > HALF_OF_ALL:
        scores /= 4
    low = scores.min(axis=(1, 2), keepdims=True)  # (C, 1, 1)
    extent = scores.max(axis=(1, 2), keepdims=True) - low
    extent[extent == 0] = 1.0  # constant channel: 0 / 1
    return ((scores - low) / extent).astype(np.float32)


def cam_of_layers(outputs: Sequence[Any], size: tuple[int, int]) -> np.ndarray:
    """Make a CAM of what torch-cam or grad-cam return for an image: one output for each class that is present.

    Of each class the maps of all layers are rectified, brought to [0, 1] and to the image's size, and added; the sum is
    normalised by eq. 1.

    Args:
        outputs: for each class a map (h,w) or (1,h,w), or a list of such, one a layer and each of its own size; arrays
            or tensors.
        size: height and width of the image, pixels.

    Returns:
        (C, H, W) float32 in [0, 1], a channel for each output, as `ppmg` takes it.

    Raises:
        InputError: an output holds no map, or one that is not of these shapes or not finite.

    Examples:
        >>> cam_of_layers([[[[0.0, 2.0]], [[0.0, 1.0], [0.0, 1.0]]]], size=(1, 2))  # one class, two layers
        array([[[0., 1.]]], dtype=float32)
    """
    sums = [sum(_layer(each, size) for each in _layers(output)) for output in outputs]
    return normalize_cam(np.stack(sums)) if sums else np.zeros((0, *size), np.float32)


def _layers(output: Any) -> list[np.ndarray]:
    """Split an output into maps (h,w) of layers."""
    each = output if isinstance(output, list | tuple) else [output]
    found = [np.asarray(one.detach().cpu() if hasattr(one, "detach") else one) for one in each]
    found = [one[0] if one.ndim == 3 and len(one) == 1 else one for one in found]
    if not found or any(one.ndim != 2 or not one.size for one in found):
        shapes = ", ".join(str(one.shape) for one in found) or "none"
        raise InputError(f"outputs: maps (h, w) or (1, h, w) of each layer expected, got {shapes}")
    return found


def _layer(one: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Rectify a map, normalise it, and scale it to a size."""
    return resize_maps(normalize_cam(np.maximum(_finite_maps(one[None], "outputs"), 0)), size)[0]


def resize_maps(maps: ArrayLike, size: tuple[int, int]) -> np.ndarray:
    """Scale maps (C, h, w) bilinearly to a size (H, W): (C, H, W) float32, the maps themselves where they have it.

    Raises:
        InputError: the maps are no finite real numbers, or beyond float32, or the size is not positive.

    Examples:
        >>> resize_maps([[[0.0, 4.0]]], (1, 4))
        array([[[0., 1., 3., 4.]]], dtype=float32)
    """
    maps = _finite_maps(maps, "maps")
    if min(size) < 1:
        raise InputError(f"size: {tuple(size)} is no size (H, W); give both at least 1")
    if maps.size and max(maps.max(), -float(maps.min())) > np.finfo(np.float32).max:
        raise InputError(f"maps: values reach {maps.min():g} and {maps.max():g}, beyond float32; scale them first")
    maps = maps.astype(np.float32, copy=False)
    if maps.shape[1:] == tuple(size):
        return maps
    scaled = [Image.fromarray(each).resize(size[::-1], Image.Resampling.BILINEAR) for each in maps]
    return np.stack([np.asarray(each) for each in scaled]) if scaled else np.zeros((0, *size), np.float32)


def check_cam(cam: ArrayLike, name: str = "cam", hint: str = "apply normalize_cam first") -> np.ndarray:
    """Check a normalised CAM and return it as float32.

    Args:
        cam: (C, H, W) floating point in [0, 1]; C may be 0, H and W at least 1.
        name, hint: how messages call the argument, and what they say to do.

    Returns:
        (C, H, W) float32; a new array only where the type or the range had to change.

    Raises:
        InputError: wrong type or shape, NaN or infinity, a value outside [0, 1].

    Examples:
        >>> check_cam([[[0.0, 1.0]]]).dtype
        dtype('float32')
        >>> check_cam([[[0.0, 7.0]]], "mine")
        Traceback (most recent call last):
        pmm.errors.InputError: mine: values lie in [0, 7], [0, 1] expected; apply normalize_cam first
    """
    maps = _finite_maps(cam, name)
    if not np.issubdtype(maps.dtype, np.floating):
        raise InputError(f"{name}: floating-point values in [0, 1] expected, got {maps.dtype}; {hint}")
    if not maps.size:
        return maps.astype(np.float32, copy=False)
    low, high = float(maps.min()), float(maps.max())
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise InputError(f"{name}: values lie in [{low:g}, {high:g}], [0, 1] expected; {hint}")
    maps = maps.astype(np.float32, copy=False)
    return maps if low >= 0 and high <= 1 else np.clip(maps, 0, 1)


def check_class_ids(class_ids: ArrayLike, n_channels: int) -> np.ndarray:
    """Return class ids, one for each of n_channels and unique, each in 1..254, as (C,) int64.

    Raises:
        InputError: not a list of integers, wrong length, out of range, or duplicates.

    Examples:
        >>> check_class_ids([12, 18], n_channels=2)
        array([12, 18])
    """
    ids = np.asarray(class_ids)
    if ids.size == 0:
        ids = np.zeros(0, np.int64)  # an empty list arrives as float64
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"class_ids: a flat list of integers expected, got shape {ids.shape} of {ids.dtype}")
    if len(ids) != n_channels:
        raise InputError(f"class_ids: {len(ids)} ids for a CAM of {n_channels} channels; give one id per channel")
    outside = ids[(ids < 1) | (ids > MAX_CLASS_ID)]
    if outside.size:
        raise InputError(
            f"class_ids: {outside[0]} is outside 1..{MAX_CLASS_ID} (0 is background, {IGNORE_INDEX} is unknown)"
        )
    if len(np.unique(ids)) != len(ids):
        raise InputError(f"class_ids: {ids.tolist()} names a class twice; give each class one channel")
    return ids.astype(np.int64)


def check_image(image: ArrayLike, name: str = "image") -> np.ndarray:
    """Return `image` as an array if it is (H, W, 3) uint8 with H, W >= 1, raise InputError otherwise.

    Examples:
        >>> check_image(np.zeros((2, 2), np.uint8))
        Traceback (most recent call last):
        pmm.errors.InputError: image: (H, W, 3) uint8 RGB expected, got (2, 2) of uint8
    """
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError(f"{name}: (H, W, 3) uint8 RGB expected, got {pixels.shape} of {pixels.dtype}")
    return pixels


def in_float32(positive: ArrayLike) -> np.ndarray:
    """Return positive numbers as float32; those beyond its range become its smallest or largest, never 0 or infinity.

    Examples:
        >>> in_float32([1e-300, 0.5])
        array([1.1754944e-38, 5.0000000e-01], dtype=float32)
    """
    return np.clip(positive, np.finfo(np.float32).tiny, np.finfo(np.float32).max).astype(np.float32)


def _finite_maps(cam: ArrayLike, name: str) -> np.ndarray:
    maps = np.asarray(cam)
    if maps.dtype.kind not in "fiu":
        raise InputError(f"{name}: an array of real numbers expected, got {maps.dtype}")
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise InputError(f"{name}: shape (C, H, W) with H, W >= 1 expected, got {maps.shape}")
    if not np.isfinite(maps).all():
        raise InputError(f"{name}: holds NaN or infinity; check the model or file that made it")
    return maps
