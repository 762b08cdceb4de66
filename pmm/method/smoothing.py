"""Coefficient of Variation Smoothing (CVS): lift the weak parts of an uneven class activation map.

A CAM that lights up only the most telling part of an object (a dog's head) has a high coefficient of
variation c_v over its foreground; raising it to the power 1 - s * c_v < 1 pulls the weak pixels up, the more
the less even the map was.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pmm.errors import InputError
from pmm.method.cam import check_cam, in_float32

VARIANTS = ("paper", "official")  # the equations as printed; what the authors' released code computes
MIN_EXPONENT = 0.01  # floor of 1 - s * c_v: at 0 the map would be flat, below 0 inverted, with 0 -> inf


def coefficient_of_variation(cam: ArrayLike, t: float) -> np.ndarray:
    """Measure how uneven each channel's foreground is: its standard deviation divided by its mean.

        c_v = sqrt(D(X(f))) / E(X(f))   with X(f) = {x in X(n), x > t}        (eq. 5)

    E is the mean, D the population variance.

    Args:
        cam: (C, H, W) floating point in [0, 1], a normalised CAM X(n).
        t: foreground threshold in [0, 1), 0.05 in the released code.

    Returns:
        (C,) float32, >= 0; 0 for a channel without foreground.

    Raises:
        InputError: `cam` is no normalised CAM, or `t` is outside [0, 1).

    Examples:
        >>> even, uneven = [[0.0, 0.5, 0.5]], [[0.0, 0.2, 1.0]]
        >>> coefficient_of_variation([even, uneven], t=0.05).round(3)
        array([0.   , 0.667], dtype=float32)
    """
    maps, t = check_cam(cam), _check_t(t)
    return np.array([_channel_variation(channel[channel > t]) for channel in maps], dtype=np.float32)


def smoothing_exponent(
    c_v: ArrayLike, s: float, *, class_ids: Sequence[int] | None = None, strict: bool = False
) -> np.ndarray:
    """Turn c_v into the exponent of eq. 6.

        max(1 - s * c_v, MIN_EXPONENT)

    Args:
        c_v: (C,) coefficients of variation, >= 0.
        s: smoothing strength, >= 0; 0 leaves the map unsmoothed.
        class_ids: (C,) ids by which a warning names the channels; defaults to their positions.
        strict: raise where the floor would be needed, instead of warning.

    Returns:
        (C,) float32 in [MIN_EXPONENT, 1].

    Raises:
        InputError: `s` is negative or not finite, `c_v` or `class_ids` is not as described above, or `strict` and
            1 - s * c_v is below MIN_EXPONENT for a channel.

    Warns:
        RuntimeWarning: 1 - s * c_v was below MIN_EXPONENT; names class, c_v, s and exponent.

    Examples:
        >>> smoothing_exponent([0.0, 0.5, 1.0], s=0.3)
        array([1.  , 0.85, 0.7 ], dtype=float32)
    """
    if not (math.isfinite(s) and s >= 0):
        raise InputError(f"s: {s} is not a finite number >= 0; the released code uses 0.3")
    variation = _check_channels("c_v", c_v)
    if class_ids is not None and len(class_ids) != len(variation):
        raise InputError(f"class_ids: {len(class_ids)} ids for {len(variation)} values of c_v; give one id for each")
    with np.errstate(over="ignore"):  # minus infinity is below the floor, too
        exponent = 1.0 - s * variation
    low = np.flatnonzero(exponent < MIN_EXPONENT)
    if low.size:
        label = [f"channel {i}" if class_ids is None else f"class {class_ids[i]}" for i in low]
        found = "; ".join(
            f"{name}: c_v {variation[i]:.3f}, exponent {exponent[i]:.3f}" for name, i in zip(label, low, strict=True)
        )
        message = f"s: {s:g} is too large for this image, 1 - s * c_v must be at least {MIN_EXPONENT} ({found})"
        if strict:
            raise InputError(f"{message}; lower s")
        warnings.warn(f"{message}; continuing with {MIN_EXPONENT}", RuntimeWarning, stacklevel=3)
    return np.maximum(exponent, MIN_EXPONENT).astype(np.float32)


def raise_cam(cam: ArrayLike, exponent: ArrayLike, t: float, variant: str = "official") -> np.ndarray:
    """Raise each channel to its exponent, the power of eq. 6.

        X(s) = X(n) ** exponent

    Args:
        cam: (C, H, W) floating point in [0, 1], a normalised CAM X(n).
        exponent: (C,) positive exponents, from `smoothing_exponent`.
        t: foreground threshold in [0, 1).
        variant: "official" sets pixels below t to 0 first; "paper" raises every pixel.

    Returns:
        (C, H, W) float32 in [0, 1].

    Raises:
        InputError: `cam` is no normalised CAM, or `exponent`, `t` or `variant` is not one of the above.

    Examples:
        >>> raise_cam([[[0.04, 0.25, 1.0]]], [0.5], t=0.05, variant="official")
        array([[[0. , 0.5, 1. ]]], dtype=float32)
        >>> raise_cam([[[0.04, 0.25, 1.0]]], [0.5], t=0.05, variant="paper")
        array([[[0.2, 0.5, 1. ]]], dtype=float32)
    """
    maps, t, variant = check_cam(cam), _check_t(t), check_variant(variant)
    if variant == "official":
        maps = np.where(maps < t, np.float32(0), maps)
    powers = _check_channels("exponent", exponent)
    if len(powers) != len(maps) or (powers <= 0).any():
        raise InputError(f"exponent: {len(maps)} numbers > 0 expected, one for each channel; got {powers[:5]}")
    return np.power(maps, in_float32(powers)[:, None, None])  # (C, H, W) ** (C, 1, 1)


def smooth_cam(
    cam: ArrayLike,
    s: float,
    t: float,
    variant: str = "official",
    *,
    class_ids: Sequence[int] | None = None,
    strict: bool = False,
) -> np.ndarray:
    """Smooth a CAM by its own coefficient of variation (CVS): the less even a channel, the more it is lifted.

        X(s) = X(n) ** (1 - s * c_v)        (eq. 6)

    Args:
        cam, t, variant: as in `raise_cam`; t is also the threshold of c_v.
        s, class_ids, strict: as in `smoothing_exponent`.

    Returns:
        (C, H, W) float32 in [0, 1], never below the CAM except where it was set to 0.

    Raises:
        InputError: as `raise_cam` and `smoothing_exponent`.

    Examples:
        >>> smooth_cam([[[0.0, 0.2, 1.0]]], s=0.3, t=0.05).round(3)
        array([[[0.   , 0.276, 1.   ]]], dtype=float32)
    """
    exponent = smoothing_exponent(coefficient_of_variation(cam, t), s, class_ids=class_ids, strict=strict)
    return raise_cam(cam, exponent, t, variant)


def check_variant(variant: str) -> str:
    """Return `variant` if it is "paper" or "official", raise InputError otherwise.

    Examples:
        >>> check_variant("paper")
        'paper'
    """
    if variant not in VARIANTS:
        raise InputError(f"variant: {variant!r} is unknown; choose one of {', '.join(VARIANTS)}")
    return variant


def _check_channels(name: str, values: ArrayLike) -> np.ndarray:
    """Return a flat list of finite numbers >= 0 as float64, raise InputError otherwise."""
    numbers = np.asarray(values)
    if numbers.ndim != 1 or numbers.dtype.kind not in "fiu":
        raise InputError(f"{name}: a flat list of numbers expected, got shape {numbers.shape} of {numbers.dtype}")
    if not np.isfinite(numbers).all() or (numbers < 0).any():
        raise InputError(f"{name}: {numbers[~(np.isfinite(numbers) & (numbers >= 0))][0]} is not a finite number >= 0")
    return numbers.astype(np.float64)


def _channel_variation(foreground: np.ndarray) -> float:
    if not foreground.size:
        return 0.0
    # float32 sums over a large image lose digits
    values = foreground.astype(np.float64)
    return float(values.std() / values.mean())


def _check_t(t: float) -> float:
    if not 0 <= t < 1:  # also refuses NaN
        raise InputError(f"t: {t} is outside [0, 1); the released code uses 0.05")
    return float(t)
