"""The loss of PUS, eq. 10: the gate, its plain gradient when closed, batches without labels, what it refuses."""

import math

import oracles
import pytest
import torch
from torch.nn import functional as F

from pmm.errors import InputError
from pmm.method.losses import PUS_KINDS, PretendedUnderfittingLoss, cross_entropy_map

VARIANTS = ("paper", "official")


@pytest.mark.parametrize("kind", PUS_KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pixel_loss", ["ce", "bce"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 100.0])
def test_loss_matches_equation_10(kind, variant, pixel_loss, beta):
    logits, target = oracles.batch()
    loss = PretendedUnderfittingLoss(kind, beta, 0.5, variant, pixel_loss)(logits, target)
    oracle = {"ce": oracles.cross_entropy_map, "bce": oracles.one_vs_all_bce_map}[pixel_loss]
    loss_map = oracle(logits.detach().numpy(), target.numpy())
    expected = oracles.pretended_underfitting_loss(loss_map, target.numpy(), kind, beta, 0.5, variant)
    assert loss.ndim == 0 and loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_the_gate_closes_at_exactly_beta():
    logits, target = torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3).long()
    mean = PretendedUnderfittingLoss("none", None, None, "paper")(logits, target).item()  # log 2 everywhere
    for beta, gate, expected in [(mean, "closed", mean), (math.nextafter(mean, 1) + 1e-6, "open", 0.25)]:
        criterion = PretendedUnderfittingLoss("clamp", beta, 0.25, "paper")
        assert criterion(logits, target).item() == pytest.approx(expected)
        assert criterion.last_state.gate == gate


def test_closed_gate_leaves_the_plain_gradient():
    grads = []
    for criterion in (
        PretendedUnderfittingLoss("ignore", 1e-6, 0.5, "paper"),
        PretendedUnderfittingLoss("none", None, None, "paper"),
    ):
        logits, target = oracles.batch()
        criterion(logits, target).backward()
        grads.append(logits.grad)
    torch.testing.assert_close(*grads)


def test_ignored_pixels_change_only_the_official_variant():
    logits, target = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 1, 255, 255]]])  # log 2, log 2, -, -
    paper = PretendedUnderfittingLoss("clamp", 0.5, 0.25, "paper")
    assert paper(logits, target).item() == pytest.approx(math.log(2))  # 0.69 >= beta: closed
    official = PretendedUnderfittingLoss("clamp", 0.5, 0.25, "official")
    assert official(logits, target).item() == pytest.approx(0.125)  # 0.35 < beta: open, 2 * 0.25 / 4
    assert (paper.last_state.gate, official.last_state.gate) == ("closed", "open")


@pytest.mark.parametrize("kind", PUS_KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pixel_loss", ["ce", "bce"])
def test_batch_without_labels_gives_zero_and_no_gradient(kind, variant, pixel_loss):
    logits, target = oracles.batch()
    criterion = PretendedUnderfittingLoss(kind, 0.5, 0.5, variant, pixel_loss)
    loss = criterion(logits, torch.full_like(target, 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and not logits.grad.any()
    assert criterion.last_state.share_over_kappa.item() == 0


@pytest.mark.parametrize("kind", PUS_KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_perfect_prediction_keeps_finite_gradients(kind, variant):
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 0] = 200.0  # loss exactly 0
    logits.requires_grad_()
    loss = PretendedUnderfittingLoss(kind, 0.5, 0.5, variant)(logits, torch.zeros(1, 2, 2).long())
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_one_pixel():
    logits = torch.tensor([[[[0.0]], [[0.0]]]])
    loss = PretendedUnderfittingLoss("clamp", 1.0, 0.25, "paper")(logits, torch.tensor([[[1]]]))
    assert loss.item() == pytest.approx(0.25)


def test_permuted_classes_and_flips_give_the_same_loss():
    logits, target = oracles.batch(ignored=0)
    order = torch.tensor([2, 0, 3, 1])
    renamed = torch.argsort(order)[target]
    for pixel_loss in ("ce", "bce"):
        criterion = PretendedUnderfittingLoss("clamp", 100.0, 0.5, "paper", pixel_loss)
        expected = criterion(logits, target)
        torch.testing.assert_close(criterion(logits[:, order], renamed), expected)
        torch.testing.assert_close(criterion(logits.flip(-1), target.flip(-1)), expected)


def test_last_state_is_detached_and_right():
    logits, target = oracles.batch()
    criterion = PretendedUnderfittingLoss("clamp", 100.0, 0.5, "paper")
    assert criterion.last_state is None
    criterion(logits, target)
    state, loss_map = criterion.last_state, cross_entropy_map(logits, target).detach()
    valid = target != 255
    assert not (state.mean_loss.requires_grad or state.share_over_kappa.requires_grad)
    assert state.mean_loss.item() == pytest.approx(loss_map[valid].mean().item())
    assert state.share_over_kappa.item() == pytest.approx((loss_map[valid] >= 0.5).float().mean().item())
    assert 0 < state.share_over_kappa.item() < 1 and state.gate == "open"


def test_other_ignore_index():
    logits, target = oracles.batch()
    expected = PretendedUnderfittingLoss("clamp", 100.0, 0.5, "paper")(logits, target)
    target = torch.where(target == 255, -1, target)
    criterion = PretendedUnderfittingLoss("clamp", 100.0, 0.5, "paper", ignore_index=-1)
    assert torch.equal(criterion(logits, target), expected)


def test_nan_stays_visible():
    logits, target = oracles.batch()
    loss = PretendedUnderfittingLoss("clamp", 0.5, 0.5, "paper")(logits.detach() * math.nan, target)
    assert torch.isnan(loss)


@pytest.mark.parametrize(
    "arguments, found",
    [
        (("clip", 0.5, 0.5, "paper"), "kind: 'clip'"),
        (("clamp", None, 0.5, "paper"), "beta: None"),
        (("clamp", -0.1, 0.5, "paper"), "beta: -0.1"),
        (("clamp", math.nan, 0.5, "paper"), "beta: nan"),
        (("pow", 0.5, None, "paper"), "kappa: None"),
        (("ignore", 0.5, 0, "paper"), "kappa: 0"),
        (("clamp", 0.5, 0.5, "mine"), "variant: 'mine'"),
        (("clamp", 0.5, 0.5, "paper", "mse"), "pixel_loss: 'mse'"),
    ],
)
def test_module_refuses(arguments, found):
    with pytest.raises(InputError, match=rf"^{found}"):
        PretendedUnderfittingLoss(*arguments)


def test_module_needs_no_numbers_for_the_plain_mean_and_prints_its_settings():
    criterion = PretendedUnderfittingLoss("none", None, None, "paper")
    logits, target = oracles.batch()
    assert criterion(logits, target).item() == pytest.approx(F.cross_entropy(logits, target, ignore_index=255).item())
    assert "none" in repr(criterion) and "paper" in repr(criterion)
