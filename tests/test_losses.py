"""PUS: values against slow loops, the gradients of both clamps, the gate, and batches without labels."""

import math

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.nn import functional as F

from pmm.errors import InputError
from pmm.losses import (
    KINDS,
    PretendedUnderfittingLoss,
    cross_entropy_map,
    one_vs_all_bce_map,
    pus_clamp,
    pus_ignore,
    pus_pow,
)

VARIANTS = ("paper", "official")
LOSSES = [0.0, 0.1, 0.4, 0.5, 0.8, 2.0]  # kappa = 0.5 falls on a value

loss_arrays = hnp.arrays(
    np.float32,
    hnp.array_shapes(max_dims=3, max_side=4),
    elements=st.floats(0, 50, width=32, allow_subnormal=False),
)


def apply(kind, loss_map, kappa, variant):
    if kind == "ignore":
        return pus_ignore(loss_map, kappa)
    return {"clamp": pus_clamp, "pow": pus_pow}[kind](loss_map, kappa, variant)


def gradient(kind, variant, kappa=0.5, losses=LOSSES):
    loss_map = torch.tensor(losses, requires_grad=True)
    apply(kind, loss_map, kappa, variant).sum().backward()
    return loss_map.grad


def batch(n_classes=4, shape=(2, 5, 6), ignored=0.3, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (shape[0], n_classes, *shape[1:])).astype(np.float32)
    target = rng.integers(0, n_classes, shape)
    target[rng.random(shape) < ignored] = 255
    return torch.from_numpy(logits).requires_grad_(), torch.from_numpy(target)


# --- eq. 11-13


def test_values_by_hand():
    loss_map = torch.tensor([LOSSES])
    for variant in VARIANTS:
        np.testing.assert_allclose(pus_clamp(loss_map, 0.5, variant)[0], [0, 0.1, 0.4, 0.5, 0.5, 0.5], rtol=1e-6)
        powers = pus_pow(loss_map, 0.5, variant)[0]
        np.testing.assert_allclose(powers, np.sqrt(LOSSES), rtol=1e-6, atol=4e-5)
    np.testing.assert_allclose(pus_ignore(loss_map, 0.5)[0], [0, 0.1, 0.4, 0, 0, 0], rtol=1e-6)
    assert pus_pow(loss_map, 0.5, "paper")[0, 0] == 0
    assert pus_pow(loss_map, 0.5, "official")[0, 0] == pytest.approx(math.sqrt(1e-9))


@given(loss_arrays, st.sampled_from(["clamp", "pow", "ignore"]), st.sampled_from(VARIANTS), st.floats(0.05, 3))
def test_values_match_the_equations(losses, kind, variant, kappa):
    kappa = float(np.float32(kappa))
    result = apply(kind, torch.from_numpy(losses), kappa, variant).numpy()
    expected = np.vectorize(lambda loss: oracles.pus(float(loss), kind, kappa, variant))(losses)
    assert result.shape == losses.shape and result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-7)
    assert (result >= 0).all()
    if kind != "pow":
        assert (result <= losses * (1 + 1e-6)).all()


def test_gradient_of_the_papers_clamp_is_the_weight_kappa_over_loss():
    np.testing.assert_allclose(gradient("clamp", "paper"), [1, 1, 1, 1, 0.5 / 0.8, 0.25], rtol=1e-6)


def test_gradient_of_the_official_clamp_is_zero_above_kappa():
    assert gradient("clamp", "official").tolist() == [1, 1, 1, 0, 0, 0]


def test_official_clamp_and_ignore_train_identically():
    assert torch.equal(gradient("clamp", "official"), gradient("ignore", "official"))
    grads = []
    for kind in ("clamp", "ignore"):
        logits, target = batch()
        PretendedUnderfittingLoss(kind, 100.0, 0.5, "official")(logits, target).backward()
        grads.append(logits.grad)
    assert grads[0].any() and torch.equal(*grads)


def test_papers_clamp_teaches_where_ignore_does_not():
    grads = []
    for kind in ("clamp", "ignore"):
        logits, target = batch()
        PretendedUnderfittingLoss(kind, 100.0, 0.5, "paper")(logits, target).backward()
        grads.append(logits.grad.abs().sum(dim=1))
    over = (cross_entropy_map(*batch()) >= 0.5).detach()
    assert over.any() and (grads[0][over] > 0).all() and not grads[1][over].any()
    assert torch.equal(grads[0][~over], grads[1][~over])


def test_gradient_of_pow_is_safe_at_zero():
    paper, official = gradient("pow", "paper"), gradient("pow", "official")
    expected = [0.5 * loss**-0.5 for loss in LOSSES[1:]]
    np.testing.assert_allclose(paper[1:], expected, rtol=1e-5)
    np.testing.assert_allclose(official[1:], expected, rtol=1e-5)
    assert paper[0] == 0
    assert official[0] == pytest.approx(0.5 * 1e-9**-0.5, rel=1e-5)


@pytest.mark.parametrize("function", [pus_clamp, pus_pow, pus_ignore])
@pytest.mark.parametrize("kappa", [0, -1, math.nan, math.inf, None])
def test_kappa_is_checked(function, kappa):
    with pytest.raises(InputError, match=r"^kappa: "):
        function(torch.ones(2), kappa)


@pytest.mark.parametrize("function", [pus_clamp, pus_pow])
def test_variant_is_checked(function):
    with pytest.raises(InputError, match=r"^variant: 'x'"):
        function(torch.ones(2), 0.5, "x")


# --- per-pixel losses


def test_cross_entropy_by_hand():
    logits = torch.tensor([[[[0.0, 100.0]], [[0.0, 0.0]]]])
    assert cross_entropy_map(logits, torch.tensor([[[1, 1]]])).tolist() == [[[pytest.approx(math.log(2)), 100.0]]]


def test_bce_by_hand():
    logits = torch.zeros(1, 21, 1, 2)
    logits[0, 3, 0, 1] = -210.0  # the true class denied: loss 210 of it, log 2 of 20 others
    result = one_vs_all_bce_map(logits, torch.tensor([[[3, 3]]]))
    expected = [[[math.log(2), (210 + 20 * math.log(2)) / 21]]]
    np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("n_classes", [1, 2, 21])
@pytest.mark.parametrize("name", ["cross_entropy_map", "one_vs_all_bce_map"])
def test_maps_match_the_loops(name, n_classes):
    logits, target = batch(n_classes)
    result = globals()[name](logits, target)
    assert result.dtype == torch.float32 and result.shape == target.shape
    expected = getattr(oracles, name)(logits.detach().numpy(), target.numpy())
    np.testing.assert_allclose(result.detach(), expected, rtol=1e-4, atol=1e-5)
    assert (result[target == 255] == 0).all()


def test_bce_gradient_is_that_of_torch():
    logits, target = batch(5, ignored=0)
    one_vs_all_bce_map(logits, target).sum().backward()
    other = logits.detach().clone().requires_grad_()
    one_hot = F.one_hot(target, 5).movedim(-1, 1).float()
    F.binary_cross_entropy_with_logits(other, one_hot, reduction="none").mean(1).sum().backward()
    torch.testing.assert_close(logits.grad, other.grad)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_target_may_be_any_integer(dtype):
    logits, target = batch()
    expected = cross_entropy_map(logits, target)
    assert torch.equal(cross_entropy_map(logits, target.to(dtype)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_a_float32_map(dtype):
    logits, target = batch()
    low = logits.detach().to(dtype)
    for function in (cross_entropy_map, one_vs_all_bce_map):
        assert torch.equal(function(low, target), function(low.float(), target))


@pytest.mark.parametrize("function", [cross_entropy_map, one_vs_all_bce_map])
@pytest.mark.parametrize("value", [4, 21, 254, -1])
def test_labels_outside_the_classes_are_named(function, value):
    logits, target = batch()
    target[0, 1, 2] = value
    with pytest.raises(InputError, match=rf"^target: label {value} is neither in 0\.\.3 nor 255"):
        function(logits, target)


@pytest.mark.parametrize(
    "logits, target, found",
    [
        (torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 4).long(), "target: .*1, 3, 4"),
        (torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3), "target: .*float32"),
        (torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3).bool(), "target: .*bool"),
        (torch.zeros(2, 3, 3), torch.zeros(3, 3).long(), "logits: "),
        (torch.zeros(1, 2, 3, 3).long(), torch.zeros(1, 3, 3).long(), "logits: .*int64"),
    ],
)
def test_shapes_and_types_are_checked(logits, target, found):
    with pytest.raises(InputError, match=rf"^{found}"):
        cross_entropy_map(logits, target)


# --- eq. 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pixel_loss", ["ce", "bce"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 100.0])
def test_loss_matches_equation_10(kind, variant, pixel_loss, beta):
    logits, target = batch()
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
        logits, target = batch()
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pixel_loss", ["ce", "bce"])
def test_batch_without_labels_gives_zero_and_no_gradient(kind, variant, pixel_loss):
    logits, target = batch()
    criterion = PretendedUnderfittingLoss(kind, 0.5, 0.5, variant, pixel_loss)
    loss = criterion(logits, torch.full_like(target, 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and not logits.grad.any()
    assert criterion.last_state.share_over_kappa.item() == 0


@pytest.mark.parametrize("kind", KINDS)
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
    logits, target = batch(ignored=0)
    order = torch.tensor([2, 0, 3, 1])
    renamed = torch.argsort(order)[target]
    for pixel_loss in ("ce", "bce"):
        criterion = PretendedUnderfittingLoss("clamp", 100.0, 0.5, "paper", pixel_loss)
        expected = criterion(logits, target)
        torch.testing.assert_close(criterion(logits[:, order], renamed), expected)
        torch.testing.assert_close(criterion(logits.flip(-1), target.flip(-1)), expected)


def test_last_state_is_detached_and_right():
    logits, target = batch()
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
    logits, target = batch()
    expected = PretendedUnderfittingLoss("clamp", 100.0, 0.5, "paper")(logits, target)
    target = torch.where(target == 255, -1, target)
    criterion = PretendedUnderfittingLoss("clamp", 100.0, 0.5, "paper", ignore_index=-1)
    assert torch.equal(criterion(logits, target), expected)


def test_nan_stays_visible():
    logits, target = batch()
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
    logits, target = batch()
    assert criterion(logits, target).item() == pytest.approx(F.cross_entropy(logits, target, ignore_index=255).item())
    assert "none" in repr(criterion) and "paper" in repr(criterion)
