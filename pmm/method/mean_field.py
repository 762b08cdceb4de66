"""Mean-field inference of the dense CRF on permutohedral lattices, for one image and many problems.

Kraehenbuehl and Koltun, NIPS 2011. The position lattice depends on the image's size alone and is shared by all
images of that size; the bilateral lattice is built once an image. Two-label problems need one channel, since
Q(background) = 1 - Q(class): with m = Q(class) - Q(background) = tanh(x / 2), the update is

    x = log p(class) - log p(background) + w_gauss K_gauss m + w_bilateral K_bilateral m

Each iteration is one pass over the pixels (slice the last iteration, squash, splat the next) and one blur.
"""

from __future__ import annotations

from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from pmm.method.lattice import STRIPES, Lattice, build_lattice, stripes
from pmm.threads import available_threads, run_parallel

if TYPE_CHECKING:
    from pmm.method.crf import CRFSettings

LANES = 4
"""Channels that share a pass; more problems go in several blocks."""

_CHUNK = 512  # pixels between slice, squash and splat: they stay in the first-level cache


class LatticeEngine:
    """Mean field by numba on lattices that stay with the image.

    Args:
        image: (H, W, 3) uint8.
        settings: kernels and iterations.
        threads: None takes `available_threads()`.
    """

    def __init__(self, image: np.ndarray, settings: CRFSettings, threads: int | None = None) -> None:
        self._image, self._settings = image, settings
        self._threads = threads or available_threads()

    @cached_property
    def _lattices(self) -> tuple[Lattice, Lattice]:
        s, (height, width) = self._settings, self._image.shape[:2]
        features = np.empty((height * width, 5), np.float32)
        np.divide(_positions(height, width), np.float32(s.bilateral_sxy), out=features[:, :2])
        np.divide(self._image.reshape(-1, 3), np.float32(s.bilateral_srgb), out=features[:, 2:])
        return _gauss_lattice(height, width, s.gauss_sxy, self._threads), build_lattice(features, self._threads)

    def mean_field(self, unary: np.ndarray) -> np.ndarray:
        """(K, N) float32 energies -> (K, N) float32 posterior."""
        blocks = -(-len(unary) // LANES)
        logits = np.full((blocks, unary.shape[1], LANES), -np.inf, np.float32)
        for k, energies in enumerate(unary):
            logits[k // LANES, :, k % LANES] = -energies
        posterior = self._iterate(logits, partial(_softmax_sweep, len(unary)))
        return np.ascontiguousarray(posterior.transpose(0, 2, 1).reshape(blocks * LANES, -1)[: len(unary)])

    def binary_mean_field(self, foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
        """(C, N) and (C, N) float32 energies -> (C, N) float32 posterior of the foreground."""
        posterior = np.empty_like(foreground)
        for first in range(0, len(foreground), LANES):
            front, back = foreground[first : first + LANES].T, background[first : first + LANES].T
            lanes = 1 if front.shape[1] == 1 else LANES
            block = np.zeros((1, len(front), lanes), np.float32)
            np.subtract(back, front, out=block[0, :, : front.shape[1]])
            posterior[first : first + LANES] = self._iterate(block, _tanh_sweep)[0, :, : front.shape[1]].T
        return posterior

    def _iterate(self, logits: np.ndarray, sweep) -> np.ndarray:
        """(B, N, lanes) float32 logits -> posterior of the same shape, in the same memory."""
        blocks, n, lanes = logits.shape
        gauss, bilateral = self._lattices
        s = self._settings
        both = ((gauss, s.gauss_compat), (bilateral, s.bilateral_compat))
        sides = [(lattice, np.float32(weight * lattice.blur_scale)) for lattice, weight in both]
        blurred = [np.zeros((blocks, lattice.n_vertices + 1, lanes), np.float32) for lattice, _ in sides]
        splats = [np.zeros((STRIPES, *values.shape), np.float32) for values in blurred]
        jobs = [(i, first, last) for i, (first, last) in enumerate(stripes(n)) if first < last]

        def pass_over(job: tuple[int, int, int], last: bool) -> None:
            """Run the sweep on one stripe of pixels."""
            i, first, end = job
            tables = (blurred[0], blurred[1], splats[0][i], splats[1][i])
            lattices = (gauss.vertices, gauss.weights, bilateral.vertices, bilateral.weights)
            sweep(logits, lattices, tables, first, end, logits, last)  # a chunk is read before it is written

        def blur(job: tuple[int, int]) -> None:
            """Sum up and blur one lattice's splats of one block."""
            k, block = job
            lattice, scale = sides[k]
            _blur(splats[k][:, block], lattice.ranges, lattice.neighbours, scale, blurred[k][block])

        for step in range(s.iterations + 1):
            last = step == s.iterations
            run_parallel(self._threads, partial(pass_over, last=last), jobs)
            if not last:
                run_parallel(self._threads, blur, [(k, block) for k in (0, 1) for block in range(blocks)])
        return logits


@lru_cache(maxsize=8)
def _gauss_lattice(height: int, width: int, sxy: float, threads: int) -> Lattice:
    return build_lattice(_positions(height, width) / np.float32(sxy), threads)


def _positions(height: int, width: int) -> np.ndarray:
    """(x, y) of each pixel, (N, 2) float32."""
    positions = np.empty((height, width, 2), np.float32)
    positions[..., 0], positions[..., 1] = np.arange(width), np.arange(height)[:, None]
    return positions.reshape(-1, 2)


def _tanh_sweep(logits, lattices, tables, first, end, posterior, last):
    tanh_pass = _tanh_pass_1 if logits.shape[2] == 1 else _tanh_pass_4
    tanh_pass(logits[0], *lattices, *(table[0] for table in tables), first, end, posterior[0], last)


def _softmax_sweep(n_labels, logits, lattices, tables, first, end, posterior, last):
    _softmax_pass(n_labels, logits, *lattices, *tables, first, end, posterior, last)


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _exp(x):
    """e^x for |x| < 87, to 2e-7: 2^k times a polynomial on [-log(2)/2, log(2)/2]. Loops over it vectorise."""
    k = np.rint(x * np.float32(1.4426950408889634))
    r = x - k * np.float32(0.693359375) + k * np.float32(2.12194440e-4)
    p = np.float32(1 / 5040)
    p = p * r + np.float32(1 / 720)
    p = p * r + np.float32(1 / 120)
    p = p * r + np.float32(1 / 24)
    p = p * r + np.float32(1 / 6)
    p = p * r + np.float32(0.5)
    p = p * r + np.float32(1)
    p = p * r + np.float32(1)
    return p * np.int32((np.int32(k) + 127) << 23).view(np.float32)


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _tanh_half(x):
    """tanh(x / 2), the difference of the two labels' probabilities."""
    bounded = min(max(x, np.float32(-30)), np.float32(30))
    return np.float32(1) - np.float32(2) / (_exp(bounded) + np.float32(1))


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _tanh_pass_1(logits, gv, gw, bv, bw, g_in, b_in, g_out, b_out, first, end, posterior, last):
    """One pass for one problem: slice, tanh, splat; in the last pass the posterior instead of the splat."""
    x = np.empty(_CHUNK, np.float32)
    for start in range(first, end, _CHUNK):
        size = min(_CHUNK, end - start)
        for i in range(size):
            p = start + i
            total = logits[p, 0]
            for j in range(3):
                total += gw[p, j] * g_in[np.uint32(gv[p, j]), 0]
            for j in range(6):
                total += bw[p, j] * b_in[np.uint32(bv[p, j]), 0]
            x[i] = total
        for i in range(size):
            x[i] = _tanh_half(x[i])
        if last:
            for i in range(size):
                posterior[start + i, 0] = np.float32(0.5) + np.float32(0.5) * x[i]
        else:
            for i in range(size):
                p = start + i
                m = x[i]
                for j in range(3):
                    g_out[np.uint32(gv[p, j]), 0] += gw[p, j] * m
                for j in range(6):
                    b_out[np.uint32(bv[p, j]), 0] += bw[p, j] * m


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _gather_4(logits, gv, gw, bv, bw, g_in, b_in, start, size, x):
    """Slice four channels of a chunk of pixels onto their logits."""
    for i in range(size):
        p = start + i
        a, b, c, d = logits[p, 0], logits[p, 1], logits[p, 2], logits[p, 3]
        for j in range(3):
            v, w = np.uint32(gv[p, j]), gw[p, j]
            a += w * g_in[v, 0]
            b += w * g_in[v, 1]
            c += w * g_in[v, 2]
            d += w * g_in[v, 3]
        for j in range(6):
            v, w = np.uint32(bv[p, j]), bw[p, j]
            a += w * b_in[v, 0]
            b += w * b_in[v, 1]
            c += w * b_in[v, 2]
            d += w * b_in[v, 3]
        x[i, 0], x[i, 1], x[i, 2], x[i, 3] = a, b, c, d


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _scatter_4(gv, gw, bv, bw, g_out, b_out, start, size, x):
    """Splat four channels of a chunk of pixels."""
    for i in range(size):
        p = start + i
        a, b, c, d = x[i, 0], x[i, 1], x[i, 2], x[i, 3]
        for j in range(3):
            v, w = np.uint32(gv[p, j]), gw[p, j]
            g_out[v, 0] += w * a
            g_out[v, 1] += w * b
            g_out[v, 2] += w * c
            g_out[v, 3] += w * d
        for j in range(6):
            v, w = np.uint32(bv[p, j]), bw[p, j]
            b_out[v, 0] += w * a
            b_out[v, 1] += w * b
            b_out[v, 2] += w * c
            b_out[v, 3] += w * d


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _tanh_pass_4(logits, gv, gw, bv, bw, g_in, b_in, g_out, b_out, first, end, posterior, last):
    """One pass for four problems."""
    x = np.empty((_CHUNK, 4), np.float32)
    flat = x.reshape(-1)
    for start in range(first, end, _CHUNK):
        size = min(_CHUNK, end - start)
        _gather_4(logits, gv, gw, bv, bw, g_in, b_in, start, size, x)
        for i in range(4 * size):
            flat[i] = _tanh_half(flat[i])
        if last:
            for i in range(size):
                for c in range(4):
                    posterior[start + i, c] = np.float32(0.5) + np.float32(0.5) * x[i, c]
        else:
            _scatter_4(gv, gw, bv, bw, g_out, b_out, start, size, x)


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _softmax_pass(n_labels, logits, gv, gw, bv, bw, g_in, b_in, g_out, b_out, first, end, posterior, last):
    """One pass for one problem of many labels, four to a block."""
    blocks = len(logits)
    x = np.empty((blocks, _CHUNK, 4), np.float32)
    for start in range(first, end, _CHUNK):
        size = min(_CHUNK, end - start)
        for k in range(blocks):
            _gather_4(logits[k], gv, gw, bv, bw, g_in[k], b_in[k], start, size, x[k])
        for i in range(size):
            highest = x[0, i, 0]
            for k in range(n_labels):
                highest = max(highest, x[k // 4, i, k % 4])
            total = np.float32(0)
            for k in range(n_labels):
                e = _exp(max(x[k // 4, i, k % 4] - highest, np.float32(-80)))
                x[k // 4, i, k % 4] = e
                total += e
            for k in range(n_labels):
                x[k // 4, i, k % 4] /= total
            for k in range(n_labels, 4 * blocks):
                x[k // 4, i, k % 4] = 0
        for k in range(blocks):
            if last:
                for i in range(size):
                    for c in range(4):
                        posterior[k, start + i, c] = x[k, i, c]
            else:
                _scatter_4(gv, gw, bv, bw, g_out[k], b_out[k], start, size, x[k])


@njit(nogil=True, cache=True, fastmath={"contract"})
def _blur(splats, ranges, neighbours, scale, out):
    """Sum up the stripes' splats, leaving them zero, and blur along all directions."""
    n, lanes = neighbours.shape[1], out.shape[1]
    a, b = np.zeros((n + 1, lanes), np.float32), np.zeros((n + 1, lanes), np.float32)
    for s in range(len(splats)):
        for v in range(ranges[s, 0], ranges[s, 1]):
            for c in range(lanes):
                a[v, c] += splats[s, v, c]
                splats[s, v, c] = 0
    for direction in range(len(neighbours)):
        for v in range(n):
            left, right = np.uint32(neighbours[direction, v, 0]), np.uint32(neighbours[direction, v, 1])
            for c in range(lanes):
                b[v, c] = a[v, c] + np.float32(0.5) * (a[left, c] + a[right, c])
        a, b = b, a
    for v in range(n):
        for c in range(lanes):
            out[v, c] = scale * a[v, c]
