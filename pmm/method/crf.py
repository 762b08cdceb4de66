"""Fully connected conditional random field (dense CRF), one object per image and many unaries.

Mean-field inference with a Gaussian kernel on position and a bilateral kernel on position and colour:
Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials",
NIPS 2011 (arXiv 1210.5644).
Building the permutohedral lattices of an image costs time; an object keeps them, so that the binary problems of
all classes in an image share them. Two engines give the same posteriors to about 1e-4: `lattice`
(`pmm.method.lattice`) and the C++ package pydensecrf, which is the reference.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pmm.errors import InputError, MissingDependency

ENGINES = ("lattice", "pydensecrf")
"""Who computes, as `CRFSettings` and the parameter `crf_engine` name it."""

MIN_PROBABILITY = 1e-5
"""Probabilities are clipped to [this, 1] before the logarithm, as pydensecrf's `unary_from_softmax` does."""

_MAX_FEATURE = {"gauss": 10_000.0, "bilateral": 3_000.0}  # the lattice keeps its coordinates in 16 bits


@dataclass(frozen=True)
class CRFSettings:
    """Strength and reach of the two kernels; the defaults are those of PPMG in the released code.

    Args:
        iterations: mean-field iterations, >= 1.
        gauss_sxy: reach of the position kernel in pixels, > 0.
        gauss_compat: weight of the position kernel, >= 0.
        bilateral_sxy: reach of the position-and-colour kernel in pixels, > 0.
        bilateral_srgb: its reach in colour, in grey levels of 0..255, > 0.
        bilateral_compat: its weight, >= 0.
        engine: who computes: `lattice`, see `pmm.method.lattice`, or `pydensecrf`, the package that everybody cites.

    Raises:
        InputError: a value is not a finite number in the range above, or the engine is unknown.

    Examples:
        >>> CRFSettings(gauss_compat=3) == JOINT_CRF
        True
        >>> CRFSettings(iterations=0)
        Traceback (most recent call last):
        pmm.errors.InputError: iterations: 0 is not a whole number >= 1
    """

    iterations: int = 10
    gauss_sxy: float = 3
    gauss_compat: float = 10
    bilateral_sxy: float = 80
    bilateral_srgb: float = 13
    bilateral_compat: float = 10
    engine: str = "lattice"

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InputError(f"engine: {self.engine!r} is unknown; choose one of {', '.join(ENGINES)}")
        for field in fields(self):
            if field.name == "engine":
                continue
            value = getattr(self, field.name)
            if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
                raise InputError(f"{field.name}: {value!r} is not a finite number; see CRFSettings")
            if field.name.endswith("compat") and value < 0:
                raise InputError(f"{field.name}: {value} is negative; give a weight >= 0")
            if "_s" in field.name and value <= 0:
                raise InputError(f"{field.name}: {value} is not positive; give a standard deviation > 0")
        if not isinstance(self.iterations, numbers.Integral) or self.iterations < 1:
            raise InputError(f"iterations: {self.iterations} is not a whole number >= 1")


PPMG_CRF = CRFSettings()
"""The binary CRFs of Algorithm 1."""
JOINT_CRF = CRFSettings(gauss_compat=3)
"""The joint CRF of section 2.1 (eq. 3-4), which makes the baseline masks."""
SEGMENTATION_CRF = CRFSettings(gauss_sxy=1, gauss_compat=3, bilateral_sxy=67, bilateral_srgb=3, bilateral_compat=4)
"""Refines the segmentation model's softmax at test time."""


def compile_lattice() -> None:
    """Solve tiny problems of every kind, so that numba compiles and keeps every function of the lattice engine.

    It takes some fifteen seconds once a machine. Without it the first mask takes as much longer.

    Examples:
        >>> compile_lattice()
    """
    crf = DenseCRF(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    for classes in (1, 5):
        maps = np.full((classes, 8, 8), 0.5, dtype=np.float32)
        crf.foreground_posterior(maps, maps)
        crf.posterior(np.concatenate([maps, maps]))


class DenseCRF:
    """The dense CRF of one image. Not for use from several threads at a time.

    Mean field lowers the energy of a labelling y, with p the given probabilities, x a pixel's position, I its colour:

        E(y) = sum_i -log p_i(y_i)
             + sum_{i<j} [y_i != y_j] * ( gauss_compat     * exp(-|x_i - x_j|^2 / (2 gauss_sxy^2))
                                        + bilateral_compat * exp(-|x_i - x_j|^2 / (2 bilateral_sxy^2)
                                                                 -|I_i - I_j|^2 / (2 bilateral_srgb^2)) )

    where each kernel K is normalised as D^-1/2 K D^-1/2, D being its row sums.

    Args:
        image: (H, W, 3) uint8 RGB; copied.
        settings: kernels and iterations.

    Raises:
        InputError: `image` is not (H, W, 3) uint8.
        InputError: `settings` is no CRFSettings, or a sigma is too small for the size of the image.
        MissingDependency: the engine is pydensecrf, and it is not installed.

    Examples:
        >>> crf = DenseCRF(np.zeros((2, 2, 3), np.uint8), JOINT_CRF)
        >>> crf.posterior(np.array([[[0.9, 0.9], [0.9, 0.4]], [[0.1, 0.1], [0.1, 0.6]]])).argmax(axis=0)
        array([[0, 0],
               [0, 0]])
        >>> crf.foreground_posterior(np.full((1, 2, 2), 0.9), np.full((1, 2, 2), 0.1)) > 0.5
        array([[[ True,  True],
                [ True,  True]]])
    """

    def __init__(self, image: npt.ArrayLike, settings: CRFSettings = PPMG_CRF) -> None:
        pixels = np.array(check_image(image), order="C")
        if not isinstance(settings, CRFSettings):
            raise InputError(f"settings: CRFSettings expected, got {type(settings).__name__}")
        _check_reach(settings, max(pixels.shape[:2]))
        self.settings = settings
        self.size: tuple[int, int] = pixels.shape[:2]
        self._engine = _ENGINES[settings.engine](pixels, settings)

    def posterior(self, probabilities: npt.ArrayLike) -> np.ndarray:
        """Refine K label probabilities per pixel so that alike pixels get alike labels.

        Args:
            probabilities: (K, H, W) in [0, 1], K >= 2; they need not sum to 1, only their ratio matters.

        Returns:
            (K, H, W) float32, summing to 1 over K.

        Raises:
            InputError: `probabilities` has the wrong shape, fewer than 2 labels, NaN, or leaves [0, 1].
        """
        maps = self._check(probabilities, "probabilities")
        if len(maps) < 2:
            raise InputError(f"probabilities: {len(maps)} label(s), at least 2 expected; add the background")
        return self._engine.mean_field(_unary(maps)).reshape(maps.shape)  # (K, H * W) -> (K, H, W)

    def foreground_posterior(self, foreground: npt.ArrayLike, background: npt.ArrayLike) -> np.ndarray:
        """Solve C independent two-label problems, class against background, one per channel.

        Args:
            foreground: (C, H, W) in [0, 1], score of each class; C may be 0.
            background: (C, H, W) in [0, 1], score of each class's background.

        Returns:
            (C, H, W) float32 in [0, 1], posterior of the foreground.

        Raises:
            InputError: an argument has the wrong shape, NaN, or leaves [0, 1].
        """
        front = self._check(foreground, "foreground")
        back = self._check(background, "background")
        if len(front) != len(back):
            raise InputError(f"background: {len(back)} channels, foreground has {len(front)}; give equal numbers")
        return self._engine.binary_mean_field(_unary(front), _unary(back)).reshape(front.shape)

    def _check(self, probabilities: npt.ArrayLike, name: str) -> np.ndarray:
        maps = np.asarray(probabilities)
        if maps.dtype.kind not in "fiu" or maps.ndim != 3 or maps.shape[1:] != self.size:
            found = f"{maps.shape} of {maps.dtype}"
            raise InputError(f"{name}: real numbers (K, H, W) with H, W = {self.size} expected, got {found}")
        if not np.isfinite(maps).all():
            raise InputError(f"{name}: holds NaN or infinity")
        if maps.size and (maps.min() < -1e-6 or maps.max() > 1 + 1e-6):
            raise InputError(f"{name}: values lie in [{maps.min():g}, {maps.max():g}], [0, 1] expected")
        return maps


def check_image(image: npt.ArrayLike) -> np.ndarray:
    """Return `image` as an array if it is (H, W, 3) uint8 with H, W >= 1, raise InputError otherwise.

    Examples:
        >>> check_image(np.zeros((2, 2), np.uint8))
        Traceback (most recent call last):
        pmm.errors.InputError: image: (H, W, 3) uint8 RGB expected, got (2, 2) of uint8
    """
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError(f"image: (H, W, 3) uint8 RGB expected, got {pixels.shape} of {pixels.dtype}")
    return pixels


class _Engine(Protocol):
    """Who computes: mean-field inference on the kernels of one image of N pixels."""

    def mean_field(self, unary: np.ndarray) -> np.ndarray:
        """(K, N) float32 energies -> (K, N) float32 posterior."""

    def binary_mean_field(self, foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
        """(C, N) and (C, N) float32 energies -> (C, N) float32 posterior of the foreground."""


class PydensecrfEngine:
    """Mean field by pydensecrf.

    pydensecrf fixes the number of labels K when it builds an object, so there is one object for each K in
    use; its lattices stay, each call only replaces the unary and starts inference anew.

    Examples:
        >>> engine = PydensecrfEngine(np.zeros((1, 2, 3), np.uint8), PPMG_CRF)  # needs pydensecrf
        >>> engine.mean_field(np.array([[0, 0], [5, 5]], np.float32)).round()  # energies: the first label is cheaper
        array([[1., 1.],
               [0., 0.]], dtype=float32)
    """

    def __init__(self, image: np.ndarray, settings: CRFSettings) -> None:
        self._pydensecrf = _import_pydensecrf()
        self._image, self._settings = image, settings
        self._by_labels: dict[int, object] = {}

    def mean_field(self, unary: np.ndarray) -> np.ndarray:
        """(K, N) float32 energies -> (K, N) float32 posterior."""
        if len(unary) not in self._by_labels:
            self._by_labels[len(unary)] = self._build(len(unary))
        crf = self._by_labels[len(unary)]
        crf.setUnaryEnergy(np.ascontiguousarray(unary))
        return np.array(crf.inference(int(self._settings.iterations)), dtype=np.float32)

    def binary_mean_field(self, foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
        """(C, N) and (C, N) float32 energies -> (C, N) float32 posterior of the foreground."""
        posterior = np.empty_like(foreground)
        for channel, (front, back) in enumerate(zip(foreground, background, strict=True)):
            posterior[channel] = self.mean_field(np.stack([back, front]))[1]
        return posterior

    def _build(self, n_labels: int) -> object:
        height, width = self._image.shape[:2]
        s = self._settings
        crf = self._pydensecrf.DenseCRF2D(width, height, n_labels)
        crf.addPairwiseGaussian(sxy=float(s.gauss_sxy), compat=float(s.gauss_compat))
        crf.addPairwiseBilateral(
            sxy=float(s.bilateral_sxy),
            srgb=float(s.bilateral_srgb),
            rgbim=self._image,
            compat=float(s.bilateral_compat),
        )
        return crf


def _lattice_engine(image: np.ndarray, settings: CRFSettings, threads: int | None = None) -> _Engine:
    from pmm.method.lattice import LatticeEngine  # numba takes a moment to import

    kernels = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name != "engine"}
    return LatticeEngine(image, **kernels, threads=threads)


_ENGINES: dict[str, Callable[[np.ndarray, CRFSettings], _Engine]] = {
    "lattice": _lattice_engine,
    "pydensecrf": PydensecrfEngine,
}


def _unary(probabilities: np.ndarray) -> np.ndarray:
    """Energies -log p, (K, H, W) -> (K, H * W) float32."""
    energies = np.clip(probabilities.astype(np.float32, copy=False), MIN_PROBABILITY, 1.0)  # a new array
    np.negative(np.log(energies, out=energies), out=energies)
    return energies.reshape(len(energies), energies.shape[1] * energies.shape[2])


def _check_reach(settings: CRFSettings, longest_side: int) -> None:
    features = (
        ("gauss_sxy", longest_side, _MAX_FEATURE["gauss"]),
        ("bilateral_sxy", longest_side, _MAX_FEATURE["bilateral"]),
        ("bilateral_srgb", 255, _MAX_FEATURE["bilateral"]),
    )
    for name, extent, limit in features:
        value = getattr(settings, name)
        if extent / value > limit:
            raise InputError(f"{name}: {value:g} is too small for this image; give at least {extent / limit:g}")


def _import_pydensecrf() -> ModuleType:
    try:
        import pydensecrf.densecrf
    except ImportError:
        raise MissingDependency(
            "crf_engine = pydensecrf: it is not installed; pip install pydensecrf2 (needs a C++ compiler), "
            "or take crf_engine = lattice"
        ) from None
    return pydensecrf.densecrf
