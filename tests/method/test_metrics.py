"""mIoU against a pixel-by-pixel loop, by hand, and with unknown pixels on either side."""

import math

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pmm.errors import InputError
from pmm.method.metrics import SegmentationScore, confusion_matrix, iou_per_class, mean_iou

TARGET = np.array([[0, 0, 1], [1, 1, 2], [255, 255, 2]], np.uint8)
PREDICTION = np.array([[0, 1, 1], [1, 0, 2], [0, 2, 1]], np.uint8)
N = 4

labels = st.sampled_from([0, 1, 2, 3, 255])


@st.composite
def label_pairs(draw):
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    return tuple(draw(hnp.arrays(np.uint8, shape, elements=labels)) for _ in range(2))


def test_confusion_by_hand():
    confusion = confusion_matrix(TARGET, PREDICTION, N)
    assert confusion.dtype == np.int64
    assert confusion.tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_iou_by_hand():
    iou = iou_per_class(confusion_matrix(TARGET, PREDICTION, N))
    assert iou[:3] == pytest.approx([1 / 3, 2 / 5, 1 / 2])
    assert math.isnan(iou[3])  # class 3 is nowhere
    assert mean_iou(confusion_matrix(TARGET, PREDICTION, N)) == pytest.approx((1 / 3 + 2 / 5 + 1 / 2) / 3)


def test_a_class_only_predicted_counts_as_zero():
    assert iou_per_class(confusion_matrix([0, 0], [0, 1], 2)).tolist() == [0.5, 0.0]


@given(label_pairs())
def test_iou_matches_the_loop(pair):
    confusion = confusion_matrix(*pair, N, unknown_column=True)
    assert confusion.shape == (N, N + 1)
    assert confusion.sum() == (pair[0] != 255).sum()
    np.testing.assert_allclose(iou_per_class(confusion), oracles.iou_per_class(*pair, N))


@given(label_pairs())
def test_confusion_properties(pair):
    target, prediction = pair[0], np.where(pair[1] == 255, 0, pair[1])
    confusion = confusion_matrix(target, prediction, N)
    assert np.array_equal(confusion_matrix(target, prediction, N, unknown_column=True)[:, :N], confusion)
    assert np.array_equal(confusion_matrix(target[:, ::-1], prediction[:, ::-1], N), confusion)
    order = np.array([2, 0, 3, 1])
    renamed = [np.where(x == 255, 255, order[np.minimum(x, 3)]) for x in (target, prediction)]
    assert np.array_equal(confusion_matrix(*renamed, N)[np.ix_(order, order)], confusion)


def test_unknown_prediction_is_a_miss_and_no_false_positive():
    score = SegmentationScore(["background", "dog"])
    score.update([0, 0, 1, 1], [0, 0, 1, 255])
    assert score.confusion.tolist() == [[2, 0, 0], [0, 1, 1]]
    result = score.result()
    assert result["iou"] == {"background": 1.0, "dog": 0.5}
    assert result["miou"] == 0.75 and result["pixel_accuracy"] == 0.75


def test_unknown_prediction_must_be_asked_for():
    with pytest.raises(InputError, match=r"^prediction: label 255"):
        confusion_matrix([0, 1], [0, 255], 2)


def test_score_adds_up_images_before_dividing():
    score = SegmentationScore(("background", "cat", "dog"))
    images = [(TARGET, PREDICTION), (TARGET[::-1], PREDICTION), (TARGET * 0, PREDICTION * 0)]
    for target, prediction in images:
        score.update(target, prediction)
    target, prediction = (np.concatenate(x) for x in zip(*images, strict=True))
    result = score.result()
    expected = oracles.iou_per_class(target, prediction, 3)
    assert list(result["iou"].values()) == pytest.approx(expected)
    assert result["miou"] == pytest.approx(np.mean(expected))
    judged = target != 255
    assert result["pixel_accuracy"] == pytest.approx((target == prediction)[judged].mean())


def test_absent_class_is_nan_and_left_out_of_the_mean():
    score = SegmentationScore(["background", "cat", "dog"])
    score.update([0, 1], [0, 1])
    result = score.result()
    assert math.isnan(result["iou"]["dog"]) and result["miou"] == 1.0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("target", [np.full((2, 3), 255, np.uint8), np.zeros((0, 3), np.uint8)])
def test_nothing_to_judge(target):
    score = SegmentationScore(["background", "cat"])
    assert math.isnan(score.result()["miou"])
    score.update(target, np.zeros_like(target))
    result = score.result()
    assert not score.confusion.any()
    assert all(math.isnan(x) for x in (result["miou"], result["pixel_accuracy"], *result["iou"].values()))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_perfect_masks_of_many_classes(shape, dtype):
    mask = (np.arange(np.prod(shape)) % 21).reshape(shape).astype(dtype)
    assert mean_iou(confusion_matrix(mask, mask, 21)) == 1.0


def test_255_classes_do_not_overflow():
    labels = np.arange(255, dtype=np.uint8)
    assert np.array_equal(confusion_matrix(labels, labels, 255), np.eye(255))


def test_inputs_stay_as_they_were():
    before = TARGET.copy(), PREDICTION.copy()
    confusion_matrix(TARGET, PREDICTION, N)
    assert np.array_equal(TARGET, before[0]) and np.array_equal(PREDICTION, before[1])


@pytest.mark.parametrize(
    "target, prediction, found",
    [
        ([0, 1], [0, 1, 1], r"prediction: shape \(3,\)"),
        ([0, 7], [0, 1], "target: label 7"),
        ([0, -1], [0, 1], "target: label -1"),
        ([0, 1], [0, 4], "prediction: label 4"),
        ([255, 1], [9, 1], "prediction: label 9"),
        ([0.0, 1.0], [0, 1], "target: .*float64"),
        ([0, 1], [True, False], "prediction: .*bool"),
        ([0, 1], [math.nan, 1], "prediction: .*float64"),
    ],
)
def test_confusion_refuses(target, prediction, found):
    with pytest.raises(InputError, match=rf"^{found}"):
        confusion_matrix(target, prediction, N)


@pytest.mark.parametrize("names", [[], ["a", "a"], [str(i) for i in range(256)]])
def test_score_refuses_names(names):
    with pytest.raises(InputError, match=r"^class_names: "):
        SegmentationScore(names)


@pytest.mark.parametrize("confusion", [np.zeros(3), np.zeros((2, 4)), np.zeros((3, 2))])
def test_iou_refuses_other_shapes(confusion):
    with pytest.raises(InputError, match=r"^confusion: "):
        iou_per_class(confusion)
