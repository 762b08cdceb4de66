"""Segmentation quality: confusion matrix, intersection over union (IoU) and its mean, mIoU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pmm.errors import InputError
from pmm.method import IGNORE_INDEX

MOST = 2**53  # of a count: float64 holds it exactly


def confusion_matrix(
    target: ArrayLike, prediction: ArrayLike, n_classes: int, *, unknown_column: bool = False
) -> np.ndarray:
    """Count how often each true class was predicted as each class.

    IGNORE_INDEX (255) means "not evaluated" in a target and "no answer", which counts as a miss, in a prediction.

    Args:
        target: integers of any shape, 0..n_classes-1, or 255 for pixels that are not evaluated.
        prediction: integers of the same shape, 0..n_classes-1, or, with `unknown_column`, 255 for no answer.
        n_classes: number of classes, the background included.
        unknown_column: add a last column that counts the pixels without an answer, so that they are misses.

    Returns:
        (n, n) int64, or (n, n + 1) with `unknown_column`; [i, j] counts pixels of class i predicted as j.

    Raises:
        InputError: the shapes differ, n_classes is outside 1..255, or a value is no class index (in `prediction` also
            where the target is 255).

    Examples:
        >>> confusion_matrix([0, 0, 1, 255], [0, 1, 1, 0], n_classes=2)
        array([[1, 1],
               [0, 1]])
    """
    truth, answer = np.asarray(target), np.asarray(prediction)
    if truth.shape != answer.shape:
        raise InputError(f"prediction: shape {answer.shape} differs from the target's {truth.shape}")
    if not 1 <= n_classes <= IGNORE_INDEX:
        raise InputError(f"n_classes: {n_classes} is outside 1..{IGNORE_INDEX}")
    _check_labels("target", truth, n_classes, IGNORE_INDEX)
    _check_labels("prediction", answer, n_classes, IGNORE_INDEX if unknown_column else None)
    evaluated = truth != IGNORE_INDEX
    n_columns = n_classes + unknown_column
    columns = np.minimum(answer[evaluated].astype(np.int64), n_columns - 1)  # 255 -> the last column
    cells = truth[evaluated].astype(np.int64) * n_columns + columns  # row-major index into the matrix
    return np.bincount(cells, minlength=n_classes * n_columns).reshape(n_classes, n_columns)


def iou_per_class(confusion: ArrayLike) -> np.ndarray:
    """Intersection over union of each class.

        IoU = TP / (TP + FP + FN)

    Args:
        confusion: (n, n) or (n, n + 1) counts from `confusion_matrix`; the last column only adds misses (FN).

    Returns:
        (n,) float64 in [0, 1]; NaN for a class that is in neither the targets nor the predictions.

    Raises:
        InputError: `confusion` has another shape, or holds anything but counts.

    Examples:
        >>> iou_per_class([[2, 1], [0, 1]])
        array([0.66666667, 0.5       ])
    """
    counts = _check_confusion(confusion)
    hits = np.diagonal(counts)
    union = counts.sum(axis=1) + counts[:, : len(counts)].sum(axis=0) - hits
    return np.divide(hits, union, out=np.full(len(counts), np.nan), where=union > 0)


def mean_iou(confusion: ArrayLike) -> float:
    """Mean IoU in [0, 1] over the classes that occur in the targets or in the predictions; NaN where none does.

    Argument and errors as in `iou_per_class`.

    Examples:
        >>> round(mean_iou([[2, 1], [0, 1]]), 3)
        0.583
    """
    iou = iou_per_class(confusion)
    occurring = iou[~np.isnan(iou)]
    return float(occurring.mean()) if occurring.size else float("nan")


class SegmentationScore:
    """Sum up the confusion of many images; a predicted 255 counts as a miss of the true class.

    Attributes:
        class_names: names by mask value, index 0 is the background; the only argument.
        confusion: (n, n + 1) int64, the last column counts the pixels without an answer.

    Raises:
        InputError: `class_names` is empty, longer than 255 names, or names a class twice.

    Examples:
        >>> score = SegmentationScore(["background", "dog"])
        >>> score.update([[0, 1], [1, 255]], [[0, 1], [0, 0]])
        >>> score.result()
        {'miou': 0.5, 'iou': {'background': 0.5, 'dog': 0.5}, 'pixel_accuracy': 0.6666666666666666}
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        n_classes = len(self.class_names)
        if not 1 <= n_classes <= IGNORE_INDEX or len(set(self.class_names)) != n_classes:
            raise InputError(f"class_names: 1 to {IGNORE_INDEX} different names expected, got {n_classes}")
        self.confusion = np.zeros((n_classes, n_classes + 1), dtype=np.int64)

    def update(self, target: ArrayLike, prediction: ArrayLike) -> None:
        """Add one image or batch; arguments and errors as in `confusion_matrix`."""
        self.confusion += confusion_matrix(target, prediction, len(self.class_names), unknown_column=True)

    def result(self) -> dict[str, float | dict[str, float]]:
        """Return "miou", "iou" by class name and "pixel_accuracy", in [0, 1]; NaN where nothing counted."""
        total = int(self.confusion.sum())
        iou = iou_per_class(self.confusion)
        return {
            "miou": mean_iou(self.confusion),
            "iou": {name: float(value) for name, value in zip(self.class_names, iou, strict=True)},
            "pixel_accuracy": float(np.trace(self.confusion) / total) if total else float("nan"),
        }


def _check_labels(name: str, labels: np.ndarray, n_classes: int, extra: int | None) -> None:
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{name}: integer labels expected, got {labels.dtype}")
    wrong = (labels < 0) | (labels >= n_classes)
    if extra is not None:
        wrong &= labels != extra
    if wrong.any():
        hint = "" if extra is None else f" and is not {extra}"
        raise InputError(f"{name}: label {labels[wrong][0]} is outside 0..{n_classes - 1}{hint}")


def _check_confusion(confusion: ArrayLike) -> np.ndarray:
    counts = np.asarray(confusion)
    if counts.ndim != 2 or counts.shape[1] - counts.shape[0] not in (0, 1):
        raise InputError(f"confusion: counts (n, n) or (n, n + 1) expected, got shape {counts.shape}")
    numbers = counts.astype(np.float64) if counts.dtype.kind in "iuf" else np.array(np.nan)
    if not ((numbers >= 0) & (numbers <= MOST)).all():
        raise InputError(f"confusion: counts of 0 to 2^53 expected, got others in {counts.dtype}")
    return numbers
