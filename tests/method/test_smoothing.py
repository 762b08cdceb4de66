"""c_v and CVS against slow loops, by hand, and against numbers made by the released code."""

import math
import warnings
from pathlib import Path

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pmm.errors import InputError
from pmm.method.smoothing import MIN_EXPONENT, coefficient_of_variation, raise_cam, smooth_cam, smoothing_exponent

VECTORS = Path(__file__).parents[1] / "ppmg_vectors.npz"

cams = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    elements=st.floats(0, 1, width=32, allow_subnormal=False),
)
thresholds = st.sampled_from([0.0, 0.05, 0.25, 0.9])


def test_coefficient_of_variation_by_hand():
    # foreground 0.2, 0.4, 0.6: mean 0.4, population variance 0.08 / 3
    cam = np.array([[[0.2, 0.4, 0.6], [0.05, 0, 0.01], [0, 0, 0]]], dtype=np.float32)
    assert coefficient_of_variation(cam, 0.05) == pytest.approx([math.sqrt(0.08 / 3) / 0.4], rel=1e-6)


@given(cams, thresholds)
def test_coefficient_of_variation_matches_the_equation(cam, t):
    result = coefficient_of_variation(cam, t)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, oracles.coefficient_of_variation(cam, t), rtol=1e-5, atol=1e-6)
    assert (result >= 0).all()


@given(cams, thresholds)
def test_coefficient_of_variation_ignores_positions_and_follows_classes(cam, t):
    result = coefficient_of_variation(cam, t)
    np.testing.assert_allclose(coefficient_of_variation(cam[:, ::-1, ::-1], t), result, rtol=1e-6, atol=1e-7)
    assert np.array_equal(coefficient_of_variation(cam[::-1], t), result[::-1])


@given(cams, thresholds, st.sampled_from(["paper", "official"]), st.floats(0, 0.4))
def test_smooth_matches_the_equation(cam, t, variant, s):
    if 1 - s * max(oracles.coefficient_of_variation(cam, t)) < MIN_EXPONENT:
        return
    result = smooth_cam(cam, s, t, variant)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, oracles.smooth_cam(cam, s, t, variant), rtol=2e-5, atol=1e-12)
    assert result.min() >= 0 and result.max() <= 1
    kept = cam >= np.float32(t) if variant == "official" else np.ones_like(cam, bool)
    assert (result[kept] >= cam[kept] * (1 - 1e-6)).all()


def test_variants_differ_only_below_the_threshold():
    cam = np.array([[[0.04, 0.05, 0.5, 1.0]]], dtype=np.float32)
    paper, official = smooth_cam(cam, 0.3, 0.05, "paper"), smooth_cam(cam, 0.3, 0.05, "official")
    assert official[0, 0, 0] == 0 and paper[0, 0, 0] > 0.04
    assert np.array_equal(paper[0, 0, 1:], official[0, 0, 1:])
    assert official[0, 0, 1] > 0  # equal to t: kept, though not part of the foreground


def test_zero_strength_leaves_the_map():
    cam = np.random.default_rng(0).random((3, 4, 5), dtype=np.float32)
    assert np.array_equal(smooth_cam(cam, 0, 0.05, "paper"), cam)
    assert np.array_equal(smooth_cam(cam, 0, 0.05, "official"), np.where(cam < np.float32(0.05), 0, cam))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (20, 2, 3), (0, 2, 3)])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_maps_have_no_variation(shape, value):
    cam = np.full(shape, value, np.float32)
    assert np.array_equal(coefficient_of_variation(cam, 0.05), np.zeros(len(cam)))
    assert np.array_equal(smooth_cam(cam, 5.0, 0.05), cam)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_deviation_of_a_large_map_stays_exact(dtype):
    # half the pixels a, half b: c_v = |a - b| / (a + b); a sum over these pixels overflows float16
    cam = np.tile(np.array([0.25, 0.75], dtype), 400 * 250).reshape(1, 400, 500)
    assert coefficient_of_variation(cam, 0.05) == pytest.approx([0.5], rel=1e-7)


def peaked_cam():
    cam = np.full((2, 10, 10), 0.06, dtype=np.float32)
    cam[:, 0, 0] = 1.0
    cam[1] = 0.5
    return cam


def test_too_strong_smoothing_warns_with_class_and_value_and_stays_finite():
    cam = peaked_cam()
    with pytest.warns(RuntimeWarning, match=r"s: 3 .*class 15: c_v 1\.\d+, exponent -\d") as caught:
        result = smooth_cam(cam, 3, 0.05, class_ids=[15, 7])
    assert "class 7" not in str(caught[0].message)
    assert caught[0].filename == __file__
    np.testing.assert_allclose(result[0], cam[0] ** np.float32(MIN_EXPONENT), rtol=1e-6)
    assert np.array_equal(result[1], cam[1])  # constant: c_v 0
    with pytest.warns(RuntimeWarning, match="channel 0"):
        smooth_cam(cam, 3, 0.05)


def test_floored_official_keeps_zero_at_zero():
    cam = peaked_cam()
    cam[0, 5:] = 0.01
    with pytest.warns(RuntimeWarning):
        result = smooth_cam(cam, 3, 0.05, "official")
    assert not result[0, 5:].any() and np.isfinite(result).all()


def test_strict_raises_instead():
    with pytest.raises(InputError, match=r"^s: 3 .*class 15.*lower s$"):
        smooth_cam(peaked_cam(), 3, 0.05, class_ids=[15, 7], strict=True)


def test_no_warning_above_the_floor():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert smoothing_exponent([0.5, 0.0], 1.0) == pytest.approx([0.5, 1.0])
        smooth_cam(peaked_cam(), 0.3, 0.05, strict=True)


def test_inputs_stay_as_they_were():
    cam = peaked_cam()
    before = cam.copy()
    smooth_cam(cam, 0.3, 0.5)
    assert np.array_equal(cam, before)


@pytest.mark.parametrize(
    "change, found",
    [
        ({"s": -0.1}, "s: -0.1"),
        ({"s": math.nan}, "s: nan"),
        ({"s": math.inf}, "s: inf"),
        ({"t": 1.0}, "t: 1.0"),
        ({"t": -0.01}, "t: -0.01"),
        ({"t": math.nan}, "t: nan"),
        ({"variant": "papper"}, "variant: 'papper'"),
        ({"cam": np.full((1, 2, 2), np.nan)}, "cam: holds NaN"),
        ({"cam": np.full((1, 2, 2), 2.0)}, "cam: values"),
        ({"cam": np.zeros((2, 2))}, "cam: shape"),
    ],
)
def test_refuses(change, found):
    with pytest.raises(InputError, match=rf"^{found}"):
        smooth_cam(**{"cam": peaked_cam(), "s": 0.3, "t": 0.05, "variant": "official"} | change)


def test_raise_cam_takes_one_exponent_a_channel():
    cam = np.full((2, 1, 1), 0.25, np.float32)
    assert np.array_equal(raise_cam(cam, [0.5, 1.0], 0.05).ravel(), [0.5, 0.25])


@pytest.mark.parametrize("case", range(4))
def test_parity_with_the_released_code(case):
    with np.load(VECTORS, allow_pickle=False) as vectors:
        cam, t, s, expected = (vectors[f"case{case}_{name}"] for name in ("cams", "t", "s", "s_times_cv"))
    np.testing.assert_allclose(float(s) * coefficient_of_variation(cam, float(t)), expected, rtol=0, atol=1e-5)
