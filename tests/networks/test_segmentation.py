"""Whole-image prediction, the per-pixel loss map, and the loss with its warm-up."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pmm.errors import InputError
from pmm.method.losses import PretendedUnderfittingLoss
from pmm.networks.devices import seeded
from pmm.networks.inference import class_probabilities, padded_logits, pixel_loss_map, window_starts, windowed_logits
from pmm.networks.training import SegmentationLoss

STATISTICS = ([0.5] * 3, [0.25] * 3)
IMAGE = np.random.default_rng(3).integers(0, 256, (37, 45, 3), dtype=np.uint8)


def point_model():
    """Judge every pixel alone, so that padding and size cannot matter."""
    with seeded(1):
        return nn.Conv2d(3, 4, 1).eval()


def logits_of(image):
    x = (torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        return point_model()(x)


class Watch(nn.Module):
    """Remember what arrives."""

    def forward(self, images):
        self.seen = images
        return images


@pytest.mark.parametrize("size", [(1, 1), (5, 70), (31, 33), (32, 64), (17, 100)])
def test_padding_reaches_the_next_multiple_of_32_and_is_cut_off_again(size):
    model, images = Watch(), torch.rand(2, 3, *size)
    assert torch.equal(padded_logits(model, images), images)
    assert all(seen % 32 == 0 and 0 <= seen - side < 32 for seen, side in zip(model.seen.shape[2:], size, strict=True))


def test_padding_reflects_at_the_right_and_the_bottom():
    model, images = Watch(), torch.rand(1, 3, 30, 60)
    padded_logits(model, images)
    assert torch.equal(model.seen[..., :30, 60:], images[..., 55:59].flip(-1))
    assert torch.equal(model.seen[..., 30:, :60], images[..., 27:29, :].flip(-2))


@pytest.mark.parametrize("flip", [False, True])
def test_one_scale_is_the_softmax_of_the_logits(flip):
    before = IMAGE.copy()
    out = class_probabilities(point_model(), IMAGE, scales=[1.0], flip=flip, statistics=STATISTICS)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, logits_of(IMAGE).softmax(1)[0].numpy(), atol=1e-5)
    np.testing.assert_array_equal(IMAGE, before)


def test_probabilities_of_several_scales_sum_to_one():
    out = class_probabilities(point_model(), IMAGE, scales=[0.75, 1.0, 1.5], flip=True, statistics=STATISTICS)
    assert out.shape == (4, 37, 45) and out.min() >= 0
    np.testing.assert_allclose(out.sum(0), 1, atol=1e-5)
    one = class_probabilities(point_model(), IMAGE, scales=[1.0], flip=True, statistics=STATISTICS)
    assert np.abs(out - one).max() > 0.01


def test_with_flip_a_mirrored_image_has_the_mirrored_probabilities():
    with seeded(4):
        model = nn.Conv2d(3, 3, 3, padding=1)  # sees the neighbours
    options = {"scales": [1.0], "flip": True, "statistics": STATISTICS}
    image = IMAGE[:32, :32]  # not padded: padding is on one side only
    straight = class_probabilities(model, image, **options)
    mirrored = class_probabilities(model, image[:, ::-1], **options)
    np.testing.assert_allclose(mirrored[:, :, ::-1], straight, atol=1e-5)


@given(st.integers(1, 900), st.integers(1, 400))
def test_windows_cover_a_length_and_overlap_by_a_third(length, side):
    starts = window_starts(length, side)
    ends = [min(start + side, length) for start in starts]
    assert starts[0] == 0 and ends[-1] == length
    assert all(0 < after - before <= max(1, side * 2 // 3) for before, after in pairwise(starts))


@pytest.mark.parametrize("flip", [False, True])
def test_windows_change_nothing_where_each_pixel_is_judged_alone(flip):
    options = {"scales": [1.0, 1.5], "flip": flip, "statistics": STATISTICS}
    whole = class_probabilities(point_model(), IMAGE, **options)
    np.testing.assert_allclose(class_probabilities(point_model(), IMAGE, window=20, **options), whole, atol=1e-5)


def test_a_window_is_judged_without_its_surroundings():
    model, images = Watch(), torch.rand(2, 3, 40, 100)
    assert torch.allclose(windowed_logits(model, images, 64), images, atol=1e-6) and model.seen.shape[2:] == (64, 64)
    assert torch.equal(windowed_logits(model, images, 100), images) and model.seen.shape[2:] == (64, 128)


def test_each_head_has_a_gate_of_its_own():
    """The weighted sum of two losses, of which the second alone is below beta."""
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    first, second = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    second[:, 0] = 2.0
    second[:, 0, 0] = -2.0  # a row that is doubted
    pus = PretendedUnderfittingLoss("ignore", beta=0.65, kappa=1.0, variant="paper")
    loss, values = SegmentationLoss(pus, auxiliary=0.4)(lambda _: (first, second), None, target, 1.0)
    plain, doubted = pus(first, target), pus(second, target)
    assert doubted < F.cross_entropy(second, target) < 0.65 < plain
    torch.testing.assert_close(loss, plain + 0.4 * doubted)
    assert float(values["mean_loss"]) == pytest.approx(float(plain)) and not values["gate_open"]


@pytest.mark.parametrize("pixel_loss", ["ce", "bce"])
def test_the_loss_map_is_the_loss_of_each_pixel_and_0_where_ignored(pixel_loss):
    mask = np.random.default_rng(0).integers(0, 4, (37, 45)).astype(np.uint8)
    mask[:5] = 255
    out = pixel_loss_map(point_model(), IMAGE, mask, pixel_loss=pixel_loss, background_margin=0, statistics=STATISTICS)
    assert out.shape == mask.shape and out.dtype == np.float32
    assert not out[:5].any() and (out[5:] > 0).all()
    logits = logits_of(IMAGE)[0]
    for y, x in ((5, 0), (20, 44), (36, 7)):
        label = int(mask[y, x])
        if pixel_loss == "ce":
            expected = -logits[:, y, x].log_softmax(0)[label]
        else:
            truth = F.one_hot(torch.tensor(label), 4).float()
            expected = F.binary_cross_entropy_with_logits(logits[:, y, x], truth)
        assert out[y, x] == pytest.approx(float(expected), abs=1e-4)


def test_a_label_beyond_the_model_is_refused():
    with pytest.raises(InputError, match="target: label 9"):
        options = {"pixel_loss": "ce", "background_margin": 0, "statistics": STATISTICS}
        pixel_loss_map(point_model(), IMAGE, np.full((37, 45), 9), **options)


def test_the_background_margin_is_a_factor_on_the_backgrounds_odds():
    mask = np.zeros((37, 45), np.uint8)
    mask[:, 20:] = 2
    plain = logits_of(IMAGE)[0].double()
    odds = plain.softmax(0)
    odds[0] *= 4  # in training the background counts as 4 times as likely as the model says
    expected = -(odds / odds.sum(0)).log()
    options = {"pixel_loss": "ce", "background_margin": np.log(4), "statistics": STATISTICS}
    out = pixel_loss_map(point_model(), IMAGE, mask, **options)
    np.testing.assert_allclose(out[:, :20], expected[0, :, :20], atol=1e-4)
    np.testing.assert_allclose(out[:, 20:], expected[2, :, 20:], atol=1e-4)


LOGITS = torch.tensor([[[[4.0, 4.0, 0.0]], [[0.0, 0.0, 4.0]]]])  # (1,2,1,3): the last pixel disagrees
TARGET = torch.tensor([[[0, 0, 0]]], dtype=torch.uint8)
LOW, HIGH = np.log1p(np.exp(-4.0)), 4 + np.log1p(np.exp(-4.0))  # losses of agreeing and disagreeing pixels


def step(progress, *, pus="clamp", beta=2.0, **changes):
    criterion = PretendedUnderfittingLoss(pus, beta, 1.0, "paper")
    loss, values = SegmentationLoss(criterion, **changes)(lambda images: LOGITS, None, TARGET, progress)
    return float(loss), {name: float(value) for name, value in values.items()}


MEAN = (2 * LOW + HIGH) / 3


def test_training_learns_with_the_margin():
    raised, _ = step(1.0, pus="none", background_margin=float(np.log(4)))
    assert raised == pytest.approx((2 * np.log1p(np.exp(-4.0) / 4) + np.log1p(np.exp(4.0) / 4)) / 3, abs=1e-5)


@pytest.mark.parametrize(("progress", "acts"), [(0.0, False), (0.49, False), (0.5, True), (0.9, True)])
def test_pus_acts_after_the_warm_up(progress, acts):
    loss, values = step(progress, warmup=0.5)
    assert loss == pytest.approx((2 * LOW + 1) / 3 if acts else MEAN, abs=1e-5)
    assert values["mean_loss"] == pytest.approx(MEAN, abs=1e-5)  # untouched in both
    assert values["gate_open"] == acts
    assert values["over_kappa"] == pytest.approx(1 / 3 if acts else 0)


def test_without_warm_up_pus_acts_from_the_first_step_and_with_a_whole_one_never():
    assert step(0.0)[1]["gate_open"] == 1
    assert step(0.999, warmup=1.0)[1]["gate_open"] == 0


def test_above_beta_the_gate_is_closed_and_the_share_still_known():
    loss, values = step(1.0, beta=1.0)
    assert loss == pytest.approx(MEAN, abs=1e-5)
    assert values["gate_open"] == 0 and values["over_kappa"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("pus", "last"), [("none", HIGH), ("clamp", 1.0), ("ignore", 0.0)])
def test_the_strategy_is_the_parameters(pus, last):
    assert step(0.5, pus=pus)[0] == pytest.approx((2 * LOW + last) / 3, abs=1e-5)
