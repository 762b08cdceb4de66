"""Dense CRF: against a brute-force mean field, reuse of one object, and bad input."""

import subprocess
import sys

import numpy as np
import oracles
import pytest

from pmm.errors import InputError
from pmm.method.crf import JOINT_CRF, PPMG_CRF, SEGMENTATION_CRF, CRFSettings, DenseCRF

SHARP = CRFSettings(gauss_sxy=1, gauss_compat=1, bilateral_sxy=4, bilateral_srgb=30, bilateral_compat=2)
NO_KERNELS = CRFSettings(gauss_compat=0, bilateral_compat=0)


def two_halves(seed, height=4, width=5):
    """A dark left and a bright right part, and noisy probabilities that lean towards them."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 20, (height, width, 3), dtype=np.uint8)
    image[:, 2:] += 200
    scores = rng.random((2, height, width))
    scores[0, :, :2] += 0.5
    scores[1, :, 2:] += 0.5
    return image, (scores / 1.5).astype(np.float32)


def random_problem(shape, n_labels=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*shape, 3), dtype=np.uint8), rng.random((n_labels, *shape), dtype=np.float32)


@pytest.mark.parametrize("settings", [PPMG_CRF, SHARP], ids=["ppmg", "sharp"])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_brute_force(settings, seed):
    """The permutohedral lattice approximates the Gaussian filter; on 20 pixels it came within 0.051.

    Held here: posterior within 0.1, and the same label wherever the exact posterior is clear by 0.1.
    """
    image, probabilities = two_halves(seed)
    exact = oracles.dense_crf(image, probabilities, settings)
    fast = DenseCRF(image, settings).posterior(probabilities)
    np.testing.assert_allclose(fast, exact, rtol=0, atol=0.1)
    clear = np.abs(exact[0] - exact[1]) > 0.1
    assert clear.sum() >= 15
    assert np.array_equal(fast.argmax(axis=0)[clear], exact.argmax(axis=0)[clear])


def test_colour_edges_stop_the_smoothing():
    image, probabilities = two_halves(0, 8, 8)
    weak = np.full_like(probabilities, 0.5)
    weak[:, 0, 0], weak[:, 0, 7] = (0.9, 0.1), (0.1, 0.9)  # one hint on each side
    labels = DenseCRF(image, SHARP).posterior(weak).argmax(axis=0)
    assert not labels[:, :2].any() and labels[:, 2:].all()


@pytest.mark.parametrize("n_labels", [2, 3, 21])
def test_without_kernels_the_posterior_is_the_input(n_labels):
    image, probabilities = random_problem((5, 6), n_labels)
    expected = np.clip(probabilities, 1e-5, 1)
    posterior = DenseCRF(image, NO_KERNELS).posterior(probabilities)
    assert posterior.dtype == np.float32
    np.testing.assert_allclose(posterior, expected / expected.sum(axis=0), atol=1e-6)


def test_probability_zero_is_clipped_like_unary_from_softmax():
    from pydensecrf.utils import unary_from_softmax

    from pmm.method.crf import unary

    _, probabilities = random_problem((5, 6))
    probabilities[0, 0, :3] = 0, 1e-7, 1
    assert np.array_equal(unary(probabilities), unary_from_softmax(probabilities))


def test_reuse_gives_the_same_bits_as_a_fresh_object():
    image, _ = random_problem((20, 15))
    crf = DenseCRF(image)
    problems = [random_problem((20, 15), k, seed)[1] for seed, k in enumerate((2, 2, 4, 2, 4))]
    for probabilities in problems + problems:
        assert np.array_equal(crf.posterior(probabilities), DenseCRF(image).posterior(probabilities))


def test_foreground_posterior_solves_each_class_alone():
    image, foreground = random_problem((12, 9), 3)
    background = (1 - foreground) ** 4
    together = DenseCRF(image).foreground_posterior(foreground, background)
    assert together.dtype == np.float32 and together.min() >= 0 and together.max() <= 1
    for c in range(3):
        alone = DenseCRF(image).posterior(np.stack([background[c], foreground[c]]))[1]
        np.testing.assert_allclose(together[c], alone, rtol=0, atol=1e-5)  # one channel against two labels
    order = [2, 0, 1]
    shuffled = DenseCRF(image).foreground_posterior(foreground[order], background[order])
    assert np.array_equal(shuffled, together[order])


def test_permuted_labels_permute_the_posterior():
    image, probabilities = random_problem((12, 9), 4)
    order = [2, 0, 3, 1]
    crf = DenseCRF(image)
    np.testing.assert_allclose(
        crf.posterior(probabilities[order]), crf.posterior(probabilities)[order], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_tiny_images(shape):
    image, probabilities = random_problem(shape, 3)
    posterior = DenseCRF(image).posterior(probabilities)
    np.testing.assert_allclose(posterior.sum(axis=0), 1, atol=1e-5)


def test_no_class_needs_no_inference():
    image, _ = random_problem((3, 4))
    empty = np.zeros((0, 3, 4), np.float32)
    assert DenseCRF(image).foreground_posterior(empty, empty).shape == (0, 3, 4)


def test_image_is_copied_and_may_be_a_view():
    image, probabilities = random_problem((10, 8))
    flipped = image[:, ::-1]
    expected = DenseCRF(np.ascontiguousarray(flipped)).posterior(probabilities)
    crf = DenseCRF(flipped)
    image[:] = 0  # before the lattices are built
    assert np.array_equal(crf.posterior(probabilities), expected)


def test_inputs_stay_as_they_were():
    image, probabilities = random_problem((10, 8))
    before = image.copy(), probabilities.copy()
    DenseCRF(image).posterior(probabilities)
    assert np.array_equal(image, before[0]) and np.array_equal(probabilities, before[1])


def test_settings_of_the_released_code():
    assert CRFSettings(10, 3, 10, 80, 13, 10) == PPMG_CRF
    assert CRFSettings(10, 3, 3, 80, 13, 10) == JOINT_CRF
    assert CRFSettings(10, 1, 3, 67, 3, 4) == SEGMENTATION_CRF


@pytest.mark.parametrize(
    "name, value",
    [
        ("iterations", 0),
        ("iterations", 2.5),
        ("iterations", True),
        ("gauss_sxy", 0),
        ("bilateral_sxy", -1),
        ("bilateral_srgb", 0.0),
        ("gauss_compat", -1),
        ("bilateral_compat", float("nan")),
        ("gauss_sxy", float("inf")),
        ("gauss_sxy", "3"),
    ],
)
def test_settings_refuse(name, value):
    with pytest.raises(InputError, match=rf"^{name}: "):
        CRFSettings(**{name: value})


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 5)), np.zeros((4, 5, 3)), np.zeros((4, 5, 4), np.uint8), np.zeros((0, 5, 3), np.uint8)],
)
def test_refuses_other_images(image):
    with pytest.raises(InputError, match=r"^image: "):
        DenseCRF(image)


def test_takes_an_image_that_is_not_contiguous():
    image, probabilities = random_problem((10, 8))
    view = np.repeat(image, 2, axis=1)[:, ::2]
    assert np.array_equal(DenseCRF(view).posterior(probabilities), DenseCRF(image).posterior(probabilities))


def test_refuses_other_settings_and_sigmas_beyond_the_lattice():
    image, _ = random_problem((4, 5))
    with pytest.raises(InputError, match=r"^settings: .*dict"):
        DenseCRF(image, {"iterations": 10})
    with pytest.raises(InputError, match=r"^bilateral_srgb: 0.01 is too small"):
        DenseCRF(image, CRFSettings(bilateral_srgb=0.01))


@pytest.mark.parametrize(
    "probabilities, found",
    [
        (np.zeros((2, 5, 4)), r"\(2, 5, 4\)"),
        (np.zeros((4, 5)), r"\(4, 5\)"),
        (np.full((2, 4, 5), np.nan), "NaN"),
        (np.full((2, 4, 5), 1.5), "1.5"),
        (np.full((2, 4, 5), -0.5), "-0.5"),
        (np.ones((1, 4, 5)), r"1 label\(s\)"),
        (np.ones((2, 4, 5), bool), "bool"),
    ],
)
def test_refuses_other_probabilities(probabilities, found):
    with pytest.raises(InputError, match=rf"^probabilities: .*{found}"):
        DenseCRF(np.zeros((4, 5, 3), np.uint8)).posterior(probabilities)


def test_foreground_posterior_names_the_bad_argument():
    crf, good = DenseCRF(np.zeros((4, 5, 3), np.uint8)), np.full((2, 4, 5), 0.5)
    with pytest.raises(InputError, match=r"^foreground: "):
        crf.foreground_posterior(good * np.nan, good)
    with pytest.raises(InputError, match=r"^background: "):
        crf.foreground_posterior(good, good * 3)
    with pytest.raises(InputError, match=r"^background: 1 channels"):
        crf.foreground_posterior(good, good[:1])


def test_importing_the_module_needs_neither_pydensecrf_nor_torch():
    code = "import sys, pmm.method.pseudo_mask; print('torch' in sys.modules, 'pydensecrf' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]
