"""The permutohedral lattice against a slow one with dictionaries, and the lattice CRF against pydensecrf."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmm.method.crf import JOINT_CRF, PPMG_CRF, SEGMENTATION_CRF, DenseCRF, unary
from pmm.method.lattice import STRIPES, _exp, _tanh_half, build_lattice, stripes
from pmm.threads import limit_threads


def smooth_maps(rng, n, height, width):
    """Blobs in [0, 1], as CAMs are."""
    y, x = np.mgrid[:height, :width]
    centres = rng.random((n, 2)) * (height, width)
    reach = 0.05 * (height + width) ** 2 + 1
    return np.stack([np.exp(-((y - a) ** 2 + (x - b) ** 2) / reach) for a, b in centres]).astype(np.float32)


def photograph(rng, height, width):
    """Smooth colours with an edge and a little noise."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([90 + 60 * np.sin(x / 9), 120 + 50 * np.cos(y / 7), 60 + 120 * (x > y)], axis=2)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def filtered(lattice, values):
    """Splat, blur, slice, in numpy."""
    table = np.zeros(lattice.n_vertices + 1, np.float64)
    np.add.at(table, lattice.vertices, lattice.splat_weights * values[:, None])
    for neighbours in lattice.neighbours:
        table[:-1] = table[:-1] + 0.5 * table[neighbours].sum(1)
    return lattice.blur_scale * (lattice.slice_weights * table[lattice.vertices]).sum(1)


@pytest.mark.parametrize("d", [2, 5])
@pytest.mark.parametrize("reach", [0.3, 2.0, 40.0])
def test_filtering_agrees_with_the_slow_lattice(d, reach):
    rng = np.random.default_rng(d)
    features = (rng.random((60, d)) * reach - reach / 3).astype(np.float32)
    values = rng.random(60)
    lattice = build_lattice(features, threads=1)
    np.testing.assert_allclose(filtered(lattice, values), oracles.lattice_filter(features, values), atol=2e-4)
    assert lattice.vertices.max() + 1 == lattice.n_vertices


@pytest.mark.parametrize(("d", "n", "dtype"), [(2, 3000, np.uint16), (5, 3000, np.uint16), (5, 12000, np.int32)])
def test_the_table_of_vertices_grows(d, n, dtype):
    rng = np.random.default_rng(0)
    features = (rng.random((n, d)) * 500).astype(np.float32)  # nearly every point in a simplex of its own
    lattice = build_lattice(features, threads=1)
    assert lattice.n_vertices > 2.5 * n and lattice.vertices.dtype == dtype
    assert len(np.unique(lattice.vertices)) == lattice.n_vertices
    assert lattice.neighbours.min() >= 0 and lattice.neighbours.max() == lattice.n_vertices


def test_neighbours_are_mutual():
    lattice = build_lattice(np.random.default_rng(1).random((400, 5)).astype(np.float32) * 4, threads=1)
    for direction in lattice.neighbours:
        there = np.flatnonzero(direction[:, 0] < lattice.n_vertices)
        assert np.array_equal(direction[direction[there, 0], 1], there)


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 101])
def test_stripes_cover_every_pixel_once(n):
    assert [i for first, last in stripes(n) for i in range(first, last)] == list(range(n))
    assert len(stripes(n)) == STRIPES


IMAGES = {
    "photograph": lambda rng: photograph(rng, 61, 47),
    "noise": lambda rng: rng.integers(0, 256, (40, 52, 3), dtype=np.uint8),
    "one colour": lambda rng: np.full((33, 30, 3), 77, np.uint8),
    "one pixel": lambda rng: np.full((1, 1, 3), 200, np.uint8),
    "one row": lambda rng: photograph(rng, 1, 57),
    "one column": lambda rng: photograph(rng, 57, 1),
}


def pydensecrf_posterior(image, settings, probabilities):
    """What pydensecrf makes of the same problem, (K,H,W)."""
    densecrf = pytest.importorskip(
        "pydensecrf.densecrf", reason="pydensecrf2 is not installed; it needs a C++ compiler"
    )
    crf = densecrf.DenseCRF2D(image.shape[1], image.shape[0], len(probabilities))
    crf.setUnaryEnergy(unary(probabilities))
    crf.addPairwiseGaussian(sxy=settings.gauss_sxy, compat=settings.gauss_compat)
    reach = {"sxy": settings.bilateral_sxy, "srgb": settings.bilateral_srgb}
    crf.addPairwiseBilateral(**reach, rgbim=image, compat=settings.bilateral_compat)
    return np.array(crf.inference(settings.iterations)).reshape(probabilities.shape)


@pytest.mark.parametrize("crf", [PPMG_CRF, JOINT_CRF, SEGMENTATION_CRF], ids=["ppmg", "joint", "segmentation"])
@pytest.mark.parametrize("kind", IMAGES)
def test_binary_problems_agree_with_pydensecrf(kind, crf):
    rng = np.random.default_rng(0)
    image = IMAGES[kind](rng)
    front = smooth_maps(rng, 9, *image.shape[:2])
    front[5] = 0  # a CAM without any activation
    back = 1 - front.max(0)
    expected = [pydensecrf_posterior(image, crf, np.stack([back, channel]))[1] for channel in front]
    for n in (1, 3, 4, 6, 9):
        found = DenseCRF(image, crf).foreground_posterior(front[:n], back[None].repeat(n, 0))
        np.testing.assert_allclose(found, expected[:n], rtol=0, atol=2e-4)


@pytest.mark.parametrize("n_labels", [2, 3, 4, 5, 6, 9, 21])
@pytest.mark.parametrize("kind", IMAGES)
def test_many_labels_agree_with_pydensecrf(kind, n_labels):
    rng = np.random.default_rng(1)
    image = IMAGES[kind](rng)
    maps = smooth_maps(rng, n_labels, *image.shape[:2])
    found = DenseCRF(image, JOINT_CRF).posterior(maps)
    np.testing.assert_allclose(found, pydensecrf_posterior(image, JOINT_CRF, maps), rtol=0, atol=2e-4)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


def problem(seed=0, classes=3):
    rng = np.random.default_rng(seed)
    front = smooth_maps(rng, classes, 50, 64)
    return photograph(rng, 50, 64), front, 1 - front


def test_any_number_of_threads_gives_the_same_bits():
    image, front, back = problem()
    found = []
    for threads in (1, 3):
        with limit_threads(threads):
            crf = DenseCRF(image)
            found.append([crf.foreground_posterior(front, back), crf.posterior(front)])
    assert all(map(np.array_equal, *found))


def test_a_problem_does_not_depend_on_its_neighbours_in_a_block():
    image, front, back = problem(classes=18)
    crf = DenseCRF(image)
    for classes in (3, 9, 18):  # rows of four lanes, of eight, of twenty
        together = crf.foreground_posterior(front[:classes], back[:classes])
        for c in range(classes):
            alone = crf.foreground_posterior(front[c : c + 1], back[c : c + 1])[0]
            np.testing.assert_allclose(together[c], alone, rtol=0, atol=1e-5)


def test_images_are_solved_side_by_side_in_threads():
    problems = [problem(seed) for seed in range(4)]

    def solve(p):
        return DenseCRF(p[0]).foreground_posterior(*p[1:])

    expected = [solve(p) for p in problems]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert all(map(np.array_equal, pool.map(solve, problems), expected))


@settings(max_examples=200)
@given(st.floats(-200, 200, width=32))
def test_the_squashing_functions_are_exact_to_single_precision(x):
    assert float(_tanh_half(np.float32(x))) == pytest.approx(np.tanh(x / 2), abs=3e-7)
    if abs(x) < 80:
        assert float(_exp(np.float32(x))) == pytest.approx(np.exp(np.float64(x)), rel=2e-6)


@pytest.mark.slow
def test_after_the_installations_warm_up_nothing_is_left_to_compile(tmp_path):
    problem = """
import numpy as np
from pmm.method.crf import JOINT_CRF, DenseCRF
image = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
for classes in (1, 2, 3, 4, 7, 10):
    maps = np.random.default_rng(classes).random((classes, 40, 60), dtype=np.float32)
    DenseCRF(image).foreground_posterior(maps, 1 - maps)
    DenseCRF(image, JOINT_CRF).posterior(np.concatenate([1 - maps, maps]))
"""
    kept = []
    for program in ("from pmm.method.crf import compile_lattice; compile_lattice()", problem):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        subprocess.run([sys.executable, "-c", program], check=True, env=environment)
        kept.append({path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")})
    assert kept[0] and kept[0] == kept[1]
