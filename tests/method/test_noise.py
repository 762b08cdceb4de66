"""Masks with a known share of wrong object pixels."""

import numpy as np
import pytest

from pmm.errors import InputError
from pmm.method.noise import flip_regions


@pytest.fixture
def mask():
    values = np.zeros((48, 64), np.uint8)
    values[6:30, 6:30] = 2
    values[20:46, 34:60] = 5
    values[46:] = 255
    return values


def wrong(mask, changed):
    objects = (mask > 0) & (mask < 255)
    return (mask != changed)[objects].mean()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7])
def test_the_share_is_met_up_to_half_a_region(mask, share):
    changed = flip_regions(mask, (2, 5), share, 0, "a")
    region = 36 / np.isin(mask, (2, 5)).sum()  # cells are 48 / 8 = 6 pixels wide
    assert abs(wrong(mask, changed) - share) <= region / 2 + 1e-9


def test_nothing_and_everything(mask):
    assert np.array_equal(flip_regions(mask, (2, 5), 0.0, 0, "a"), mask)
    assert wrong(mask, flip_regions(mask, (2, 5), 1.0, 0, "a")) == 1.0
    assert np.array_equal(flip_regions(np.zeros((8, 8), np.uint8), (), 0.5, 0, "a"), np.zeros((8, 8), np.uint8))


def test_background_and_unknown_stay_and_the_argument_too(mask):
    before = mask.copy()
    changed = flip_regions(mask, (2, 5), 1.0, 0, "a")
    assert np.array_equal(mask, before)
    for value in (0, 255):
        assert (changed[mask == value] == value).all()
    assert set(np.unique(changed[mask == 2])) == {0, 5} and set(np.unique(changed[mask == 5])) == {0, 2}


def test_errors_come_in_whole_regions(mask):
    flipped = (flip_regions(mask, (2, 5), 0.5, 3, "a") != mask)[6:30, 6:30]
    blocks = flipped.reshape(4, 6, 4, 6).mean(axis=(1, 3))
    assert set(np.unique(blocks)) == {0.0, 1.0}


def test_one_choice_an_image_and_a_seed(mask):
    first = flip_regions(mask, (2, 5), 0.5, 0, "a")
    assert np.array_equal(first, flip_regions(mask, (2, 5), 0.5, 0, "a"))
    assert not np.array_equal(first, flip_regions(mask, (2, 5), 0.5, 1, "a"))
    assert not np.array_equal(first, flip_regions(mask, (2, 5), 0.5, 0, "b"))


def test_bad_input_is_one_line(mask):
    with pytest.raises(InputError, match="share"):
        flip_regions(mask, (2, 5), 1.5, 0, "a")
    with pytest.raises(InputError, match="uint8"):
        flip_regions(mask.astype(int), (2, 5), 0.5, 0, "a")
