"""Cyclic pseudo-masks, section 2.5: the trained model's predictions become the next round's pseudo-masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pmm.crf import DenseCRF
from pmm.errors import InputError


def allow_classes(probabilities: np.ndarray, class_ids: Sequence[int]) -> np.ndarray:
    """Set all classes but the background and the given ones to zero, as the image's labels allow.

    Args:
        probabilities: (K,H,W) float32 in [0,1], background first.
        class_ids: mask values 1..K-1 that stay.

    Returns:
        (K,H,W) float32 copy.

    Raises:
        InputError: a class id is no channel.
    """
    wrong = [int(i) for i in class_ids if not 1 <= i < len(probabilities)]
    if wrong:
        raise InputError(f"class_ids: {wrong[0]} is no class of a model with {len(probabilities) - 1} classes")
    allowed = np.zeros(len(probabilities), dtype=bool)
    allowed[[0, *class_ids]] = True
    return np.where(allowed[:, None, None], probabilities, np.float32(0))


def cyclic_pseudo_mask(
    probabilities: np.ndarray, class_ids: Sequence[int] | None = None, crf: DenseCRF | None = None
) -> np.ndarray:
    """Turn a model's class probabilities of a training image into its next pseudo-mask.

    Args:
        probabilities: (K,H,W) float32 in [0,1], background first.
        class_ids: the image's labels, the only classes allowed; None allows all, as the released code does.
        crf: joint CRF of the image, with which to refine the probabilities; None takes them as they are.

    Returns:
        (H,W) uint8 mask.

    Raises:
        InputError: a class id is no channel, or the CRF is of another image.
    """
    if class_ids is not None:
        probabilities = allow_classes(probabilities, class_ids)
    if crf is not None:
        probabilities = crf.posterior(probabilities)
    return probabilities.argmax(0).astype(np.uint8)
