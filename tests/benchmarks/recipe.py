"""What is compared: photographs with CAM-like maps, masks of ours, and the dense CRF as the common recipe calls it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from pmm.data.scenes import compose_scene
from pmm.method.crf import PPMG_CRF, DenseCRF
from pmm.method.pseudo_mask import ppmg
from pmm.threads import limit_threads

DEMO = {"s": 0.3, "alpha": 0.5, "t": 0.05}


def photograph(index: int, width: int, height: int) -> np.ndarray:
    """Compose sample scene number `index` of the val split, (H,W,3) uint8."""
    return compose_scene("val", index, width=width, height=height).image


def blobs(index: int, n_classes: int, width: int, height: int) -> np.ndarray:
    """Make smooth maps in [0,1] that overlap, (C,H,W) float32, as CAMs do."""
    rng = np.random.default_rng([index, n_classes])
    y, x = np.mgrid[:height, :width].astype(np.float32)
    maps = np.zeros((n_classes, height, width), np.float32)
    for channel in maps:
        for _ in range(3):
            a, b, reach = rng.random() * height, rng.random() * width, (0.1 + 0.15 * rng.random()) * height
            channel += np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * reach**2))
        channel -= channel.min()
        channel /= channel.max()
    return maps


class RecipeCRF(DenseCRF):
    """The common recipe: a new DenseCRF2D, Gaussian and bilateral kernel, 10 iterations, for each class."""

    def __init__(self, image: np.ndarray) -> None:
        super().__init__(image)  # builds no lattice and does not load numba
        self._pixels = np.ascontiguousarray(image)

    def foreground_posterior(self, foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
        """Solve the binary problems one after the other."""
        return np.stack([self._solve(np.stack(pair)) for pair in zip(background, foreground, strict=True)])

    def _solve(self, probabilities: np.ndarray) -> np.ndarray:
        from pydensecrf.densecrf import DenseCRF2D
        from pydensecrf.utils import unary_from_softmax

        height, width = self._pixels.shape[:2]
        s = PPMG_CRF
        crf = DenseCRF2D(width, height, 2)
        crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probabilities)))
        crf.addPairwiseGaussian(sxy=s.gauss_sxy, compat=s.gauss_compat)
        crf.addPairwiseBilateral(
            sxy=s.bilateral_sxy, srgb=s.bilateral_srgb, rgbim=self._pixels, compat=s.bilateral_compat
        )
        return np.array(crf.inference(s.iterations), np.float32).reshape(2, height, width)[1]


def refine(crf: ModuleType, energies: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Refine many labels as repositories do, `crf` being pydensecrf.densecrf or pmm.densecrf."""
    d = crf.DenseCRF2D(image.shape[1], image.shape[0], len(energies))
    d.setUnaryEnergy(energies)
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
    return np.array(d.inference(10))


def our_mask(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """Make a PPMG mask from scratch with the lattice engine."""
    return ppmg(image, cam, range(1, len(cam) + 1), **DEMO)


def recipe_mask(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """Make the same mask with the common recipe."""
    return ppmg(image, cam, range(1, len(cam) + 1), **DEMO, crf=RecipeCRF(image))


def one_thread(work: Callable[[], Any]) -> Any:
    """Call on a single thread."""
    with limit_threads(1):
        return work()
