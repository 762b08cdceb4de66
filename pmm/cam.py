"""Class activation maps (CAMs) as arrays: normalise, check, save and load.

A CAM says, for each class that is present in an image, how strongly each pixel supports that class. Between
the stages it is a float32 array (C, H, W) in [0, 1], one channel per present class, at the image's size.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pmm.errors import InputError
from pmm.files import whole_file

MAX_CLASS_ID = 254
"""Largest mask value a class may have: 0 is the background, 255 means unknown."""

RANGE_TOLERANCE = 1e-6
"""Interpolating a map in [0, 1] may overshoot by rounding; up to this much is clipped in silence."""


def normalize_cam(cam: npt.ArrayLike) -> np.ndarray:
    """Scale every channel of a CAM to [0, 1] by its own minimum and maximum (eq. 1).

    Args:
        cam: (C, H, W) real numbers of any range, e.g. raw class scores per pixel.

    Returns:
        (C, H, W) float32 in [0, 1]; a constant channel becomes zeros.

    Raises:
        InputError: `cam` is not a non-empty three-dimensional array of real numbers.
        InputError: `cam` holds NaN or infinity.
    """
    # float64, so that max - min can neither overflow nor lose a small range beside a large offset
    scores = _finite_maps(cam, "cam").astype(np.float64)
    if not len(scores):
        return scores.astype(np.float32)
    low = scores.min(axis=(1, 2), keepdims=True)
    extent = scores.max(axis=(1, 2), keepdims=True) - low
    extent[extent == 0] = 1.0  # constant channel: 0 / 1
    return ((scores - low) / extent).astype(np.float32)


def save_cams(path: str | os.PathLike, class_ids: npt.ArrayLike, cams: npt.ArrayLike) -> None:
    """Write one image's CAMs as a compressed .npz; the file appears whole or not at all.

    Args:
        path: file to write; its folder is made where missing.
        class_ids: (C,) mask values of the classes present, each in 1..254 and unique; stored as int64.
        cams: (C, H, W) in [0, 1], channel i belongs to class_ids[i]; stored as float16 to save space.

    Raises:
        InputError: `cams` is not a (C, H, W) array in [0, 1], or holds NaN.
        InputError: `class_ids` does not fit (number, type, range, duplicates).
    """
    maps = check_cam(cams, "cams")
    ids = check_class_ids(class_ids, len(maps))
    with whole_file(Path(path)) as file:
        np.savez_compressed(file, class_ids=ids, cams=maps.astype(np.float16))


def load_cams(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Read one image's CAMs, as `save_cams` wrote them.

    Args:
        path: the .npz file with the arrays `class_ids` and `cams`.

    Returns:
        class_ids (C,) int64 and cams (C, H, W) float32 in [0, 1].

    Raises:
        InputError: the file is missing, truncated or no .npz.
        InputError: one of the two arrays is missing.
        InputError: the arrays do not fit each other, hold NaN, or leave [0, 1].
    """
    raw_ids, raw_cams = _read_npz(Path(path), ("class_ids", "cams"))
    try:
        cams = check_cam(raw_cams, "cams")
        return check_class_ids(raw_ids, len(cams)), cams
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def check_cam(cam: npt.ArrayLike, name: str = "cam") -> np.ndarray:
    """Check a normalised CAM and return it as float32.

    Args:
        cam: (C, H, W) floating point in [0, 1]; C may be 0, H and W at least 1.
        name: how messages call the argument.

    Returns:
        (C, H, W) float32; a new array only where the type or the range had to change.

    Raises:
        InputError: wrong type or shape, NaN or infinity, a value outside [0, 1].
    """
    maps = _finite_maps(cam, name)
    if not np.issubdtype(maps.dtype, np.floating):
        raise InputError(f"{name}: floating-point values in [0, 1] expected, got {maps.dtype}; normalize_cam it")
    maps = maps.astype(np.float32, copy=False)
    if not maps.size:
        return maps
    low, high = float(maps.min()), float(maps.max())
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise InputError(f"{name}: values lie in [{low:g}, {high:g}], [0, 1] expected; apply normalize_cam first")
    return maps if low >= 0 and high <= 1 else np.clip(maps, 0, 1)


def check_class_ids(class_ids: npt.ArrayLike, n_channels: int) -> np.ndarray:
    """Check that the class ids fit a CAM with `n_channels` channels.

    Args:
        class_ids: (C,) integers, each in 1..254, unique.
        n_channels: C of the CAM.

    Returns:
        (C,) int64.

    Raises:
        InputError: not a list of integers, wrong length, out of range, or duplicates.
    """
    ids = np.asarray(class_ids)
    if ids.size == 0:
        ids = ids.reshape(-1).astype(np.int64)  # an empty list arrives as float64
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"class_ids: a flat list of integers expected, got shape {ids.shape} of {ids.dtype}")
    if len(ids) != n_channels:
        raise InputError(f"class_ids: {len(ids)} ids for a CAM of {n_channels} channels; give one id per channel")
    outside = ids[(ids < 1) | (ids > MAX_CLASS_ID)]
    if outside.size:
        raise InputError(f"class_ids: {outside[0]} is outside 1..{MAX_CLASS_ID} (0 is background, 255 is unknown)")
    if len(np.unique(ids)) != len(ids):
        raise InputError(f"class_ids: {ids.tolist()} names a class twice; give each class one channel")
    return ids.astype(np.int64)


def _finite_maps(cam: npt.ArrayLike, name: str) -> np.ndarray:
    maps = np.asarray(cam)
    if maps.dtype.kind not in "fiu":
        raise InputError(f"{name}: an array of real numbers expected, got {maps.dtype}")
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise InputError(f"{name}: shape (C, H, W) with H, W >= 1 expected, got {maps.shape}")
    if not np.isfinite(maps).all():
        raise InputError(f"{name}: holds NaN or infinity; check the model or file that made it")
    return maps


def _read_npz(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: a .npz archive expected, got a single array; write it with save_cams")
            missing = [name for name in names if name not in archive.files]
            if missing:
                raise InputError(f"{path}: array {missing[0]!r} is missing, found {archive.files}")
            return [archive[name] for name in names]
    except FileNotFoundError:
        raise InputError(f"{path}: no such CAM file; make the CAMs first (notebook 02)") from None
    except InputError:
        raise
    except Exception as error:  # a damaged byte may raise anything from zlib.error to tokenize.TokenError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable CAM file ({reason}); delete it and make it again") from None
