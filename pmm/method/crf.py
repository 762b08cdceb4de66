"""Fully connected conditional random field (dense CRF), one object per image and many unaries.

Mean-field inference with a Gaussian kernel on position and a bilateral kernel on position and colour:
Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials",
NIPS 2011 (arXiv 1210.5644).
An object keeps the permutohedral lattices of its image, whose building costs time, for the binary problems of all
classes in the image. `pmm.method.lattice` computes; pydensecrf, the C++ package that everybody cites, gives the same
posteriors to about 1e-4 and is what the tests compare with. `pmm.densecrf` offers the same under pydensecrf's names.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from pmm.errors import InputError
from pmm.method.cam import check_image
from pmm.threads import available_threads

if TYPE_CHECKING:
    from pmm.method.lattice import MeanField

MIN_PROBABILITY = 1e-5  # probabilities are clipped to [this, 1] before the logarithm, as by `unary_from_softmax`


@dataclass(frozen=True)
class CRFSettings:
    """Strength and reach of the two kernels; the defaults are those of PPMG in the released code.

    Raises:
        InputError: a value is not a finite number in the range below.

    Examples:
        >>> CRFSettings(gauss_compat=3) == JOINT_CRF
        True
        >>> CRFSettings(iterations=0)
        Traceback (most recent call last):
        pmm.errors.InputError: iterations: 0 is not a whole number >= 1
    """

    iterations: int = 10  # of mean field, >= 1
    gauss_sxy: float = 3  # reach of the position kernel in pixels, > 0
    gauss_compat: float = 10  # its weight, >= 0
    bilateral_sxy: float = 80  # reach of the position-and-colour kernel in pixels, > 0
    bilateral_srgb: float = 13  # its reach in colour, in grey levels of 0..255, > 0
    bilateral_compat: float = 10  # its weight, >= 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
                raise InputError(f"{name}: {value!r} is not a finite number; see CRFSettings")
            if name.endswith("compat") and value < 0:
                raise InputError(f"{name}: {value} is negative; give a weight >= 0")
            if "_s" in name and value <= 0:
                raise InputError(f"{name}: {value} is not positive; give a standard deviation > 0")
        if not isinstance(self.iterations, numbers.Integral) or self.iterations < 1:
            raise InputError(f"iterations: {self.iterations} is not a whole number >= 1")


PPMG_CRF = CRFSettings()  # the binary CRFs of Algorithm 1
JOINT_CRF = CRFSettings(gauss_compat=3)  # the joint CRF of section 2.1 (eq. 3-4), which makes the baseline masks
# refines the segmentation model's softmax at test time
SEGMENTATION_CRF = CRFSettings(gauss_sxy=1, gauss_compat=3, bilateral_sxy=67, bilateral_srgb=3, bilateral_compat=4)


def compile_lattice() -> None:
    """Make numba compile and keep every function of the lattice engine, some forty seconds once a machine.

    Without it the first mask takes as much longer.

    Examples:
        >>> compile_lattice()
    """
    crf = DenseCRF(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    for classes in (1, 2, 5, 9):  # 18 labels, too: rows of twenty
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
        InputError: `image` or `settings` is of another kind, or a sigma is too small for the size of the image.

    Examples:
        >>> crf = DenseCRF(np.zeros((2, 2, 3), np.uint8), JOINT_CRF)
        >>> crf.posterior(np.array([[[0.9, 0.9], [0.9, 0.4]], [[0.1, 0.1], [0.1, 0.6]]])).argmax(axis=0)
        array([[0, 0],
               [0, 0]])
        >>> crf.foreground_posterior(np.full((1, 2, 2), 0.9), np.full((1, 2, 2), 0.1)) > 0.5
        array([[[ True,  True],
                [ True,  True]]])
    """

    def __init__(self, image: ArrayLike, settings: CRFSettings = PPMG_CRF) -> None:
        self._image = np.array(check_image(image), order="C")
        if not isinstance(settings, CRFSettings):
            raise InputError(f"settings: CRFSettings expected, got {type(settings).__name__}")
        self.settings = settings
        self.size: tuple[int, int] = self._image.shape[:2]
        _check_reach(settings, max(self.size))

    @cached_property
    def _field(self) -> MeanField:
        """Both kernels; their lattices are built when they are first needed."""
        from pmm.method.lattice import Kernel, MeanField, bilateral_features, build_lattice, position_lattice

        s, threads = self.settings, available_threads()
        near = position_lattice(*self.size, s.gauss_sxy, s.gauss_sxy, threads)  # numba takes a moment to import
        alike = build_lattice(bilateral_features(self._image, (s.bilateral_sxy,) * 2, (s.bilateral_srgb,) * 3), threads)
        return MeanField([Kernel(near, s.gauss_compat), Kernel(alike, s.bilateral_compat)])

    def posterior(self, probabilities: ArrayLike) -> np.ndarray:
        """Refine K >= 2 label probabilities per pixel so that alike pixels get alike labels.

        Args:
            probabilities: (K, H, W) in [0, 1]; they need not sum to 1, only their ratio matters.

        Returns:
            (K, H, W) float32, summing to 1 over K.

        Raises:
            InputError: `probabilities` is not as described above.
        """
        maps = self._check(probabilities, "probabilities")
        if len(maps) < 2:
            raise InputError(f"probabilities: {len(maps)} label(s), at least 2 expected; add the background")
        posterior = self._field.posterior(unary(maps, "probabilities"), self.settings.iterations)
        return posterior.reshape(maps.shape)  # (K, H * W) -> (K, H, W)

    def foreground_posterior(self, foreground: ArrayLike, background: ArrayLike) -> np.ndarray:
        """Solve C independent two-label problems, class against background, one per channel.

        Args:
            foreground, background: (C, H, W) in [0, 1], scores of each class and of its background; C may be 0.

        Returns:
            (C, H, W) float32 in [0, 1], posterior of the foreground.

        Raises:
            InputError: an argument is not as described above.
        """
        front, back = self._check(foreground, "foreground"), self._check(background, "background")
        if len(front) != len(back):
            raise InputError(f"background: {len(back)} channels, foreground has {len(front)}; give equal numbers")
        energies = unary(front, "foreground"), unary(back, "background")
        posterior = self._field.binary_posterior(*energies, self.settings.iterations)
        return posterior.reshape(front.shape)

    def _check(self, probabilities: ArrayLike, name: str) -> np.ndarray:
        maps = np.asarray(probabilities)
        if maps.dtype.kind not in "fiu" or maps.ndim != 3 or maps.shape[1:] != self.size:
            found = f"{maps.shape} of {maps.dtype}"
            raise InputError(f"{name}: real numbers (K, H, W) with H, W = {self.size} expected, got {found}")
        return maps


def unary(probabilities: ArrayLike, name: str = "probabilities") -> np.ndarray:
    """Return the energies -log p, (K, H, W) in [0, 1] -> (K, H * W) float32; `name` is what messages call them.

    Raises:
        InputError: no real numbers of this shape and range.

    Examples:
        >>> unary(np.array([[[0.0, 1.0]]])).round(1)
        array([[11.5, -0. ]], dtype=float32)
    """
    maps = np.asarray(probabilities)
    if maps.dtype.kind not in "fiu" or maps.ndim != 3:
        raise InputError(f"{name}: real numbers (K, H, W) expected, got {maps.shape} of {maps.dtype}")
    if not np.isfinite(maps).all():
        raise InputError(f"{name}: holds NaN or infinity; check the model or file that made it")
    if maps.size and (maps.min() < -1e-6 or maps.max() > 1 + 1e-6):
        raise InputError(f"{name}: values lie in [{maps.min():g}, {maps.max():g}], [0, 1] expected; apply softmax")
    energies = np.clip(maps.astype(np.float32, copy=False), MIN_PROBABILITY, 1.0)  # a new array
    np.negative(np.log(energies, out=energies), out=energies)
    return energies.reshape(len(energies), energies.shape[1] * energies.shape[2])


def _check_reach(settings: CRFSettings, longest_side: int) -> None:
    extents = {"gauss_sxy": longest_side, "bilateral_sxy": longest_side, "bilateral_srgb": 255}
    for name, extent in extents.items():
        value, limit = getattr(settings, name), 10_000 if name == "gauss_sxy" else 3_000  # 16 bits a coordinate
        if extent / value > limit:
            raise InputError(f"{name}: {value:g} is too small for this image; give at least {extent / limit:g}")
