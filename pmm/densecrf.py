"""The dense CRF under the names of pydensecrf: change the import, and a program runs several times faster.

    import pmm.densecrf as dcrf                                    # was: import pydensecrf.densecrf as dcrf
    from pmm.densecrf import unary_from_softmax                    # was: from pydensecrf.utils import ...

No compiler is needed. Posteriors are equal to about 1e-6. Terms of an object keep their lattices, and all cores work on
one image; in a process that `multiprocessing` started, one core. `pmm.method.lattice` computes.

The energy of a labelling y is that of Kraehenbuehl and Koltun (NIPS 2011), with any number of kernels: the unary
energies, and k(i, j) * mu(y_i, y_j) for each kernel k and each pair of pixels i, j. `compat` says what mu is: a number
c means -c for equal labels, else 0 (Potts); a vector means c[a] where both are a, else 0; a matrix, made symmetric,
is mu itself.

What differs: energies may be of any real type and features not contiguous; bad input is one line of InputError, a
ValueError, where pydensecrf ends the process or reads foreign memory; `setUnary` and its objects are not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike

from pmm.errors import InputError
from pmm.method.cam import check_image
from pmm.method.crf import MIN_PROBABILITY
from pmm.method.lattice import (
    LONGEST,
    Kernel,
    Lattice,
    MeanField,
    bilateral_features,
    build_lattice,
    position_lattice,
)
from pmm.threads import available_threads


class KernelType(IntEnum):
    """How pydensecrf would learn a kernel; without learning all are the same."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """How a kernel is normalised by its row sums D: not at all, K D^-1, D^-1 K, or D^-1/2 K D^-1/2."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType
_NORMALIZATIONS = dict(zip(NormalizationType, ("none", "before", "after", "symmetric"), strict=True))


class DenseCRF:
    """A dense CRF over points with any features. Not for use from several threads at a time.

    Args:
        npixels: N >= 1, the number of points.
        nlabels: K >= 1, the number of labels.

    Raises:
        InputError: an argument is not as described.

    Examples:
        >>> crf = DenseCRF(2, 2)
        >>> crf.setUnaryEnergy(np.array([[0, 3], [5, 1]], np.float32))
        >>> crf.addPairwiseEnergy(np.zeros((2, 2), np.float32), compat=10)  # both points at one place
        >>> crf.inference(5).argmax(axis=0)
        array([0, 0])
    """

    def __init__(self, npixels: int, nlabels: int) -> None:
        self._n, self._labels = _count(npixels, "npixels"), _count(nlabels, "nlabels")
        self._unary: np.ndarray | None = None
        self._kernels: list[Kernel] = []

    def setUnaryEnergy(self, u: ArrayLike) -> None:
        """Set the energies -log p, (K, N) real and finite; they are copied."""
        self._unary = _reals(u, "u", (self._labels, self._n)).astype(np.float32)

    def addPairwiseEnergy(
        self,
        features: ArrayLike,
        compat: ArrayLike = 3,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a Gaussian kernel over features in standard deviations, (d, N) real with d <= 6."""
        points = _reals(features, "features", (None, self._n)).T
        self._add(build_lattice(points, available_threads(), _checked(kernel, normalization)), compat)

    def inference(self, niter: int) -> np.ndarray:
        """Return Q after `niter` >= 0 iterations of mean field, (K, N) float32, summing to 1 over K."""
        if isinstance(niter, bool) or not isinstance(niter, (int, np.integer)) or niter < 0:
            raise InputError(f"niter: {niter!r} is not a whole number >= 0")
        return self._field().posterior(self._energies(), int(niter))

    def startInference(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return Q after no iteration, (K, N) float32, and two arrays that `stepInference` asks for."""
        start = self.inference(0)
        return start, np.empty_like(start), np.empty_like(start)

    def stepInference(self, Q: np.ndarray, tmp1: object = None, tmp2: object = None) -> None:
        """Replace `Q` of `startInference` by the Q of one more iteration."""
        message = self._field().message(self._distribution(Q))
        Q[:] = MeanField(()).posterior(self._energies() - message, 0)

    def klDivergence(self, Q: ArrayLike) -> float:
        """Return the Kullback-Leibler divergence of Q, (K, N), from the CRF, up to a constant."""
        q = self._distribution(Q)
        each = np.log(np.maximum(q, 1e-20)) + self._energies() - self._field().message(q)
        return float(np.sum(q * each, dtype=np.float64))

    def setUnary(self, unary: object) -> None:
        """Say that unary objects are not supported."""
        raise InputError("setUnary: unary objects are not supported; give their energies to setUnaryEnergy")

    def _add(self, lattice: Lattice, compat: ArrayLike) -> None:
        self._kernels.append(Kernel(lattice, _weight(compat, self._labels)))

    def _field(self) -> MeanField:
        return MeanField(self._kernels)

    def _energies(self) -> np.ndarray:
        if self._unary is None:
            raise InputError("setUnaryEnergy: no energies yet; set them before inference")
        return self._unary

    def _distribution(self, Q: ArrayLike) -> np.ndarray:
        return _reals(Q, "Q", (self._labels, self._n)).astype(np.float32, copy=False)


class DenseCRF2D(DenseCRF):
    """A dense CRF over an image; pixels are numbered row by row. Not for use from several threads at a time.

    Args:
        w, h: width and height in pixels, >= 1.
        nlabels: K >= 1, the number of labels.

    Raises:
        InputError: an argument is not as described.

    Examples:
        >>> crf = DenseCRF2D(3, 2, 2)
        >>> crf.setUnaryEnergy(unary_from_labels(np.array([[0, 0, 1], [0, 0, 0]]), 2, 0.7, zero_unsure=False))
        >>> crf.addPairwiseGaussian(sxy=3, compat=3)
        >>> crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.zeros((2, 3, 3), np.uint8), compat=10)
        >>> crf.inference(10).argmax(axis=0)
        array([0, 0, 0, 0, 0, 0])
    """

    def __init__(self, w: int, h: int, nlabels: int) -> None:
        super().__init__(_count(w, "w") * _count(h, "h"), nlabels)
        self._size = int(h), int(w)

    def addPairwiseGaussian(
        self,
        sxy: ArrayLike,
        compat: ArrayLike,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a kernel on position; `sxy` is its reach in pixels, a number or (x, y)."""
        sx, sy = _reach(sxy, "sxy", 2, max(self._size))
        kind = _checked(kernel, normalization)
        self._add(position_lattice(*self._size, sx, sy, available_threads(), kind), compat)

    def addPairwiseBilateral(
        self,
        sxy: ArrayLike,
        srgb: ArrayLike,
        rgbim: ArrayLike,
        compat: ArrayLike,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a kernel on position and colour.

        Args:
            sxy: reach in pixels, a number or (x, y).
            srgb: reach in grey levels, a number or (r, g, b).
            rgbim: (h, w, 3) uint8.
            compat, kernel, normalization: what alike pixels mean for labels, and `KernelType`, `NormalizationType`.
        """
        image = check_image(rgbim, "rgbim")
        if image.shape[:2] != self._size:
            raise InputError(f"rgbim: {image.shape}, the CRF is for (h, w, 3) = {(*self._size, 3)}")
        features = bilateral_features(image, _reach(sxy, "sxy", 2, max(self._size)), _reach(srgb, "srgb", 3, 255))
        self._add(build_lattice(features, available_threads(), _checked(kernel, normalization)), compat)


def unary_from_softmax(sm: ArrayLike, scale: float | None = None, clip: float | None = MIN_PROBABILITY) -> np.ndarray:
    """Return the energies -log p of probabilities.

    Args:
        sm: (K, ...) probabilities.
        scale: in (0, 1]; with it p = scale * sm + (1 - scale) / K.
        clip: probabilities below it are raised to it; None: they are left.

    Returns:
        (K, N) float32.

    Examples:
        >>> unary_from_softmax(np.array([[0.5, 0.0], [0.5, 1.0]])).round(2)
        array([[ 0.69, 11.51],
               [ 0.69, -0.  ]], dtype=float32)
    """
    p = _reals(sm, "sm", None)
    if p.ndim == 0 or not p.size:
        raise InputError(f"sm: shape {p.shape}, (labels, ...) expected")
    if scale is not None:
        if not 0 < scale <= 1:
            raise InputError(f"scale: {scale!r} is not in (0, 1]")
        p = scale * p + (1 - scale) / len(p)
    if clip is not None:
        p = np.clip(p, clip, 1.0)
    with np.errstate(divide="ignore"):
        return -np.log(p).reshape(len(p), -1).astype(np.float32)


def unary_from_labels(labels: ArrayLike, n_labels: int, gt_prob: float, zero_unsure: bool = True) -> np.ndarray:
    """Return energies of labels that are right with probability `gt_prob`, and all others equally likely.

    Args:
        labels: (...) whole numbers.
        n_labels: K >= 2; with `zero_unsure` 0 is none of them.
        gt_prob: in (0, 1).
        zero_unsure: 0 stands for "could be anything", and label k has row k - 1; else label k has row k.

    Returns:
        (K, N) float32.

    Examples:
        >>> unary_from_labels(np.array([0, 1, 2]), 2, gt_prob=0.9).round(2)
        array([[0.69, 0.11, 2.3 ],
               [0.69, 2.3 , 0.11]], dtype=float32)
    """
    found, n = np.asarray(labels).ravel(), _count(n_labels, "n_labels")
    if n < 2 or not 0 < gt_prob < 1:
        raise InputError(f"n_labels, gt_prob: {n}, {gt_prob!r}; give at least 2 labels and a probability in (0, 1)")
    highest = n if zero_unsure else n - 1
    if found.dtype.kind not in "biu" or (found.size and not 0 <= found.min() <= found.max() <= highest):
        held = f"{found.min()} to {found.max()}" if found.size else "nothing"
        raise InputError(f"labels: {held}, {found.dtype}; whole numbers 0 to {highest} expected")
    energies = np.full((n, found.size), -np.log((1 - gt_prob) / (n - 1)), np.float32)
    rows = found.astype(np.intp) - bool(zero_unsure)  # with row -1 for what is unsure, mended below
    energies[rows, np.arange(found.size)] = -np.log(gt_prob)
    if zero_unsure:
        energies[:, found == 0] = np.log(n)
    return energies


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> np.ndarray:
    """Return features for `addPairwiseEnergy`: positions on a grid, in the order of its axes.

    Args:
        sdims: reach along each axis.
        shape: of the grid, e.g. (h, w), or (depth, h, w).

    Returns:
        (d, N) float32.

    Examples:
        >>> create_pairwise_gaussian((2, 1), (2, 2))
        array([[0. , 0. , 0.5, 0.5],
               [0. , 1. , 0. , 1. ]], dtype=float32)
    """
    reach = np.array([_reach(s, "sdims", 1, 0)[0] for s in sdims], np.float32)
    if len(reach) != len(shape):
        raise InputError(f"sdims: {len(reach)} numbers for a grid of {len(shape)} axes")
    return np.indices(tuple(shape), np.float32).reshape(len(shape), -1) / reach[:, None]


def create_pairwise_bilateral(
    sdims: Sequence[float], schan: float | Sequence[float], img: ArrayLike, chdim: int = -1
) -> np.ndarray:
    """Return features for `addPairwiseEnergy`: positions, in the order of the axes, and channels.

    Args:
        sdims: reach along each axis of the grid.
        schan: reach in each channel, or one number for all.
        img: any numbers; one axis may hold channels.
        chdim: that axis; -1: there is none.

    Returns:
        (d, N) float32.

    Examples:
        >>> create_pairwise_bilateral((1, 1), 10, np.array([[30, 40]]))
        array([[0., 0.],
               [0., 1.],
               [3., 4.]], dtype=float32)
    """
    image = _reals(img, "img", None).astype(np.float32)
    channels = image[None] if chdim == -1 else np.moveaxis(image, chdim, 0)
    reach = np.array(_reach(schan, "schan", len(channels), 0), np.float32)
    values = channels.reshape(len(channels), -1) / reach[:, None]
    return np.concatenate([create_pairwise_gaussian(sdims, channels.shape[1:]), values])


def _count(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"{name}: {value!r} is not a whole number >= 1")
    return int(value)


def _reals(values: ArrayLike, name: str, shape: tuple[int | None, ...] | None) -> np.ndarray:
    """Check that values are real, finite, and of a shape, in which None stands for any length."""
    array = np.asarray(values)
    fits = shape is None or (
        array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    )
    if array.dtype.kind not in "fiu" or not fits:
        wanted = "real numbers" if shape is None else f"real numbers {tuple(s or 'd' for s in shape)}".replace("'", "")
        raise InputError(f"{name}: {wanted} expected, got {array.shape} of {array.dtype}")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: holds NaN or infinity; clip probabilities before the logarithm")
    return array


def _reach(value: ArrayLike, name: str, n: int, extent: float) -> tuple[float, ...]:
    """Return n standard deviations of a number or of n numbers; none may be tiny beside the extent."""
    numbers = _reals(value, name, None)
    if numbers.shape not in ((), (n,)) or not (numbers > 0).all():
        raise InputError(f"{name}: {value!r}; give a number > 0{f', or {n} of them' if n > 1 else ''}")
    if extent / numbers.min() > LONGEST:
        raise InputError(f"{name}: {numbers.min():g} is too small for {extent:g}; give at least {extent / LONGEST:g}")
    return tuple(np.broadcast_to(numbers, n).astype(float).tolist())


def _weight(compat: ArrayLike, n_labels: int) -> float | np.ndarray:
    """What a label gains from another nearby."""
    mu = _reals(compat, "compat", None).astype(np.float32)
    if mu.ndim == 0:
        return float(mu)
    if mu.shape not in ((n_labels,), (n_labels, n_labels)):
        raise InputError(f"compat: shape {mu.shape}; give a number, {n_labels} numbers, or a matrix of them")
    return -np.diag(mu) if mu.ndim == 1 else -(mu + mu.T) / 2


def _checked(kernel: int, normalization: int) -> str:
    if kernel not in list(KernelType):
        raise InputError(f"kernel: {kernel!r} is unknown; give CONST_KERNEL, DIAG_KERNEL or FULL_KERNEL")
    if normalization not in _NORMALIZATIONS:
        raise InputError(
            f"normalization: {normalization!r} is unknown; give one of {', '.join(NormalizationType.__members__)}"
        )
    return _NORMALIZATIONS[normalization]
