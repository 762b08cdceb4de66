"""The parts of PUS: eq. 11-13 against slow loops, the gradients of both clamps, the per-pixel losses."""

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
from pmm.method.losses import (
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
        logits, target = oracles.batch()
        PretendedUnderfittingLoss(kind, 100.0, 0.5, "official")(logits, target).backward()
        grads.append(logits.grad)
    assert grads[0].any() and torch.equal(*grads)


def test_papers_clamp_teaches_where_ignore_does_not():
    grads = []
    for kind in ("clamp", "ignore"):
        logits, target = oracles.batch()
        PretendedUnderfittingLoss(kind, 100.0, 0.5, "paper")(logits, target).backward()
        grads.append(logits.grad.abs().sum(dim=1))
    over = (cross_entropy_map(*oracles.batch()) >= 0.5).detach()
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
    logits, target = oracles.batch(n_classes)
    result = globals()[name](logits, target)
    assert result.dtype == torch.float32 and result.shape == target.shape
    expected = getattr(oracles, name)(logits.detach().numpy(), target.numpy())
    np.testing.assert_allclose(result.detach(), expected, rtol=1e-4, atol=1e-5)
    assert (result[target == 255] == 0).all()


def test_bce_gradient_is_that_of_torch():
    logits, target = oracles.batch(5, ignored=0)
    one_vs_all_bce_map(logits, target).sum().backward()
    other = logits.detach().clone().requires_grad_()
    one_hot = F.one_hot(target, 5).movedim(-1, 1).float()
    F.binary_cross_entropy_with_logits(other, one_hot, reduction="none").mean(1).sum().backward()
    torch.testing.assert_close(logits.grad, other.grad)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_target_may_be_any_integer(dtype):
    logits, target = oracles.batch()
    expected = cross_entropy_map(logits, target)
    assert torch.equal(cross_entropy_map(logits, target.to(dtype)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_a_float32_map(dtype):
    logits, target = oracles.batch()
    low = logits.detach().to(dtype)
    for function in (cross_entropy_map, one_vs_all_bce_map):
        assert torch.equal(function(low, target), function(low.float(), target))


@pytest.mark.parametrize("function", [cross_entropy_map, one_vs_all_bce_map])
@pytest.mark.parametrize("value", [4, 21, 254, -1])
def test_labels_outside_the_classes_are_named(function, value):
    logits, target = oracles.batch()
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
