"""One colour per mask value, the same in every figure, apart for colour-blind readers as well.

Values 1-9 are Paul Tol's qualitative scheme "muted" (https://personal.sron.nl/~pault/). Further values are
taken greedily: each is the candidate farthest from all before it, as seen by the worst-off reader. No
80 colours are safe for everybody, so figures also write the class names into the regions.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

UNKNOWN = 255
BACKGROUND_RGB = (205, 205, 205)
UNKNOWN_RGB = (255, 255, 255)
MUTED = ("332288", "CC6677", "117733", "DDCC77", "88CCEE", "882255", "44AA99", "999933", "AA4499")
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours: methods, runs and curves, in the order in which they are drawn."""

# Machado, Oliveira, Fernandes 2009, full severity; they act on linear RGB.
DEUTERANOPIA = ((0.3673, 0.8606, -0.2280), (0.2801, 0.6725, 0.0474), (-0.0118, 0.0429, 0.9690))
PROTANOPIA = ((0.1523, 1.0526, -0.2049), (0.1145, 0.7863, 0.0992), (-0.0039, -0.0481, 1.0520))
READERS = (np.eye(3), np.array(DEUTERANOPIA), np.array(PROTANOPIA))


def to_lab(rgb: np.ndarray, reader: np.ndarray = READERS[0]) -> np.ndarray:
    """Convert sRGB to CIELAB as one reader sees it.

    Args:
        rgb: (..., 3) uint8.
        reader: (3, 3) matrix on linear RGB; the identity is normal vision.

    Returns:
        (..., 3) float64: L in 0..100, a and b.
    """
    value = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ reader.T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = seen @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def colour_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the smallest CIELAB distance that any of the READERS sees between colours (..., 3) uint8."""
    gaps = [np.linalg.norm(to_lab(first, r) - to_lab(second, r), axis=-1) for r in READERS]
    return np.min(gaps, axis=0)


@lru_cache(maxsize=1)
def palette() -> np.ndarray:
    """Return (256, 3) uint8: row v is the colour of mask value v."""
    colours = np.full((256, 3), UNKNOWN_RGB, dtype=np.uint8)
    colours[0] = BACKGROUND_RGB
    colours[1 : 1 + len(MUTED)] = [tuple(bytes.fromhex(c)) for c in MUTED]
    steps = np.arange(25, 245, 24)
    candidates = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    taken = [colours[v] for v in range(1 + len(MUTED))] + [np.array(UNKNOWN_RGB)]
    nearest = np.min([colour_distance(candidates, c) for c in taken], axis=0)
    for value in range(1 + len(MUTED), UNKNOWN):
        colours[value] = candidates[nearest.argmax()]
        nearest = np.minimum(nearest, colour_distance(candidates, colours[value]))
    colours.flags.writeable = False
    return colours


def class_colour(value: int) -> tuple[float, float, float]:
    """Return the colour of one mask value as red, green, blue in 0..1."""
    red, green, blue = (float(c) / 255 for c in palette()[int(value)])
    return red, green, blue


def mask_to_rgb(mask: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8 of a (H, W) mask with values 0..255."""
    return palette()[np.asarray(mask).astype(np.uint8)]


def text_colour(rgb: tuple[float, float, float]) -> str:
    """Return black or white, whichever reads better on a colour in 0..1."""
    lightness = to_lab(np.round(np.array(rgb[:3]) * 255))[0]
    return "black" if lightness > 55 else "white"
