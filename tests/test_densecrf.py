"""The drop-in against pydensecrf: helpers of this field as their authors call it, every option, and bad input."""

import multiprocessing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmm import densecrf
from pmm.data.scenes import compose_scene
from pmm.errors import InputError
from pmm.threads import available_threads

theirs = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed; it needs a C++ compiler")
utils = pytest.importorskip("pydensecrf.utils")
WIDTH, HEIGHT = 160, 120


def softmax(logits):
    e = np.exp(logits - logits.max(axis=0))
    return e / e.sum(axis=0)


def probabilities(n_labels, seed=0, width=WIDTH, height=HEIGHT):
    """Smooth maps with a few confident labels and many that are nearly absent, as networks give."""
    rng = np.random.default_rng([n_labels, seed])
    y, x = np.mgrid[:height, :width]
    maps = np.full((n_labels, height, width), -2.0)
    for k in range(n_labels):
        a, b = rng.random(2) * (height, width)
        maps[k] += 6 * rng.random() * np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * (0.2 * height) ** 2))
    return softmax(maps + rng.normal(0, 0.3, maps.shape)).astype(np.float32)


def photograph(seed=0):
    return compose_scene("val", seed, width=WIDTH, height=HEIGHT).image


# --- what repositories of this field do with a photograph and what their networks gave; `crf` and `of` are the modules


def from_labels(crf, of, image, n_labels, reach=(3, 50, 5), weights=(3, 10)):
    """IRN, and those who took its helper: labels of the strongest activation, surely right with 0.7."""
    labels = probabilities(n_labels).argmax(axis=0)
    d = crf.DenseCRF2D(image.shape[1], image.shape[0], n_labels)
    d.setUnaryEnergy(of.unary_from_labels(labels, n_labels, gt_prob=0.7, zero_unsure=False))
    d.addPairwiseGaussian(sxy=reach[0], compat=weights[0])
    d.addPairwiseBilateral(sxy=reach[1], srgb=reach[2], rgbim=np.ascontiguousarray(np.copy(image)), compat=weights[1])
    return d.inference(10)


def from_softmax(crf, of, image, n_labels, reach=(3, 80, 13), weights=(3, 10)):
    """AffinityNet and SEAM, MCTformer with (4, 83, 5) and (3, 3), DeepLab's refinement with (1, 67, 3) and (3, 4)."""
    d = crf.DenseCRF2D(image.shape[1], image.shape[0], n_labels)
    d.setUnaryEnergy(np.ascontiguousarray(of.unary_from_softmax(probabilities(n_labels))))
    d.addPairwiseGaussian(sxy=reach[0], compat=weights[0])
    d.addPairwiseBilateral(sxy=reach[1], srgb=reach[2], rgbim=np.copy(image), compat=weights[1])
    return d.inference(10)


def from_features(crf, of, image, n_labels):
    """The example of pydensecrf's README: any features, a kernel each."""
    d = crf.DenseCRF2D(image.shape[1], image.shape[0], n_labels)
    d.setUnaryEnergy(of.unary_from_softmax(probabilities(n_labels), scale=0.8))
    near = of.create_pairwise_gaussian(sdims=(3, 4), shape=image.shape[:2])
    d.addPairwiseEnergy(near, compat=3, kernel=crf.DIAG_KERNEL, normalization=crf.NORMALIZE_SYMMETRIC)
    alike = of.create_pairwise_bilateral(sdims=(50, 60), schan=(20, 13, 17), img=image, chdim=2)
    d.addPairwiseEnergy(alike, compat=10)
    return d.inference(5)


def stepwise(crf, of, image, n_labels):
    """The same, one iteration at a time."""
    d = crf.DenseCRF(image.shape[0] * image.shape[1], n_labels)
    d.setUnaryEnergy(of.unary_from_softmax(probabilities(n_labels)))
    d.addPairwiseEnergy(of.create_pairwise_bilateral((30, 30), 13, image, chdim=-3 + 5), compat=4)
    q, tmp1, tmp2 = d.startInference()
    for _ in range(5):
        d.stepInference(q, tmp1, tmp2)
    return q


HELPERS = {
    "labels": from_labels,
    "softmax": from_softmax,
    "mctformer": lambda *args: from_softmax(*args, reach=(4, 83, 5), weights=(3, 3)),
    "deeplab": lambda *args: from_softmax(*args, reach=(1, 67, 3), weights=(3, 4)),
    "fractions": lambda *args: from_labels(*args, reach=(4 / 12, 83 / 12, 5), weights=(3, 3)),
    "features": from_features,
    "stepwise": stepwise,
}


@pytest.mark.parametrize("n_labels", [2, 3, 5, 21])
@pytest.mark.parametrize("helper", HELPERS)
def test_helpers_of_other_repositories_give_the_same_labels(helper, n_labels):
    image = photograph(n_labels)
    expected = np.array(HELPERS[helper](theirs, utils, image, n_labels))
    found = HELPERS[helper](densecrf, densecrf, image, n_labels)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)
    assert (found.argmax(axis=0) == expected.argmax(axis=0)).mean() >= 0.9999
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("helper", ["labels", "softmax", "mctformer", "deeplab"])
def test_helpers_give_the_same_labels_on_a_photograph_of_full_size(helper, monkeypatch):
    monkeypatch.setitem(globals(), "WIDTH", 500)
    monkeypatch.setitem(globals(), "HEIGHT", 375)
    monkeypatch.setattr(probabilities, "__defaults__", (0, 500, 375))
    test_helpers_of_other_repositories_give_the_same_labels(helper, 21)


NUMBERS = st.floats(0.1, 6)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(0, 9))
def test_any_terms_agree_with_pydensecrf(data, n_labels, iterations):
    """Any number of terms, with any compatibilities and normalisations, on noise."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    width, height = 13, 9
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    unary = rng.normal(0, 3, (n_labels, width * height)).astype(np.float32)
    crfs = [theirs.DenseCRF2D(width, height, n_labels), densecrf.DenseCRF2D(width, height, n_labels)]
    for crf in crfs:
        crf.setUnaryEnergy(unary)
    for _ in range(data.draw(st.integers(0, 3))):
        kind = data.draw(st.sampled_from(["number", "vector", "matrix"]))
        shape = {"number": (), "vector": (n_labels,), "matrix": (n_labels, n_labels)}[kind]
        compat = (rng.random(shape) * 3 - 1).astype(np.float32)
        compat = float(compat) if kind == "number" else compat
        kernel, normalization = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 3))
        sxy = data.draw(st.one_of(NUMBERS, st.tuples(NUMBERS, NUMBERS)))
        srgb = data.draw(st.one_of(st.floats(5, 90), st.tuples(*[st.floats(5, 90)] * 3)))
        term = data.draw(st.sampled_from(["gaussian", "bilateral", "energy"]))
        for crf, of in zip(crfs, (theirs, densecrf), strict=True):
            how = {"kernel": of.KernelType(kernel), "normalization": of.NormalizationType(normalization)}
            if term == "gaussian":
                crf.addPairwiseGaussian(sxy, compat, **how)
            elif term == "bilateral":
                crf.addPairwiseBilateral(sxy, srgb, image, compat, **how)
            else:
                features = utils.create_pairwise_bilateral((3.0, 2.0), 40.0, image[..., :2], chdim=2)
                crf.addPairwiseEnergy(features, compat, **how)
    expected, found = np.array(crfs[0].inference(iterations)), crfs[1].inference(iterations)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)
    states = [crf.startInference() for crf in crfs]
    for crf, state in zip(crfs, states, strict=True):
        for _ in range(iterations):
            crf.stepInference(*state)
    np.testing.assert_allclose(states[1][0], np.array(states[0][0]), rtol=0, atol=2e-4)
    if n_labels > 1:
        divergences = [crf.klDivergence(state[0]) for crf, state in zip(crfs, states, strict=True)]
        assert divergences[1] == pytest.approx(divergences[0], rel=1e-4, abs=1e-2)


def test_without_normalization_agrees_with_pydensecrf():
    unary = np.random.default_rng(0).normal(0, 9, (3, 40)).astype(np.float32)
    found = []
    for of in (theirs, densecrf):
        crf = of.DenseCRF2D(8, 5, 3)
        crf.setUnaryEnergy(unary)
        crf.addPairwiseGaussian(sxy=2, compat=0.1, normalization=of.NO_NORMALIZATION)
        found.append(np.array(crf.inference(3)))
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=2e-4)


def test_a_volume_of_six_features():
    rng = np.random.default_rng(0)
    volume = rng.random((4, 5, 6, 3))
    unary = rng.random((3, 120)).astype(np.float32)
    found = []
    for crf, of in ((theirs, utils), (densecrf, densecrf)):
        d = crf.DenseCRF(120, 3)
        d.setUnaryEnergy(unary)
        d.addPairwiseEnergy(of.create_pairwise_bilateral((2, 2, 2), (0.3, 0.3, 0.2), volume, chdim=3), compat=4)
        d.addPairwiseEnergy(of.create_pairwise_gaussian((1, 1, 2), (4, 5, 6)), compat=2, kernel=crf.FULL_KERNEL)
        found.append(np.array(d.inference(5)))
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=2e-4)


@pytest.mark.parametrize("zero_unsure", [True, False])
def test_energies_of_labels_are_those_of_pydensecrf(zero_unsure):
    labels = np.random.default_rng(0).integers(0, 5, (6, 7), dtype=np.uint8)
    for gt_prob in (0.3, 0.9):
        expected = utils.unary_from_labels(labels.astype(int), 5, gt_prob, zero_unsure)
        np.testing.assert_allclose(densecrf.unary_from_labels(labels, 5, gt_prob, zero_unsure), expected, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"scale": 0.5}, {"clip": 0.1}, {"scale": 0.9, "clip": None}])
def test_energies_of_probabilities_are_those_of_pydensecrf(options):
    sm = probabilities(4)
    expected = utils.unary_from_softmax(sm, **options)
    np.testing.assert_allclose(densecrf.unary_from_softmax(sm, **options), expected, rtol=1e-5, atol=1e-6)


def test_features_are_those_of_pydensecrf():
    image = photograph()
    for options in ({"schan": 10, "img": image[..., 0]}, {"schan": (10, 5, 2), "img": image, "chdim": 2}):
        expected = utils.create_pairwise_bilateral((2, 3), **options)
        np.testing.assert_allclose(densecrf.create_pairwise_bilateral((2, 3), **options), expected, rtol=1e-6)


def test_constants_are_those_of_pydensecrf():
    for name in ("CONST_KERNEL", "DIAG_KERNEL", "FULL_KERNEL"):
        assert getattr(densecrf, name) == int(getattr(theirs, name))
    for name in ("NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC"):
        assert getattr(densecrf, name) == int(getattr(theirs, name))


def test_inference_may_be_called_again_and_changes_nothing():
    crf = densecrf.DenseCRF2D(WIDTH, HEIGHT, 3)
    unary = densecrf.unary_from_softmax(probabilities(3))
    kept = unary.copy()
    crf.setUnaryEnergy(unary)
    unary[:] = 0  # after it was given
    image = photograph().copy()
    crf.addPairwiseBilateral(80, 13, image, 10)
    image[:] = 0
    first = crf.inference(5)
    assert np.array_equal(crf.inference(5), first)
    crf.setUnaryEnergy(kept[::-1])
    np.testing.assert_allclose(crf.inference(5), first[::-1], atol=1e-5)


def test_a_very_unlikely_first_label_leaves_the_order_of_the_others():
    """Channels are differences from label 0."""
    crf = densecrf.DenseCRF(2, 4)
    crf.setUnaryEnergy(np.array([[300, 300], [1, 9], [2, 1], [9, 3]], np.float32))
    np.testing.assert_allclose(crf.inference(3), softmax(-np.array([[300, 300], [1, 9], [2, 1], [9, 3]])), atol=1e-5)


def threads_here(_):
    return available_threads()


def test_in_a_pool_of_processes_each_takes_one_core():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(threads_here, [0]) == [1]


def ready(n_labels=2):
    crf = densecrf.DenseCRF2D(4, 3, n_labels)
    crf.setUnaryEnergy(np.zeros((n_labels, 12)))
    return crf


IMAGE = np.zeros((3, 4, 3), np.uint8)
BAD = {
    "npixels: 0": lambda: densecrf.DenseCRF(0, 2),
    "w: 4.0": lambda: densecrf.DenseCRF2D(4.0, 3, 2),
    "nlabels: True": lambda: densecrf.DenseCRF2D(4, 3, True),
    r"u: real numbers \(2, 12\) expected, got \(12, 2\)": lambda: ready().setUnaryEnergy(np.zeros((12, 2))),
    r"u: .* got \(2, 3, 4\)": lambda: ready().setUnaryEnergy(np.zeros((2, 3, 4))),
    "u: .* of complex128": lambda: ready().setUnaryEnergy(np.zeros((2, 12), complex)),
    "u: holds NaN or infinity; clip": lambda: ready().setUnaryEnergy(np.full((2, 12), np.inf)),
    "setUnaryEnergy: no energies yet": lambda: densecrf.DenseCRF(4, 2).inference(1),
    "setUnary: unary objects are not supported": lambda: ready().setUnary(object()),
    "sxy: 0": lambda: ready().addPairwiseGaussian(0, 3),
    r"sxy: \(1, 2, 3\); give a number > 0, or 2": lambda: ready().addPairwiseGaussian((1, 2, 3), 3),
    "sxy: 1e-05 is too small for 4; give at least 0.0004": lambda: ready().addPairwiseGaussian(1e-5, 3),
    "srgb: .* of <U": lambda: ready().addPairwiseBilateral(3, "red", IMAGE, 3),
    "rgbim: .*got .* of float64": lambda: ready().addPairwiseBilateral(3, 3, IMAGE / 2, 3),
    r"rgbim: \(4, 3, 3\), the CRF is for": lambda: ready().addPairwiseBilateral(3, 3, IMAGE.swapaxes(0, 1), 3),
    r"compat: shape \(3,\); give a number, 2": lambda: ready().addPairwiseGaussian(3, [1, 2, 3]),
    "kernel: 7 is unknown; give CONST_KERNEL": lambda: ready().addPairwiseGaussian(3, 3, kernel=7),
    "normalization: -1 is unknown; give one of NO_": lambda: ready().addPairwiseGaussian(3, 3, normalization=-1),
    r"features: real numbers \(d, 12\)": lambda: ready().addPairwiseEnergy(np.zeros((2, 11))),
    "features: 7 dimensions, 1 to 6": lambda: ready().addPairwiseEnergy(np.zeros((7, 12))),
    "features: 1e.06 standard deviations, 10000 at most": lambda: ready().addPairwiseEnergy(np.full((2, 12), 1e6)),
    "niter: -1": lambda: ready().inference(-1),
    "niter: 2.5": lambda: ready().inference(2.5),
    r"Q: .* \(2, 12\) expected, got \(3,\)": lambda: ready().klDivergence(np.zeros(3)),
    "labels: 0 to 3, int64; whole numbers 0 to 2": lambda: densecrf.unary_from_labels(np.array([0, 3]), 3, 0.5, False),
    "labels: 0.0 to 0.0, float64": lambda: densecrf.unary_from_labels(np.zeros(3), 3, 0.5),
    "n_labels, gt_prob: 3, 1": lambda: densecrf.unary_from_labels(np.zeros(3, int), 3, 1),
    "scale: 2": lambda: densecrf.unary_from_softmax(np.ones((2, 3)), scale=2),
    r"sm: shape \(\)": lambda: densecrf.unary_from_softmax(1.0),
    "sdims: 2 numbers for a grid of 3 axes": lambda: densecrf.create_pairwise_gaussian((1, 2), (3, 3, 3)),
    "schan: .* or 3 of them": lambda: densecrf.create_pairwise_bilateral((1, 2), (3, 3), IMAGE, chdim=2),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_line_that_names_it(message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        BAD[message]()
    assert "\n" not in str(caught.value)
