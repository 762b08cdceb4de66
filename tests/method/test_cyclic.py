"""Cyclic pseudo-masks: labels filter the classes, the largest probability wins."""

import numpy as np
import pytest

from pmm.errors import InputError
from pmm.method.crf import DenseCRF
from pmm.method.pseudo_mask import allow_classes, cyclic_pseudo_mask

PROBABILITIES = np.array(
    [[[0.1, 0.6, 0.3]], [[0.2, 0.1, 0.1]], [[0.7, 0.0, 0.2]], [[0.0, 0.3, 0.4]]], np.float32
)  # (4,1,3): background and three classes


@pytest.mark.parametrize(
    ("class_ids", "mask"),
    [(None, [2, 0, 3]), ([1, 2, 3], [2, 0, 3]), ([2], [2, 0, 0]), ([3, 1], [1, 0, 3]), ([], [0, 0, 0])],
)
def test_only_the_labelled_classes_and_the_background_win(class_ids, mask):
    out = cyclic_pseudo_mask(PROBABILITIES, class_ids)
    assert out.dtype == np.uint8 and out.tolist() == [mask]


def test_filter_zeroes_other_classes_in_a_copy():
    before = PROBABILITIES.copy()
    out = allow_classes(PROBABILITIES, (2,))
    assert out.dtype == np.float32 and out is not PROBABILITIES
    np.testing.assert_array_equal(out[[0, 2]], before[[0, 2]])
    assert not out[[1, 3]].any()
    np.testing.assert_array_equal(PROBABILITIES, before)


@pytest.mark.parametrize("wrong", [0, 4, -1, 255])
def test_a_class_that_is_no_channel_is_refused(wrong):
    with pytest.raises(InputError, match=rf"^class_ids: {wrong} is no class of a model with 3 classes$"):
        cyclic_pseudo_mask(PROBABILITIES, [1, wrong])


def test_a_tie_goes_to_the_lower_mask_value():
    assert cyclic_pseudo_mask(np.full((3, 1, 1), 1 / 3, np.float32)).tolist() == [[0]]


def test_the_crf_gets_the_probabilities_of_the_labels_and_decides():
    class Recorder:
        def posterior(self, probabilities):
            self.seen = probabilities
            return probabilities[::-1]

    crf = Recorder()
    assert cyclic_pseudo_mask(PROBABILITIES, [3, 1], crf).tolist() == [[1, 3, 0]]
    kept = PROBABILITIES[[0, 1, 3]]
    np.testing.assert_array_equal(crf.seen, kept / kept.sum(0))
    assert cyclic_pseudo_mask(PROBABILITIES, None, crf).tolist() == [[1, 3, 0]]
    np.testing.assert_array_equal(crf.seen, PROBABILITIES)


def test_a_model_that_is_sure_of_another_class_leaves_the_labels_to_the_crf():
    """What it gives to the labels is far below the CRF's least probability: still none but they may win."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    probabilities = rng.uniform(1e-12, 2e-12, (6, 20, 24)).astype(np.float32)
    probabilities[4] = 1
    probabilities[2, :, 12:] = 1e-10
    mask = cyclic_pseudo_mask(probabilities, [2, 5], DenseCRF(image))
    assert set(np.unique(mask)) <= {0, 2, 5} and (mask[:, 12:] == 2).mean() > 0.9
    assert not cyclic_pseudo_mask(probabilities, [], DenseCRF(image)).any()


def test_a_real_crf_removes_a_speck_and_keeps_the_object():
    image = np.zeros((12, 16, 3), np.uint8)
    image[:, 8:] = 220
    p = np.full((12, 16), 0.1, np.float32)
    p[:, 8:] = 0.9
    p[6, 3] = 0.6  # a speck in a plain region
    out = cyclic_pseudo_mask(np.stack([1 - p, p]), [1], DenseCRF(image))
    assert out[6, 3] == 0
    assert (out[:, 8:] == 1).all() and (out[:, :8] == 0).all()


def test_a_crf_of_another_image_is_refused():
    with pytest.raises(InputError, match=r"^probabilities"):
        cyclic_pseudo_mask(PROBABILITIES, [1], DenseCRF(np.zeros((5, 5, 3), np.uint8)))
