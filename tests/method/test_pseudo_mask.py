"""Pseudo-masks: parity with the released code, slow loops, hand-made cases and degenerate input."""

from pathlib import Path

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pmm.errors import InputError
from pmm.method.crf import JOINT_CRF, PPMG_CRF, CRFSettings, DenseCRF
from pmm.method.pseudo_mask import (
    background_score,
    crf_pseudo_mask,
    ppmg,
    ppmg_steps,
    proportion,
    threshold_pseudo_mask,
)

VECTORS = Path(__file__).parents[1] / "ppmg_vectors.npz"
SETTINGS = {"s": 0.3, "alpha": 11.0, "t": 0.05}
NO_KERNELS = CRFSettings(gauss_compat=0, bilateral_compat=0)  # the posterior then follows the scores alone

shapes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
unit = st.floats(0, 1, width=32, allow_subnormal=False)
cams = hnp.arrays(np.float32, shapes, elements=unit)


@st.composite
def cams_and_masks(draw):
    cam = draw(cams)
    return cam, draw(hnp.arrays(bool, cam.shape))


def scene(height=12, width=10, n_classes=2, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, rng.random((n_classes, height, width), dtype=np.float32), np.arange(n_classes) * 3 + 2


# --- parity


@pytest.mark.parametrize("case", range(4))
def test_parity_with_the_released_code(case):
    with np.load(VECTORS, allow_pickle=False) as vectors:
        names = ("image", "cams", "class_ids", "s", "alpha", "t", "mask", "s_times_cv")
        image, cam, ids, s, alpha, t, expected, s_cv = (vectors[f"case{case}_{name}"] for name in names)
    steps = ppmg_steps(image, cam, ids, s=float(s), alpha=float(alpha), t=float(t), variant="official")
    np.testing.assert_allclose(float(s) * steps.c_v, s_cv, rtol=0, atol=1e-5)
    assert len(np.unique(expected)) > 1
    assert (steps.mask == expected).mean() >= 0.999


# --- background score and thresholding


def test_background_score_by_hand():
    cam = np.array([[[0.0, 0.5, 1.0]], [[0.25, 0.25, 0.25]]], np.float32)
    np.testing.assert_allclose(background_score(cam, 2), [[0.5625, 0.25, 0.0]])


@given(cams, st.floats(0.5, 30))
def test_background_score_matches_the_equation(cam, alpha):
    result = background_score(cam, alpha)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, oracles.background_score(cam, alpha), rtol=1e-3, atol=1e-6)
    assert result.min() >= 0 and result.max() <= 1
    assert np.array_equal(background_score(cam[::-1], alpha), result)
    assert np.array_equal(background_score(cam[:, ::-1], alpha), result[::-1])


def test_background_score_without_classes_is_certain():
    assert np.array_equal(background_score(np.zeros((0, 2, 3)), 11), np.ones((2, 3)))


def test_threshold_by_hand():
    cam = np.array(
        [
            [[0.9, 0.5, 0.1], [0.3, 0.5, 0.2], [0, 0.6, 0.7]],
            [[0.1, 0.6, 0.1], [0.2, 0.5, 0.4], [0, 0.6, 0.8]],
        ],
        np.float32,
    )
    # a tie goes to the first channel, a value equal to the threshold to the background
    expected = [[7, 4, 0], [7, 7, 4], [0, 7, 4]]
    assert np.array_equal(threshold_pseudo_mask(cam, [7, 4], 0.25), expected)
    assert threshold_pseudo_mask(cam, [7, 4], 0.5)[1, 1] == 0


@given(cams, st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_threshold_matches_the_loop_and_flips(cam, threshold):
    ids = [5, 2, 254, 1][: len(cam)]
    mask = threshold_pseudo_mask(cam, ids, threshold)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, oracles.threshold_pseudo_mask(cam, ids, threshold))
    assert np.array_equal(threshold_pseudo_mask(cam[:, :, ::-1], ids, threshold), mask[:, ::-1])


# --- proportion


def test_proportion_by_hand():
    cam = np.array([[[1.0, 0.5, 0.5]], [[0.0, 0.0, 0.25]]], np.float32)
    mask = np.array([[[1, 1, 0]], [[1, 0, 0]]], bool)
    np.testing.assert_allclose(proportion(cam, mask, "paper")[0], [[2 / 3, 1 / 3, 1 / 3]], rtol=1e-6)
    assert np.array_equal(proportion(cam, mask, "official")[0], np.float32([[0.4, 0.2, 0.2]]))
    # nothing inside the mask: zeros, not infinity; the released code divides by 1
    assert not proportion(cam, mask, "paper")[1].any()
    assert np.array_equal(proportion(cam, mask, "official")[1], cam[1])


@given(cams_and_masks(), st.sampled_from(["paper", "official"]))
def test_proportion_matches_the_equation(problem, variant):
    cam, mask = problem
    result = proportion(cam, mask, variant)
    assert result.dtype == np.float32 and result.min() >= 0
    np.testing.assert_allclose(result, oracles.proportion(cam, mask, variant), rtol=1e-5, atol=1e-30)
    assert np.array_equal(proportion(cam[::-1], mask[::-1], variant), result[::-1])
    if variant == "paper":  # the shares inside the mask sum to 1
        totals = (result * mask).sum(axis=(1, 2), dtype=float)
        np.testing.assert_allclose(totals, (cam * mask).any(axis=(1, 2)), rtol=1e-5)


# --- joint CRF


def test_joint_crf_is_the_argmax_of_the_refined_stack():
    image, cam, ids = scene(n_classes=3)
    stack = np.concatenate([background_score(cam, 4)[None], cam])
    expected = np.array([0, *ids])[DenseCRF(image, JOINT_CRF).posterior(stack).argmax(axis=0)]
    for crf in (None, JOINT_CRF, DenseCRF(image, JOINT_CRF)):
        assert np.array_equal(crf_pseudo_mask(image, cam, ids, alpha=4, crf=crf), expected)


def test_joint_crf_without_kernels_compares_the_scores():
    image, cam, ids = scene(n_classes=3)
    background = oracles.background_score(cam, 4)
    expected = np.where(background > cam.max(axis=0), 0, np.array(ids)[cam.argmax(axis=0)])
    assert 0 < (expected == 0).sum() < expected.size
    assert np.array_equal(crf_pseudo_mask(image, cam, ids, alpha=4, crf=NO_KERNELS), expected)


# --- PPMG


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("n_classes", [1, 3, 20])
def test_ppmg_without_kernels_follows_algorithm_1(variant, n_classes):
    image, cam, ids = scene(n_classes=n_classes)
    smoothed = oracles.smooth_cam(cam, 0.3, 0.05, variant)
    fires = smoothed > (1 - smoothed) ** 4  # posterior > 0.5
    expected = oracles.ppmg_from_binary_masks(cam, fires, ids, variant)
    mask = ppmg(image, cam, ids, s=0.3, alpha=4, t=0.05, variant=variant, crf=NO_KERNELS)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_ppmg_steps_fit_together(variant):
    image, cam, ids = scene(n_classes=3)
    steps = ppmg_steps(image, cam, ids, **SETTINGS, variant=variant)
    np.testing.assert_allclose(steps.c_v, oracles.coefficient_of_variation(cam, 0.05), rtol=1e-5)
    np.testing.assert_allclose(steps.exponent, 1 - 0.3 * steps.c_v, rtol=1e-6)
    np.testing.assert_allclose(steps.smoothed, oracles.smooth_cam(cam, 0.3, 0.05, variant), rtol=1e-5)
    np.testing.assert_allclose(steps.background, (1 - steps.smoothed) ** 11, rtol=1e-6)
    refined = DenseCRF(image, PPMG_CRF).foreground_posterior(steps.smoothed, steps.background)
    assert np.array_equal(steps.posterior, refined)
    assert np.array_equal(steps.foreground, steps.posterior > 0.5)
    np.testing.assert_allclose(steps.proportion, oracles.proportion(cam, steps.foreground, variant), rtol=1e-5)
    expected = oracles.ppmg_from_binary_masks(cam, steps.foreground, ids, variant)
    assert np.array_equal(steps.mask, expected)
    assert np.array_equal(ppmg(image, cam, ids, **SETTINGS, variant=variant), steps.mask)


def test_a_class_fires_above_one_half():
    image, cam = np.zeros((1, 3, 3), np.uint8), np.array([[[0.45, 0.5, 0.55]]], np.float32)
    # alpha = 1 and s = 0: the background is 1 - x, so that the posterior is x itself
    steps = ppmg_steps(image, cam, [6], s=0, alpha=1, t=0.05, crf=NO_KERNELS)
    np.testing.assert_allclose(steps.posterior, cam, rtol=1e-6)
    assert steps.mask.tolist() == [[0, 0, 6]]


def test_the_small_object_wins_where_both_claim_a_pixel():
    cam = np.full((2, 6, 6), 0.9, np.float32)
    cam[1] = 0
    cam[1, 2:4, 2:4] = 0.8  # weaker than the large class everywhere, but a larger share of its own class
    image = np.zeros((6, 6, 3), np.uint8)
    settings = {"s": 0.0, "alpha": 11.0, "t": 0.05, "crf": NO_KERNELS}
    expected = np.full((6, 6), 1)
    expected[2:4, 2:4] = 9
    for variant in ("paper", "official"):
        assert np.array_equal(ppmg(image, cam, [1, 9], **settings, variant=variant), expected)
    assert (threshold_pseudo_mask(cam, [1, 9], 0.3) == 1).all()


def test_pixels_that_only_the_crf_filled_stay_background():
    image = np.full((9, 9, 3), 128, np.uint8)
    cam = np.full((1, 9, 9), 0.9, np.float32)
    cam[0, 4, 4] = 0
    steps = ppmg_steps(image, cam, [3], **SETTINGS)
    assert steps.foreground.all()
    assert steps.mask[4, 4] == 0 and (steps.mask == 3).sum() == 80


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_one_class_without_smoothing_is_the_joint_crf_with_the_same_weights(variant):
    rng, (rows, columns) = np.random.default_rng(3), np.mgrid[:24, :32]
    image = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    cam = np.exp(-(((rows - 12) / 9) ** 2) - ((columns - 16) / 11) ** 2)[None].astype(np.float32)
    joint = crf_pseudo_mask(image, cam, [4], alpha=3.0, crf=JOINT_CRF)
    assert 0.1 < (joint == 4).mean() < 0.9
    assert np.array_equal(ppmg(image, cam, [4], s=0.0, alpha=3.0, t=0.0, variant=variant, crf=JOINT_CRF), joint)


@given(st.permutations(range(4)))
def test_order_of_the_classes_does_not_matter(order):
    image, cam, ids = scene(n_classes=4)
    order = list(order)
    expected = ppmg(image, cam, ids, **SETTINGS)
    assert len(np.unique(expected)) > 2
    assert np.array_equal(ppmg(image, cam[order], ids[order], **SETTINGS), expected)


def test_flip_commutes_without_kernels():
    # the lattice of the CRF is not symmetric, so the flip is exact only without its kernels
    image, cam, ids = scene(n_classes=3)
    mask = ppmg(image, cam, ids, **SETTINGS, crf=NO_KERNELS)
    flipped = ppmg(image[:, ::-1], cam[:, :, ::-1], ids, **SETTINGS, crf=NO_KERNELS)
    assert np.array_equal(flipped, mask[:, ::-1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_ppmg_on_tiny_images(shape):
    image, cam, ids = scene(*shape)
    for mask in (ppmg(image, cam, ids, **SETTINGS), crf_pseudo_mask(image, cam, ids, alpha=11)):
        assert mask.shape == shape and set(np.unique(mask)) <= {0, *ids}


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_degenerate_maps(variant):
    image, cam, ids = scene()
    assert not ppmg(image, cam * 0, ids, **SETTINGS, variant=variant).any()
    # full maps everywhere: equal shares, so the first channel wins the tie
    assert (ppmg(image, cam * 0 + 1, ids, **SETTINGS, variant=variant) == ids[0]).all()
    assert not ppmg(image, cam[:0], [], **SETTINGS, variant=variant).any()
    assert not crf_pseudo_mask(image, cam[:0], [], alpha=11).any()
    assert not threshold_pseudo_mask(cam[:0], [], 0.3).any()


def test_ppmg_steps_without_classes_are_empty():
    image, cam, _ = scene()
    steps = ppmg_steps(image, cam[:0], [], **SETTINGS)
    assert steps.c_v.shape == (0,) and steps.posterior.shape == steps.proportion.shape == (0, 12, 10)


def test_too_large_s_warns_with_the_class():
    image, cam, _ = scene(n_classes=1)
    cam[:] = 0.06
    cam[0, 0, 0] = 1
    with pytest.warns(RuntimeWarning, match="class 17"):
        mask = ppmg(image, cam, [17], s=5.0, alpha=11, t=0.05)
    assert set(np.unique(mask)) <= {0, 17}


def test_a_crf_may_be_shared():
    image, cam, ids = scene()
    crf = DenseCRF(image, PPMG_CRF)
    for alpha in (4.0, 11.0, 4.0):
        settings = SETTINGS | {"alpha": alpha}
        assert np.array_equal(ppmg(image, cam, ids, **settings, crf=crf), ppmg(image, cam, ids, **settings))


def test_inputs_stay_as_they_were():
    image, cam, ids = scene()
    before = image.copy(), cam.copy(), ids.copy()
    ppmg(image, cam, ids, **SETTINGS)
    crf_pseudo_mask(image, cam, ids, alpha=11)
    assert all(np.array_equal(a, b) for a, b in zip(before, (image, cam, ids), strict=True))


@pytest.mark.parametrize(
    "change, found",
    [
        ({"cam": np.full((2, 12, 10), np.nan)}, "cam: holds NaN"),
        ({"cam": np.full((2, 12, 10), 7.0)}, "cam: values"),
        ({"cam": np.zeros((2, 12, 10), int)}, "cam: floating"),
        ({"cam": np.zeros((12, 10))}, "cam: shape"),
        ({"cam": np.zeros((2, 10, 12))}, r"cam: size \(10, 12\) differs from the image's \(12, 10\)"),
        ({"image": np.zeros((12, 10, 3))}, "image: "),
        ({"class_ids": [1]}, "class_ids: 1 ids"),
        ({"class_ids": [4, 4]}, "class_ids: .*twice"),
        ({"class_ids": [0, 4]}, "class_ids: 0"),
        ({"class_ids": [1, 255]}, "class_ids: 255"),
        ({"alpha": 0}, "alpha: 0"),
        ({"alpha": float("nan")}, "alpha: nan"),
        ({"s": -1}, "s: -1"),
        ({"t": 1}, "t: 1"),
        ({"variant": "both"}, "variant: 'both'"),
        ({"crf": 10}, "crf: .*int"),
        ({"crf": DenseCRF(np.zeros((5, 5, 3), np.uint8))}, r"crf: built for size \(5, 5\)"),
    ],
)
def test_ppmg_refuses(change, found):
    image, cam, ids = scene()
    with pytest.raises(InputError, match=rf"^{found}"):
        ppmg(**{"image": image, "cam": cam, "class_ids": ids} | SETTINGS | change)


def test_the_others_refuse():
    image, cam, ids = scene()
    with pytest.raises(InputError, match=r"^threshold: 1.5"):
        threshold_pseudo_mask(cam, ids, 1.5)
    with pytest.raises(InputError, match=r"^alpha: -1"):
        crf_pseudo_mask(image, cam, ids, alpha=-1)
    with pytest.raises(InputError, match=r"^mask: bool"):
        proportion(cam, np.ones_like(cam))
    with pytest.raises(InputError, match=r"^mask: bool"):
        proportion(cam, np.ones((1, 12, 10), bool))
