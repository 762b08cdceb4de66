"""Augmentation: image and mask stay together, the generator alone decides, nothing given is changed."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pmm.data.transforms import Augmentation, augment, erase, jitter, random_crop


def coordinates(height, width):
    """Return an image whose red is the row and green the column, and a mask that is the column."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, 255 - columns], -1), columns.copy()


def run(image, mask, seed=0, **options):
    return augment(image, mask, Augmentation(**options), np.random.default_rng(seed))


@pytest.mark.parametrize("crop", [(16, 20), (40, 50), (16, 50), (40, 20), (30, 36)])
@pytest.mark.parametrize("seed", range(6))
def test_a_crop_is_a_window_of_neighbours_and_the_mask_goes_along(crop, seed):
    image, mask = coordinates(30, 36)
    picture, target = run(image, mask, seed, crop=crop)
    assert picture.shape == (3, *crop) and target.shape == crop
    assert picture.dtype == target.dtype == torch.uint8
    inside = target != 255
    assert torch.equal(picture[1][inside], target[inside])
    rows, columns = (torch.where(inside.any(1 - axis))[0] for axis in (0, 1))
    seen = target[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert seen.shape == (min(30, crop[0]), min(36, crop[1])) and (seen != 255).all()
    red = picture[0][inside].reshape(seen.shape).int()
    assert (red.diff(dim=0) == 1).all() and (red.diff(dim=1) == 0).all()
    step = seen.int().diff(dim=1)
    assert (step == step[0, 0]).all() and abs(int(step[0, 0])) == 1


def test_outside_the_image_is_255_in_the_mask_and_the_mean_colour_in_the_picture():
    image, mask = coordinates(8, 10)
    picture, target = run(image, mask, crop=(20, 20))
    assert int((target != 255).sum()) == 80
    assert picture[:, target == 255].unique(dim=1).ravel().tolist() == [3, 4, 250]  # means 3.5, 4.5, 250.5


@pytest.mark.parametrize("factor", [0.6, 0.75, 1.25, 1.5, 2.0])
def test_a_scaled_mask_lies_on_the_scaled_image_without_a_shift(factor):
    image, mask = coordinates(60, 80)
    picture, target = run(image, mask, crop=(round(60 * factor), round(80 * factor)), scale=(factor, factor))
    assert (target != 255).all()
    gap = (picture[1].float() - target.float())[:, 4:-4]
    assert gap.abs().max() <= 1  # a nearest neighbour is off by half a pixel, to either side alike
    assert gap.mean().abs() <= 0.3


def test_enlarging_repeats_each_label_evenly():
    image, mask = coordinates(32, 32)
    _, target = run(image, mask, crop=(96, 96), scale=(3.0, 3.0))
    assert target.unique(return_counts=True)[1].tolist() == [96 * 3] * 32


def test_halving_and_tripling_pick_the_middle_label():
    mask = np.tile(np.arange(33, dtype=np.uint8), (33, 1))
    _, target = run(np.zeros((33, 33, 3), np.uint8), mask, crop=(11, 11), scale=(1 / 3, 1 / 3))
    assert sorted(target[0].tolist()) == list(range(1, 33, 3))  # 1 is the middle of 0, 1, 2


def test_scale_factors_fill_their_range():
    image = np.zeros((40, 40, 3), np.uint8)
    mask = np.zeros((40, 40), np.uint8)
    sides = [int((run(image, mask, seed, crop=(90, 90), scale=(0.5, 2.0))[1] == 0).sum()) ** 0.5 for seed in range(60)]
    assert min(sides) >= 20 and max(sides) <= 80
    assert sum(side < 40 for side in sides) in range(15, 46)  # as often smaller as larger


def test_about_half_are_mirrored():
    image, mask = coordinates(4, 6)
    flipped = [int(run(image, mask, seed, crop=(4, 6))[1][0, 0]) == 5 for seed in range(200)]
    assert 70 < sum(flipped) < 130


EVERYTHING = {"crop": (20, 28), "scale": (0.6, 1.5), "colour": 0.4, "erase": 0.5}


def test_the_generator_alone_decides_and_nothing_given_changes():
    image, mask = coordinates(24, 24)
    image.setflags(write=False)
    before = image.copy(), mask.copy()
    first = run(image, mask, 5, **EVERYTHING)
    torch.manual_seed(1)
    again, other = run(image, mask, 5, **EVERYTHING), run(image, mask, 6, **EVERYTHING)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    first[0].zero_()
    first[1].zero_()
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_a_mask_draws_no_chance():
    image, mask = coordinates(24, 30)
    for seed in range(4):
        alone, nothing = run(image, None, seed, **EVERYTHING)
        assert nothing is None
        assert torch.equal(alone, run(image, mask, seed, **EVERYTHING)[0])


@example(2, 1, 1, 1, 2)  # torch cannot resize bytes of a single column
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 24), st.integers(1, 24), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_any_size_gives_the_crop_with_labels_from_the_mask(height, width, h, w, seed):
    image, mask = coordinates(height, width)
    picture, target = run(image, mask, seed, crop=(h, w), scale=(0.5, 2.0), colour=0.2, erase=0.5)
    assert picture.shape == (3, h, w) and target.shape == (h, w)
    assert set(target.unique().tolist()) <= {*mask.ravel().tolist(), 255}
    assert (target != 255).any()


def test_every_window_can_be_drawn():
    picture = torch.arange(5, dtype=torch.uint8).repeat(3, 5, 1)
    rng = np.random.default_rng(0)
    assert {int(random_crop(picture, None, (5, 3), rng)[0][0, 0, 0]) for _ in range(60)} == {0, 1, 2}


def test_colour_changes_stay_in_bounds_and_zero_changes_nothing():
    picture = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    assert torch.equal(jitter(picture, 0.0, np.random.default_rng(0)), picture)
    values = [int(jitter(picture, 0.3, np.random.default_rng(seed))[0, 0, 0]) for seed in range(40)]
    assert 68 <= min(values) < 90 and 110 < max(values) <= 131
    assert (picture == 100).all()


def test_every_second_picture_loses_one_rectangle_of_bounded_size():
    rng = np.random.default_rng(0)
    picture = torch.from_numpy(rng.integers(0, 2, (1, 20, 30)).astype(np.uint8) * 255).repeat(3, 1, 1)
    n = 0
    for seed in range(60):
        out = erase(picture, 0.5, np.random.default_rng(seed))
        gone = (out != picture).all(0)
        if gone.any():
            n += 1
            rows, columns = torch.where(gone.any(1))[0], torch.where(gone.any(0))[0]
            assert len(rows) == rows[-1] - rows[0] + 1 <= 10 and len(columns) == columns[-1] - columns[0] + 1 <= 15
            assert int(gone.sum()) == len(rows) * len(columns)
    assert 18 < n < 42
    assert set(picture.unique().tolist()) == {0, 255}
