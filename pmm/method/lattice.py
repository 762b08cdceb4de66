"""The dense CRF by numba: Gaussian filtering on permutohedral lattices, and mean-field inference on top of it.

Filtering in d dimensions at a cost that is linear in pixels: Adams, Baek and Davis, "Fast High-Dimensional Filtering
Using the Permutohedral Lattice", Eurographics 2010. Each point lies in one simplex of the lattice; its value is spread
over the d + 1 vertices (splat), the vertices are blurred along the d + 1 lattice directions, and each point reads its
value back (slice).

Mean field for one image and many problems: Kraehenbuehl and Koltun, NIPS 2011. The position lattice depends on the
image's size alone and is shared by all images of that size; the bilateral lattice is built once an image. Two-label
problems need one channel, since Q(background) = 1 - Q(class): with m = Q(class) - Q(background) = tanh(x / 2), the
update is

    x = log p(class) - log p(background) + w_gauss K_gauss m + w_bilateral K_bilateral m

Each iteration is one pass over the pixels (slice the last iteration, squash, splat the next) and one blur.
numba compiles these functions once for each machine. They release the GIL, so plain threads run them side by side.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import njit

from pmm.threads import available_threads, run_parallel

STRIPES = 4  # parts that the pixels are cut into, one thread each; sums are the same on any number of threads
LANES = 4  # channels that share a pass; more problems go in several blocks
_CHUNK = 512  # pixels between slice, squash and splat: they stay in the first-level cache
_THREE, _SIX = (0,) * 3, (0,) * 6  # as long as a pixel has vertices in the two lattices
_SHIFT = 21  # bits a coordinate of a packed key, three to a word; pydensecrf's coordinates have 16
_HASH_LOW, _HASH_HIGH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd, well mixed


class Lattice(NamedTuple):
    """Where each of N pixels lies between the M vertices, and which vertices are neighbours.

    Examples:
        >>> lattice = build_lattice(np.zeros((3, 2), np.float32), threads=1)  # three points at one place
        >>> lattice.n_vertices, lattice.blur_scale
        (3, 0.8)
    """

    vertices: np.ndarray  # (N, d + 1) uint16, or int32 where there are too many: the vertices of each pixel's simplex
    weights: np.ndarray  # (N, d + 1) float32, its barycentric weights times the normalisation D^-1/2
    neighbours: np.ndarray  # (d + 1, M, 2) int32, both neighbours of each vertex along each direction; M: none
    ranges: np.ndarray  # (STRIPES, 2) int64, first and last + 1 of the vertices that each stripe of pixels touches

    @property
    def n_vertices(self) -> int:
        """M, the number of vertices."""
        return self.neighbours.shape[1]

    @property
    def blur_scale(self) -> float:
        """What a blur along all directions must be multiplied by, 1 / (1 + 2^-d)."""
        return 1 / (1 + 2.0 ** (1 - self.vertices.shape[1]))


def stripes(n: int) -> list[tuple[int, int]]:
    """Cut n pixels into `STRIPES` ranges (first, last + 1).

    Examples:
        >>> stripes(10)
        [(0, 2), (2, 5), (5, 7), (7, 10)]
    """
    return list(pairwise(n * i // STRIPES for i in range(STRIPES + 1)))


def build_lattice(features: np.ndarray, threads: int) -> Lattice:
    """Place points in a lattice normalised as D^-1/2 K D^-1/2, D being the row sums of K.

    Args:
        features: (N, d) float32, coordinates in standard deviations of the kernel, d <= 6.
        threads: how many may work.

    Examples:
        >>> lattice = build_lattice(np.array([[0, 0], [9, 9]], np.float32), threads=1)
        >>> lattice.vertices.shape, lattice.n_vertices  # far apart, they share no vertex
        ((2, 3), 6)
    """
    n, d = features.shape
    vertices, weights = np.empty((n, d + 1), np.int32), np.empty((n, d + 1), np.float32)
    i = np.arange(d)
    scale = (np.sqrt(2 / 3) * (d + 1) / np.sqrt((i + 1) * (i + 2))).astype(np.float32)
    # each stripe numbers its own vertices; the keys of all are then numbered anew in one table
    parts = run_parallel(threads, lambda s: _locate(features, scale, *s, vertices, weights), stripes(n))
    capacity = 1 << max(1, (2 * sum(map(len, parts)) + 1).bit_length())  # a power of two: `_find` masks the hash
    table, keys, count = np.full(capacity, -1, np.int32), np.empty((capacity // 2, 2), np.int64), 0
    jobs = []
    for part, stripe in zip(parts, stripes(n), strict=True):
        numbers = np.empty(len(part), np.int32)
        count = _absorb(table, keys, count, part, numbers)
        jobs.append((vertices, *stripe, numbers))
    run_parallel(threads, lambda job: _renumber(*job), jobs)
    neighbours = np.empty((d + 1, count, 2), np.int32)
    run_parallel(threads, lambda j: _find_neighbours(table, keys[:count], d, j, neighbours[j]), list(range(d + 1)))
    ranges = np.array([(job[-1].min(), job[-1].max() + 1) if len(job[-1]) else (0, 0) for job in jobs])
    if count <= 1 << 16:  # a pass over the pixels is bound by what it reads
        vertices = vertices.astype(np.uint16)
    lattice = Lattice(vertices, weights, neighbours, ranges)
    _normalize(vertices, weights, neighbours, lattice.blur_scale)
    return lattice


class LatticeEngine:
    """Mean field by numba on lattices that stay with the image.

    Args:
        image: (H, W, 3) uint8.
        iterations: of the mean field, >= 1.
        reach: standard deviations: of the position kernel in pixels; of the bilateral one in pixels and grey levels.
        weights: of the position kernel and the bilateral one, >= 0.
        threads: how many may work; defaults to `available_threads`.

    Examples:
        >>> engine = LatticeEngine(np.zeros((1, 2, 3), np.uint8), 10, reach=(3, 80, 13), weights=(10, 10))
        >>> engine.mean_field(np.array([[0, 0], [5, 5]], np.float32)).round()  # energies: the first label is cheaper
        array([[1., 1.],
               [0., 0.]], dtype=float32)
    """

    def __init__(
        self,
        image: np.ndarray,
        iterations: int,
        reach: tuple[float, float, float],
        weights: tuple[float, float],
        threads: int | None = None,
    ) -> None:
        self._image, self._iterations, self._reach, self._weights = image, iterations, reach, weights
        self._threads = threads or available_threads()

    @cached_property
    def _lattices(self) -> tuple[Lattice, Lattice]:
        """Build the position lattice and the bilateral one, whose features are (x, y, r, g, b)."""
        (height, width), (gauss_sxy, sxy, srgb) = self._image.shape[:2], self._reach
        features = np.empty((height * width, 5), np.float32)
        np.divide(_positions(height, width), np.float32(sxy), out=features[:, :2])
        np.divide(self._image.reshape(-1, 3), np.float32(srgb), out=features[:, 2:])
        gauss = _gauss_lattice(height, width, gauss_sxy, self._threads)
        return gauss, build_lattice(features, self._threads)

    def mean_field(self, unary: np.ndarray) -> np.ndarray:
        """(K, N) float32 energies -> (K, N) float32 posterior."""
        blocks = -(-len(unary) // LANES)
        logits = np.full((blocks, unary.shape[1], LANES), -np.inf, np.float32)  # (K, N) -> (blocks, N, LANES)
        for k, energies in enumerate(unary):
            logits[k // LANES, :, k % LANES] = -energies
        posterior = self._iterate(logits, len(unary))
        return np.ascontiguousarray(posterior.transpose(0, 2, 1).reshape(blocks * LANES, -1)[: len(unary)])

    def binary_mean_field(self, foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
        """(C, N) and (C, N) float32 energies -> (C, N) float32 posterior of the foreground."""
        posterior = np.empty_like(foreground)
        for first in range(0, len(foreground), LANES):
            front, back = foreground[first : first + LANES].T, background[first : first + LANES].T
            lanes = 1 if front.shape[1] == 1 else LANES
            block = np.zeros((1, len(front), lanes), np.float32)  # unused lanes stay 0: undecided, seen by nobody
            np.subtract(back, front, out=block[0, :, : front.shape[1]])
            posterior[first : first + LANES] = self._iterate(block)[0, :, : front.shape[1]].T
        return posterior

    def _iterate(self, logits: np.ndarray, n_labels: int = 0) -> np.ndarray:
        """(B, N, lanes) float32 logits -> posterior of the same shape, in the same memory; 0 labels: binary."""
        blocks, n, lanes = logits.shape
        gauss, bilateral = self._lattices
        blurred = [np.zeros((blocks, lattice.n_vertices + 1, lanes), np.float32) for lattice in self._lattices]
        splats = [np.zeros((STRIPES, *values.shape), np.float32) for values in blurred]

        def pass_over(job: tuple[int, tuple[int, int]]) -> None:
            """Read the blurred values of one stripe of pixels and splat anew, or write the posterior."""
            i, stripe = job
            tables = (blurred[0], blurred[1], splats[0][i], splats[1][i])
            _pass(logits, *gauss[:2], *bilateral[:2], *tables, *stripe, (0,) * lanes, n_labels, last)

        def blur(job: tuple[int, int]) -> None:
            """Sum up and blur one lattice's splats of one block."""
            k, block = job
            lattice = self._lattices[k]
            scale = np.float32(self._weights[k] * lattice.blur_scale)
            _blur(splats[k][:, block], lattice.ranges, lattice.neighbours, scale, blurred[k][block])

        for step in range(self._iterations + 1):
            last = step == self._iterations
            run_parallel(self._threads, pass_over, list(enumerate(stripes(n))))
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


@njit(nogil=True, cache=True)
def _find(table, keys, low, high):
    """Return the slot of a key in the table; the slot is empty (-1) where the key is new."""
    mask = len(table) - 1
    mixed = np.uint64(low) * _HASH_LOW + np.uint64(high) * _HASH_HIGH
    slot = np.int64(mixed >> np.uint64(32)) & mask
    while table[slot] >= 0 and (keys[table[slot], 0] != low or keys[table[slot], 1] != high):
        slot = (slot + 1) & mask
    return slot


@njit(nogil=True, cache=True)
def _absorb(table, keys, count, new, numbers):
    """Add keys to a table that has room; write each key's number; return how many keys there are."""
    for i in range(len(new)):
        slot = _find(table, keys, new[i, 0], new[i, 1])
        if table[slot] < 0:
            keys[count] = new[i]
            table[slot] = count
            count += 1
        numbers[i] = table[slot]
    return count


@njit(nogil=True, cache=True)
def _renumber(vertices, first, last, numbers):
    for p in range(first, last):
        for j in range(vertices.shape[1]):
            vertices[p, j] = numbers[vertices[p, j]]


@njit(nogil=True, cache=True)
def _pack(coordinates, d, word):
    """Pack d coordinates into two words, so that adding packed steps adds coordinates."""
    word[0] = word[1] = 0
    for i in range(d):
        word[i // 3] += np.int64(coordinates[i]) << (_SHIFT * (i % 3))


@njit(nogil=True, cache=True)
def _steps(d):
    """Packed steps from one vertex to the next, (d + 1, 2): all coordinates one more, one of them d less."""
    steps = np.empty((d + 1, 2), np.int64)
    for i in range(d + 1):
        coordinates = np.ones(d + 1, np.int64)
        coordinates[i] = -d
        _pack(coordinates, d, steps[i])
    return steps


@njit(nogil=True, cache=True)
def _find_neighbours(table, keys, d, direction, out):
    """Look up both neighbours along a direction, a step back and a step on."""
    step = _steps(d)[direction]
    for v in range(len(keys)):
        for side in range(2):
            sign = 2 * side - 1
            found = table[_find(table, keys, keys[v, 0] + sign * step[0], keys[v, 1] + sign * step[1])]
            out[v, side] = found if found >= 0 else len(keys)


@njit(nogil=True, cache=True)
def _elevate(point, scale, elevated):
    """Map a point onto the plane sum(y) = 0 in d + 1 dimensions, y = E x."""
    total = np.float32(0)
    for i in range(len(point), 0, -1):
        scaled = point[i - 1] * scale[i - 1]
        elevated[i] = total - np.float32(i) * scaled
        total += scaled
    elevated[0] = total


@njit(nogil=True, cache=True)
def _enclose(elevated, lower, rank, at_rank):
    """Find the simplex: its vertex of colour 0, and the order of the coordinates' remainders, largest first."""
    d = len(elevated) - 1
    excess = 0
    for i in range(d + 1):
        nearest = np.rint(elevated[i] * np.float32(1 / (d + 1)))
        lower[i] = nearest * np.float32(d + 1)
        excess += np.int64(nearest)
        rank[i] = 0
    for i in range(d):
        for j in range(i + 1, d + 1):
            if elevated[i] - lower[i] < elevated[j] - lower[j]:
                rank[i] += 1
            else:
                rank[j] += 1
    for i in range(d + 1):  # the rounded point may lie off the plane; bring it back
        rank[i] += excess
        if rank[i] < 0:
            rank[i] += d + 1
            lower[i] += np.float32(d + 1)
        elif rank[i] > d:
            rank[i] -= d + 1
            lower[i] -= np.float32(d + 1)
        at_rank[rank[i]] = i


@njit(nogil=True, cache=True)
def _barycentric(elevated, lower, at_rank, weights):
    """Write the weights of the simplex's vertices: differences of the sorted remainders."""
    d = len(elevated) - 1
    unit = np.float32(1 / (d + 1))
    before = elevated[at_rank[d]] - lower[at_rank[d]] + np.float32(d + 1)
    for r in range(d + 1):
        remainder = elevated[at_rank[d - r]] - lower[at_rank[d - r]]
        if r:
            weights[r] = (remainder - before) * unit
        before = remainder
    wrapped = elevated[at_rank[d]] - lower[at_rank[d]] + np.float32(d + 1)
    weights[0] = (wrapped - before) * unit


@njit(nogil=True, cache=True)
def _locate(features, scale, first, last, vertices, weights):
    """Find the simplices of some points; write vertices, numbered as they come, and weights; return the keys."""
    d = features.shape[1]
    table, keys, count = np.full(4096, -1, np.int32), np.empty((2048, 2), np.int64), 0
    elevated, lower = np.empty(d + 1, np.float32), np.empty(d + 1, np.float32)
    rank, at_rank, ranks_before = np.empty(d + 1, np.int32), np.empty(d + 1, np.int32), np.full(d + 1, -1, np.int32)
    word, before, steps = np.zeros(2, np.int64), np.zeros(2, np.int64), _steps(d)
    for p in range(first, last):
        _elevate(features[p], scale, elevated)
        _enclose(elevated, lower, rank, at_rank)
        _barycentric(elevated, lower, at_rank, weights[p])
        _pack(lower, d, word)
        same = word[0] == before[0] and word[1] == before[1]
        for i in range(d + 1):
            same &= rank[i] == ranks_before[i]
        if same:  # as its neighbour to the left
            vertices[p] = vertices[p - 1]
            continue
        before[:], ranks_before[:] = word, rank
        if 2 * (count + d + 1) > len(table):  # double the table
            table, known = np.full(2 * len(table), -1, np.int32), keys[:count]
            keys = np.empty((len(table) // 2, 2), np.int64)
            _absorb(table, keys, 0, known, np.empty(count, np.int32))
        for r in range(d + 1):
            slot = _find(table, keys, word[0], word[1])
            if table[slot] < 0:
                keys[count] = word
                table[slot] = count
                count += 1
            vertices[p, r] = table[slot]
            word += steps[at_rank[d - r]]
    return keys[:count]


@njit(nogil=True, cache=True)
def _normalize(vertices, weights, neighbours, scale):
    """Multiply the weights by 1 / sqrt(K 1), in place."""
    n, corners = vertices.shape
    values, scratch = np.zeros(neighbours.shape[1] + 1, np.float32), np.zeros(neighbours.shape[1] + 1, np.float32)
    for p in range(n):
        for j in range(corners):
            values[vertices[p, j]] += weights[p, j]
    for direction in range(corners):
        for v in range(neighbours.shape[1]):
            around = values[neighbours[direction, v, 0]] + values[neighbours[direction, v, 1]]
            scratch[v] = values[v] + np.float32(0.5) * around
        values, scratch = scratch, values
    for p in range(n):
        total = np.float32(0)
        for j in range(corners):
            total += weights[p, j] * values[vertices[p, j]]
        norm = np.float32(1 / np.sqrt(total * scale + 1e-20))
        for j in range(corners):
            weights[p, j] *= norm


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
def _softmax(x, size, n_labels):
    """Softmax of the labels of some pixels, in place; x is (blocks, pixels, LANES), lanes of no label become 0."""
    for i in range(size):
        highest = x[0, i, 0]
        for k in range(n_labels):
            highest = max(highest, x[k // LANES, i, k % LANES])
        total = np.float32(0)
        for k in range(n_labels):
            e = _exp(max(x[k // LANES, i, k % LANES] - highest, np.float32(-80)))
            x[k // LANES, i, k % LANES] = e
            total += e
        for k in range(n_labels):
            x[k // LANES, i, k % LANES] /= total
        for k in range(n_labels, LANES * len(x)):
            x[k // LANES, i, k % LANES] = 0


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _slice(vertices, weights, table, start, size, corners, lanes, x):
    """Add the table's values at some pixels to x. The compiler knows the lengths of tuples and unrolls the loops."""
    for i in range(size):
        if len(lanes) == 1:
            total = x[i, 0]
            for j in range(len(corners)):
                total += weights[start + i, j] * table[np.uint32(vertices[start + i, j]), 0]
            x[i, 0] = total
        else:  # four sums that stay in registers
            a, b, c, d = x[i, 0], x[i, 1], x[i, 2], x[i, 3]
            for j in range(len(corners)):
                v, w = np.uint32(vertices[start + i, j]), weights[start + i, j]
                a += w * table[v, 0]
                b += w * table[v, 1]
                c += w * table[v, 2]
                d += w * table[v, 3]
            x[i, 0], x[i, 1], x[i, 2], x[i, 3] = a, b, c, d


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _splat(vertices, weights, table, start, size, corners, lanes, x):
    """Add x at some pixels to the table."""
    for i in range(size):
        for j in range(len(corners)):
            v, w = np.uint32(vertices[start + i, j]), weights[start + i, j]
            for c in range(len(lanes)):
                table[v, c] += w * x[i, c]


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _pass(logits, gv, gw, bv, bw, g_in, b_in, g_out, b_out, first, end, lanes, n_labels, last):
    """Slice, squash and splat some pixels; in the last pass the posterior replaces the logits instead.

    Args:
        logits: (blocks, N, lanes) float32: two-label problems in one block, or one problem of n_labels > 0.
        gv, gw, bv, bw: vertices and weights of the position lattice and of the bilateral one.
        g_in, b_in, g_out, b_out: (blocks, M + 1, lanes) float32 blurred values to read, splats to add to.
        first, end: the pixels.
        lanes: a tuple as long as there are lanes.
    """
    x = np.empty((len(logits), _CHUNK, len(lanes)), np.float32)
    for start in range(first, end, _CHUNK):
        size = min(_CHUNK, end - start)
        for k in range(len(x)):
            x[k, :size] = logits[k, start : start + size]
            _slice(gv, gw, g_in[k], start, size, _THREE, lanes, x[k])
            _slice(bv, bw, b_in[k], start, size, _SIX, lanes, x[k])
        if n_labels:
            _softmax(x, size, n_labels)
        else:
            flat = x[0, :size].reshape(-1)
            for i in range(len(flat)):
                flat[i] = _tanh_half(flat[i])
        for k in range(len(x)):
            if not last:
                _splat(gv, gw, g_out[k], start, size, _THREE, lanes, x[k])
                _splat(bv, bw, b_out[k], start, size, _SIX, lanes, x[k])
            elif n_labels:
                logits[k, start : start + size] = x[k, :size]
            else:
                logits[k, start : start + size] = np.float32(0.5) + np.float32(0.5) * x[k, :size]
