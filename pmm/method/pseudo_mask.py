"""Pseudo-masks: the baselines, Proportional Pseudo-mask Generation (PPMG), and cyclic ones from predictions.

A pseudo-mask is (H, W) uint8: 0 is the background, any other value is one of the image's class ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pmm.errors import InputError
from pmm.method import IGNORE_INDEX, smoothing
from pmm.method.cam import check_cam, check_class_ids, check_image, in_float32
from pmm.method.crf import JOINT_CRF, PPMG_CRF, CRFSettings, DenseCRF

# None: this method's settings in the released code. A DenseCRF must have been built for the same image.
CRFChoice = CRFSettings | DenseCRF | None


@dataclass(frozen=True)
class PpmgSteps:
    """Everything PPMG computes on its way to the mask, in the order of Algorithm 1.

    Examples:
        >>> list(PpmgSteps.__dataclass_fields__)
        ['c_v', 'exponent', 'smoothed', 'background', 'posterior', 'foreground', 'proportion', 'mask']
    """

    c_v: np.ndarray  # (C,) float32, coefficient of variation (eq. 5)
    exponent: np.ndarray  # (C,) float32 > 0, the exponent 1 - s * c_v, floored (eq. 6)
    smoothed: np.ndarray  # (C, H, W) float32 in [0, 1], the smoothed CAM X(s) (eq. 6)
    background: np.ndarray  # (C, H, W) float32 in [0, 1], each class's background score (1 - X(s)) ** alpha
    posterior: np.ndarray  # (C, H, W) float32 in [0, 1], foreground posterior of each class's binary CRF
    foreground: np.ndarray  # (C, H, W) bool, the binary mask X(m): posterior > 0.5
    proportion: np.ndarray  # (C, H, W) float32 >= 0, each pixel's share of its class's activation (eq. 8)
    mask: np.ndarray  # (H, W) uint8, the pseudo-mask


def background_score(cam: ArrayLike, alpha: float) -> np.ndarray:
    """Score the background high where every class is weak.

        bg = (1 - max_c X(n)) ** alpha        (eq. 2)

    Args:
        cam: (C, H, W) floating point in [0, 1].
        alpha: > 0; the larger, the less background.

    Returns:
        (H, W) float32 in [0, 1]; all 1 where C is 0.

    Raises:
        InputError: `cam` is no normalised CAM, or `alpha` is not positive.

    Examples:
        >>> background_score([[[0.0, 0.5, 1.0]], [[0.0, 0.2, 0.0]]], alpha=2)
        array([[1.  , 0.25, 0.  ]], dtype=float32)
    """
    maps, alpha = check_cam(cam), _check_alpha(alpha)
    return (1 - maps.max(axis=0, initial=0)) ** np.float32(alpha)  # (C, H, W) -> (H, W)


def threshold_pseudo_mask(cam: ArrayLike, class_ids: ArrayLike, threshold: float) -> np.ndarray:
    """Take the strongest class where it exceeds a fixed threshold: the plain CAM baseline.

    Args:
        cam, class_ids: as in `crf_pseudo_mask`; of any size.
        threshold: constant background score in [0, 1]; a pixel equal to it stays background.

    Returns:
        (H, W) uint8 pseudo-mask; the first channel wins a tie between classes.

    Raises:
        InputError: an argument is not as described above.

    Examples:
        >>> threshold_pseudo_mask([[[0.1, 0.9, 0.3]], [[0.2, 0.0, 0.4]]], [12, 18], threshold=0.3)
        array([[ 0, 12, 18]], dtype=uint8)
    """
    maps = check_cam(cam)
    ids = check_class_ids(class_ids, len(maps))
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold: {threshold} is outside [0, 1]")
    return _strongest(np.full(maps.shape[1:], threshold, np.float32), maps, ids)


def crf_pseudo_mask(
    image: ArrayLike, cam: ArrayLike, class_ids: ArrayLike, *, alpha: float, crf: CRFChoice = None
) -> np.ndarray:
    """Refine all classes and the background in one joint CRF: the baseline of section 2.1.

        Y = argmax( crf(I, concat(bg, X(n))) )        (eq. 3-4)

    Args:
        image: (H, W, 3) uint8 RGB.
        cam: (C, H, W) floating point in [0, 1], at the image's size.
        class_ids: (C,) mask values of the channels, in 1..254.
        alpha: > 0, power of the background score (eq. 2); the released code uses 24 here.
        crf: settings, or the CRF of this image; defaults to JOINT_CRF.

    Returns:
        (H, W) uint8 pseudo-mask; all background where C is 0.

    Raises:
        InputError: an argument is not as described above, or the sizes differ.

    Examples:
        >>> image = np.zeros((4, 4, 3), np.uint8); image[:, 2:] = 255  # black and white halves
        >>> cam = np.zeros((1, 4, 4), np.float32); cam[0, :, 2:] = [0.9, 0.25]  # the last column is weak
        >>> threshold_pseudo_mask(cam, [12], 0.3)[0], crf_pseudo_mask(image, cam, [12], alpha=2)[0]
        (array([ 0,  0, 12,  0], dtype=uint8), array([ 0,  0, 12, 12], dtype=uint8))
    """
    return crf_pseudo_mask_steps(image, cam, class_ids, alpha=alpha, crf=crf).mask


@dataclass(frozen=True)
class CrfSteps:
    """Everything the joint baseline computes on its way to the mask, in the order of eq. 2-4.

    Examples:
        >>> list(CrfSteps.__dataclass_fields__)
        ['background', 'posterior', 'mask']
    """

    background: np.ndarray  # (H, W) float32 in [0, 1], the background score (eq. 2)
    posterior: np.ndarray  # (1 + C, H, W) float32 in [0, 1], the joint CRF's posterior, background first (eq. 3)
    mask: np.ndarray  # (H, W) uint8, the pseudo-mask (eq. 4)


def crf_pseudo_mask_steps(
    image: ArrayLike, cam: ArrayLike, class_ids: ArrayLike, *, alpha: float, crf: CRFChoice = None
) -> CrfSteps:
    """Run the joint baseline (eq. 2-4) and keep its maps; for figures and for teaching.

    Arguments and errors as in `crf_pseudo_mask`, which returns `.mask`.

    Examples:
        >>> image, cam = np.zeros((4, 4, 3), np.uint8), np.full((1, 4, 4), 0.5, np.float32)
        >>> steps = crf_pseudo_mask_steps(image, cam, [12], alpha=2)
        >>> steps.background[0, 0], steps.posterior.shape, np.unique(steps.mask)
        (np.float32(0.25), (2, 4, 4), array([12], dtype=uint8))
    """
    pixels, maps, ids = _check_inputs(image, cam, class_ids)
    background = background_score(maps, alpha)
    posterior = background[None]  # C = 0: nothing but background
    if len(ids):
        posterior = _crf_for(pixels, crf, JOINT_CRF).posterior(np.concatenate([posterior, maps]))
    return CrfSteps(background, posterior, _strongest(posterior[0], posterior[1:], ids))


def proportion(cam: ArrayLike, mask: ArrayLike, variant: str = "official") -> np.ndarray:
    """Divide a CAM by its class's total inside the class's mask, so that large objects do not win.

        p = X(n) / sum(X(n) * X(m))   per class        (eq. 8)

    Args:
        cam: (C, H, W) floating point in [0, 1], the unsmoothed CAM X(n).
        mask: (C, H, W) bool, each class's binary mask X(m).
        variant: "paper" divides by the sum of X(n) * X(m), "official" by 1 + that sum.

    Returns:
        (C, H, W) float32 >= 0; zeros for a channel whose total (paper) is 0.

    Raises:
        InputError: `cam` is no normalised CAM, `mask` is not bool of the same shape, or `variant` is unknown.

    Examples:
        >>> proportion([[[0.5, 0.5, 1.0]]], [[[True, True, False]]], variant="paper")
        array([[[0.5, 0.5, 1. ]]], dtype=float32)
    """
    maps, region = check_cam(cam), np.asarray(mask)
    if region.dtype != bool or region.shape != maps.shape:
        raise InputError(f"mask: bool of shape {maps.shape} expected, got {region.dtype} of {region.shape}")
    offset = 1.0 if smoothing.check_variant(variant) == "official" else 0.0
    total = np.sum(maps, axis=(1, 2), where=region, dtype=np.float64, keepdims=True) + offset  # (C, 1, 1)
    total[total > 0] = in_float32(total[total > 0])  # 1 / total is finite then
    return np.divide(maps, total, out=np.zeros(maps.shape, np.float32), where=total > 0)


def ppmg(
    image: ArrayLike,
    cam: ArrayLike,
    class_ids: ArrayLike,
    *,
    s: float,
    alpha: float,
    t: float,
    variant: str = "official",
    crf: CRFChoice = None,
) -> np.ndarray:
    """Make a pseudo-mask by Proportional Pseudo-mask Generation.

        X(s) = X(n) ** (1 - s * c_v)
        X(m) = fg( crf(I, [(1 - X(s)) ** alpha, X(s)]) )   per class, binary
        Y = argmax( X(m) * p(X(n)) )                                          (Algorithm 1)

    Args:
        image, cam, class_ids: as in `crf_pseudo_mask`.
        s: smoothing strength, >= 0; 0.3 in the released code.
        alpha: > 0, power of each class's background score; 11 in the released code.
        t: foreground threshold of the CAM in [0, 1); 0.05 in the released code.
        variant: "official" as the released code, "paper" as the equations.
        crf: settings, or the CRF of this image; defaults to PPMG_CRF.

    Returns:
        (H, W) uint8 pseudo-mask. Background where no class fires or where every class that fires has a CAM of
        0; the first channel wins a tie.

    Raises:
        As `crf_pseudo_mask`.

    Examples:
        >>> image = np.zeros((4, 4, 3), np.uint8); image[:, 2:] = 255  # black and white halves
        >>> cam = np.zeros((1, 4, 4), np.float32); cam[0, :, 2:] = [0.3, 0.9]  # uneven over the white half
        >>> ppmg(image, cam, [12], s=0.3, alpha=2, t=0.05)[0]
        array([ 0,  0, 12, 12], dtype=uint8)
    """
    return ppmg_steps(image, cam, class_ids, s=s, alpha=alpha, t=t, variant=variant, crf=crf).mask


def ppmg_steps(
    image: ArrayLike,
    cam: ArrayLike,
    class_ids: ArrayLike,
    *,
    s: float,
    alpha: float,
    t: float,
    variant: str = "official",
    crf: CRFChoice = None,
) -> PpmgSteps:
    """Run PPMG (Algorithm 1) and keep every intermediate map; for figures and for teaching.

    Arguments and errors as in `ppmg`, which returns `.mask`.

    Examples:
        >>> image, cam = np.zeros((2, 2, 3), np.uint8), np.array([[[0.0, 0.2], [0.2, 1.0]]])
        >>> steps = ppmg_steps(image, cam, [12], s=0.3, alpha=11, t=0.05)
        >>> steps.c_v.round(3), steps.exponent.round(3)
        (array([0.808], dtype=float32), array([0.758], dtype=float32))
    """
    pixels, maps, ids = _check_inputs(image, cam, class_ids)
    alpha = _check_alpha(alpha)
    c_v = smoothing.coefficient_of_variation(maps, t)
    exponent = smoothing.smoothing_exponent(c_v, s, class_ids=ids.tolist())
    smoothed = smoothing.raise_cam(maps, exponent, t, variant)
    background = (1 - smoothed) ** np.float32(alpha)  # eq. 2 for each class alone
    posterior = smoothed  # where C is 0 there is nothing to solve
    if len(ids):
        posterior = _crf_for(pixels, crf, PPMG_CRF).foreground_posterior(smoothed, background)
    foreground = posterior > 0.5
    share = proportion(maps, foreground, variant)
    mask = _strongest(np.zeros(pixels.shape[:2], np.float32), foreground * share, ids)
    return PpmgSteps(c_v, exponent, smoothed, background, posterior, foreground, share, mask)


def _strongest(background: np.ndarray, scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Class id of the largest score at each pixel; background (0) first, so that it wins ties."""
    winner = np.concatenate([background[None], scores]).argmax(axis=0)  # (1 + C, H, W) -> (H, W)
    return np.concatenate([[0], ids]).astype(np.uint8)[winner]


def _check_inputs(image: ArrayLike, cam: ArrayLike, class_ids: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pixels, maps = check_image(image), check_cam(cam)
    if maps.shape[1:] != pixels.shape[:2]:
        raise InputError(f"cam: size {maps.shape[1:]} differs from the image's {pixels.shape[:2]}; resize the CAM")
    return pixels, maps, check_class_ids(class_ids, len(maps))


def _check_alpha(alpha: float) -> float:
    if not (math.isfinite(alpha) and alpha > 0):
        raise InputError(
            f"alpha: {alpha} is not a finite number > 0; the released code uses 11 in PPMG, 24 in the joint CRF"
        )
    return float(in_float32(alpha))


def _crf_for(image: np.ndarray, crf: CRFChoice, default: CRFSettings) -> DenseCRF:
    if not isinstance(crf, DenseCRF):
        if crf is not None and not isinstance(crf, CRFSettings):
            raise InputError(f"crf: None, CRFSettings or DenseCRF expected, got {type(crf).__name__}")
        return DenseCRF(image, crf or default)
    if crf.size != image.shape[:2]:
        raise InputError(f"crf: built for size {crf.size}, the image has {image.shape[:2]}; build it for this image")
    return crf


def allow_classes(probabilities: np.ndarray, class_ids: Sequence[int]) -> np.ndarray:
    """Set all classes but the background and the given ones to zero, as the image's labels allow.

    (K, H, W) floating point in [0, 1], background first, and class ids in 1..K-1 -> (K, H, W) float32 copy.

    Raises:
        InputError: the probabilities are not as described above, or a class id is no channel.

    Examples:
        >>> allow_classes(np.array([[[0.2]], [[0.3]], [[0.5]]], np.float32), class_ids=[1]).ravel()
        array([0.2, 0.3, 0. ], dtype=float32)
    """
    probabilities, ids = _check_probabilities(probabilities), np.asarray(class_ids)
    if ids.size and (ids.ndim != 1 or ids.dtype.kind not in "iu"):
        raise InputError(f"class_ids: a flat list of integers expected, got shape {ids.shape} of {ids.dtype}")
    class_ids = ids.ravel().tolist()
    wrong = [i for i in class_ids if not 1 <= i < len(probabilities)]
    if wrong:
        raise InputError(f"class_ids: {wrong[0]} is no class of a model with {len(probabilities) - 1} classes")
    allowed = np.zeros(len(probabilities), dtype=bool)
    allowed[[0, *class_ids]] = True
    return np.where(allowed[:, None, None], probabilities, np.float32(0))


def _check_probabilities(probabilities: ArrayLike) -> np.ndarray:
    maps = check_cam(probabilities, "probabilities", "apply softmax first")
    if not 1 <= len(maps) <= IGNORE_INDEX:
        raise InputError(f"probabilities: 1 to {IGNORE_INDEX} classes expected, got {len(maps)}")
    return maps


def cyclic_pseudo_mask(
    probabilities: np.ndarray, class_ids: Sequence[int] | None = None, crf: DenseCRF | None = None
) -> np.ndarray:
    """Turn a model's class probabilities of a training image into its next pseudo-mask (section 2.5).

    Args:
        probabilities: (K, H, W) floating point in [0, 1], background first.
        class_ids: the image's labels, the only classes allowed; defaults to all, as in the released code.
        crf: joint CRF of the image, which refines the probabilities of the classes allowed, scaled to a sum of 1; they
            stay as they are by default.

    Returns:
        (H, W) uint8 mask; errors as in `allow_classes` and `DenseCRF.posterior`.

    Examples:
        >>> probabilities = np.array([[[0.2]], [[0.3]], [[0.5]]], np.float32)  # (3, 1, 1)
        >>> cyclic_pseudo_mask(probabilities), cyclic_pseudo_mask(probabilities, class_ids=[1])
        (array([[2]], dtype=uint8), array([[1]], dtype=uint8))
    """
    probabilities = _check_probabilities(probabilities)
    allowed = np.arange(len(probabilities))
    if class_ids is not None:
        allowed, probabilities = np.unique([0, *class_ids]), allow_classes(probabilities, class_ids)
        probabilities, total = probabilities[allowed], probabilities.sum(0)  # the CRF makes nothing of any other
        probabilities /= np.where(total > 0, total, 1)
    if crf is not None and (class_ids is None or len(allowed) > 1):
        probabilities = crf.posterior(probabilities)
    return allowed[probabilities.argmax(0)].astype(np.uint8)  # (K, H, W) -> (H, W)
