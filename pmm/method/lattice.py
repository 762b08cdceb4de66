"""The dense CRF by numba: Gaussian filtering on permutohedral lattices, and mean-field inference on top of it.

Filtering in d dimensions at a cost that is linear in pixels: Adams, Baek and Davis, "Fast High-Dimensional Filtering
Using the Permutohedral Lattice", Eurographics 2010. Each point lies in one simplex of the lattice; its value is spread
over the d + 1 vertices (splat), the vertices are blurred along the d + 1 lattice directions, and each point reads its
value back (slice).

Mean field: Kraehenbuehl and Koltun, NIPS 2011. With kernels K, the probabilities Q of all labels at all pixels become

    Q = softmax(-unary + sum_K  W_K K Q)

where W_K is one weight for all labels (Potts) or a matrix. With one weight, a softmax being blind to what all labels
have in common, label 0 needs no channel: x_k = unary_0 - unary_k + w K (Q_k - Q_0), and for two labels
Q_1 - Q_0 = tanh(x_1 / 2). So a mask's C binary problems take C channels, and a problem of C + 1 labels as many.

Each iteration is one pass over the pixels (slice the last iteration, squash, splat the next) and one blur.
Channels of a pixel or vertex lie side by side as the lanes of a row, which one instruction of the processor takes.
numba compiles these functions once for each machine. They release the GIL, so plain threads run them side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import literal_unroll, njit, types
from numba.extending import intrinsic, overload
from numpy.typing import ArrayLike

from pmm.errors import InputError
from pmm.method.cam import check_image, in_float32
from pmm.threads import available_threads, run_parallel

STRIPES = 4  # parts that the pixels are cut into, one thread each; sums are the same on any number of threads
LANES = (1, 4, 8, 20)  # lanes that a row may have, 20 for VOC's labels; more channels go in several blocks of rows
MOST_FEATURES = 6  # dimensions of a lattice: so many coordinates a key has room for
LONGEST = 10_000  # standard deviations that a coordinate may be away
_CHUNK = 1 << 14  # values between slice, squash and splat: they stay in the caches
_SHIFT = 21  # bits a coordinate of a packed key, three to a word; pydensecrf's coordinates have 16
_HASH_LOW, _HASH_HIGH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd, well mixed
_AS_IT_IS, _TANH, _SOFTMAX, _SOFTMAX_FROM_ZERO = range(4)  # what a pass makes of the logits
_NO_LABEL = np.float32(-1e30)  # the logit of a lane that no label has


class Lattice(NamedTuple):
    """Where each of N pixels lies between the M vertices, and which vertices are neighbours.

    Examples:
        >>> lattice = build_lattice(np.zeros((3, 2), np.float32), threads=1)  # three points at one place
        >>> lattice.n_vertices, lattice.blur_scale
        (3, 0.8)
    """

    vertices: np.ndarray  # (N, d + 1) uint16, or int32 where there are too many: the vertices of each pixel's simplex
    splat_weights: np.ndarray  # (N, d + 1) float32, its barycentric weights, normalised
    slice_weights: np.ndarray  # the same array, or another where only one of the two is normalised
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


def build_lattice(features: ArrayLike, threads: int, normalization: str = "symmetric") -> Lattice:
    """Place points in a lattice.

    Args:
        features: (N, d) real, coordinates in standard deviations of the kernel, at most `LONGEST`; N >= 1, d <= 6.
        threads: how many may work.
        normalization: with D the row sums of the kernel K, "symmetric" makes it D^-1/2 K D^-1/2, "before" K D^-1,
            "after" D^-1 K; "none" leaves it.

    Raises:
        InputError: `features` is not as described above.

    Examples:
        >>> lattice = build_lattice(np.array([[0, 0], [9, 9]], np.float32), threads=1)
        >>> lattice.vertices.shape, lattice.n_vertices  # far apart, they share no vertex
        ((2, 3), 6)
    """
    features = _check_features(features)
    (n, d), cuts = features.shape, stripes(len(features))
    if n % 4:  # pydensecrf fills its last four points up from the origin, whose vertices carry the blur onward
        features, cuts[-1] = np.concatenate([features, np.zeros((1, d), np.float32)]), (cuts[-1][0], n + 1)
    vertices, weights = np.empty((len(features), d + 1), np.int32), np.empty((len(features), d + 1), np.float32)
    i = np.arange(d)
    # rounded as pydensecrf does: a point on the border of two simplices falls into the same one
    scale = (1 / np.sqrt((i + 1) * (i + 2)) * np.float64(np.float32(np.sqrt(2 / 3) * (d + 1)))).astype(np.float32)
    # each stripe numbers its own vertices; the keys of all are then numbered anew in one table
    parts = run_parallel(threads, lambda s: _locate(features, scale, *s, vertices, weights), cuts)
    capacity = 1 << max(1, (2 * sum(map(len, parts)) + 1).bit_length())  # a power of two: `_find` masks the hash
    table, keys, count = np.full(capacity, -1, np.int32), np.empty((capacity // 2, 2), np.int64), 0
    jobs = []
    for part, stripe in zip(parts, cuts, strict=True):
        numbers = np.empty(len(part), np.int32)
        count = _absorb(table, keys, count, part, numbers)
        jobs.append((vertices, *stripe, numbers))
    run_parallel(threads, lambda job: _renumber(*job), jobs)
    neighbours = np.empty((d + 1, count, 2), np.int32)
    run_parallel(threads, lambda j: _find_neighbours(table, keys[:count], d, j, neighbours[j]), list(range(d + 1)))
    ranges = np.array([(job[-1].min(), job[-1].max() + 1) if len(job[-1]) else (0, 0) for job in jobs])
    vertices, weights = vertices[:n], weights[:n]
    if count <= 1 << 16:  # a pass over the pixels is bound by what it reads
        vertices = vertices.astype(np.uint16)
    lattice = Lattice(vertices, weights, weights, neighbours, ranges)
    if normalization == "none":
        return lattice
    power = np.float32(0.5 if normalization == "symmetric" else 1)
    normalized = _normalized(vertices, weights, neighbours, lattice.blur_scale, power)
    return lattice._replace(
        splat_weights=weights if normalization == "after" else normalized,
        slice_weights=weights if normalization == "before" else normalized,
    )


def _check_features(features: ArrayLike) -> np.ndarray:
    """Return features as what is compiled for them: float32, contiguous, writable."""
    points = np.asarray(features)
    if points.dtype.kind not in "fiu" or points.ndim != 2 or not points.size:
        raise InputError(f"features: real numbers (N, d) of N >= 1 points expected, got {points.shape} {points.dtype}")
    if points.shape[1] > MOST_FEATURES:
        raise InputError(f"features: {points.shape[1]} dimensions, 1 to {MOST_FEATURES} are supported")
    longest = max(points.max(), -float(points.min()))
    if not longest <= LONGEST:  # also refuses NaN
        raise InputError(f"features: {longest:g} standard deviations, {LONGEST} at most; give a wider kernel")
    return np.require(points, np.float32, ["C", "W"])


class Kernel(NamedTuple):
    """A pairwise term: how alike pixels are, and what that means for their labels.

    Examples:
        >>> Kernel(build_lattice(np.zeros((2, 2), np.float32), threads=1), 10.0).weight
        10.0
    """

    lattice: Lattice
    weight: float | np.ndarray  # of equal labels (Potts); or (K, K) float32, what a label gains from another nearby


class MeanField:
    """Mean-field inference by numba under any number of kernels over the same pixels.

    Args:
        kernels: the pairwise terms.

    Raises:
        InputError: of each method, what it is given is not finite, or is not of the kernels' pixels.

    Examples:
        >>> together = Kernel(build_lattice(np.zeros((2, 2), np.float32), threads=1), 10.0)  # two pixels at one place
        >>> MeanField([together]).posterior(np.array([[0, 0], [5, 1]], np.float32), 10).round()  # label 0 is cheaper
        array([[1., 1.],
               [0., 0.]], dtype=float32)
    """

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        self._kernels = tuple(kernels)

    def posterior(self, unary: np.ndarray, iterations: int) -> np.ndarray:
        """(K, N) float32 energies, K >= 1 -> (K, N) float32 posterior after `iterations` >= 0."""
        unary = self._check(unary, "unary", 1)
        if not all(np.ndim(kernel.weight) == 0 for kernel in self._kernels):
            return self._iterate(-unary, iterations, _SOFTMAX)
        if len(unary) == 2:
            others = self.binary_posterior(unary[1:], unary[:1], iterations)
        else:
            others = self._iterate(unary[:1] - unary[1:], iterations, _SOFTMAX_FROM_ZERO)
        return np.concatenate([np.maximum(1 - others.sum(axis=0, keepdims=True), 0), others])

    def binary_posterior(self, foreground: np.ndarray, background: np.ndarray, iterations: int) -> np.ndarray:
        """(C, N) and (C, N) float32 energies of C problems -> (C, N) float32 posterior of the foreground."""
        foreground, background = self._check(foreground, "foreground"), self._check(background, "background")
        if foreground.shape != background.shape:
            raise InputError(f"background: {background.shape} differs from the foreground's {foreground.shape}")
        return self._iterate(background - foreground, iterations, _TANH)

    def message(self, probabilities: np.ndarray) -> np.ndarray:
        """(K, N) float32 Q -> (K, N) float32, sum_K W_K K Q: what each label gains at each pixel."""
        probabilities = self._check(probabilities, "probabilities")
        if not self._kernels:
            return np.zeros_like(probabilities)
        rows = _rows(probabilities, 0)
        tables = self._tables(rows)
        self._pass(rows, tables, _AS_IT_IS, slices=False, last=False)
        self._blur(tables, len(probabilities))
        rows[:] = 0
        self._pass(rows, tables, _AS_IT_IS, slices=True, last=True)
        return _channels(rows, len(probabilities))

    def _check(self, channels: ArrayLike, name: str, least: int = 0) -> np.ndarray:
        """Return (C, N) finite numbers as float32."""
        found = np.asarray(channels)
        n = {len(kernel.lattice.vertices) for kernel in self._kernels} or {*found.shape[1:]}
        if found.dtype.kind not in "fiu" or found.ndim != 2 or n != {found.shape[1] or -1} or len(found) < least:
            raise InputError(f"{name}: real numbers (C, N) of the kernels' N pixels, got {found.shape} {found.dtype}")
        limit = np.sqrt(np.finfo(np.float32).max)
        if found.size and not max(found.max(), -float(found.min())) < limit:  # also refuses NaN
            raise InputError(f"{name}: values reach {found.min():g} and {found.max():g}; give finite, smaller ones")
        return found.astype(np.float32, copy=False)

    def _iterate(self, logits: np.ndarray, iterations: int, squash: int) -> np.ndarray:
        """(C, N) float32 logits of channels -> (C, N) float32, their posterior."""
        rows = _rows(logits, 0 if squash == _TANH else _NO_LABEL)
        if not self._kernels:
            _squash(rows, (0,) * rows.shape[2], squash, True)
            return _channels(rows, len(logits))
        tables = self._tables(rows)
        for step in range(iterations + 1):
            self._pass(rows, tables, squash, slices=step > 0, last=step == iterations)
            if step < iterations:
                self._blur(tables, len(logits))
        return _channels(rows, len(logits))

    def _pass(
        self, rows: np.ndarray, tables: list[tuple[np.ndarray, np.ndarray]], squash: int, *, slices: bool, last: bool
    ) -> None:
        """Go over all pixels once, a thread a stripe."""
        lanes = (0,) * rows.shape[2]

        def stripe(job: tuple[int, tuple[int, int]]) -> None:
            """Go over the pixels of one stripe, which has splats of its own."""
            i, pixels = job
            kernels = tuple(
                (own.vertices, own.slice_weights, own.splat_weights, blurred, splats[i], (0,) * own.vertices.shape[1])
                for (own, _), (blurred, splats) in zip(self._kernels, tables, strict=True)
            )
            _pass(rows, kernels, *pixels, lanes, squash, slices, last)

        run_parallel(available_threads(), stripe, list(enumerate(stripes(rows.shape[1]))))

    def _tables(self, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each kernel the blurred values of its vertices, and the splats of each stripe; all 0."""
        shapes = [(len(rows), kernel.lattice.n_vertices + 1, rows.shape[2]) for kernel in self._kernels]
        return [(np.zeros(shape, np.float32), np.zeros((STRIPES, *shape), np.float32)) for shape in shapes]

    def _blur(self, tables: list[tuple[np.ndarray, np.ndarray]], n_channels: int) -> None:
        """Sum up and blur the splats, and weight them."""

        def blur(job: tuple[int, int]) -> None:
            """Sum up and blur one block of one kernel's splats."""
            k, block = job
            (lattice, weight), (blurred, splats) = self._kernels[k], tables[k]
            scale = np.float32(lattice.blur_scale * (weight if np.ndim(weight) == 0 else 1))
            lanes = (0,) * blurred.shape[2]
            _blur(splats[:, block], lattice.ranges, lattice.neighbours, scale, blurred[block], lanes)

        run_parallel(
            available_threads(), blur, [(k, i) for k, table in enumerate(tables) for i in range(len(table[0]))]
        )
        for (_, weight), (blurred, _) in zip(self._kernels, tables, strict=True):
            if np.ndim(weight):
                blurred[:] = _rows(weight @ _channels(blurred, n_channels), 0)


def bilateral_features(image: np.ndarray, sxy: tuple[float, float], srgb: tuple[float, float, float]) -> np.ndarray:
    """(x, y, r, g, b) of each pixel in standard deviations, (N, 5) float32; of an image (H, W, 3) uint8.

    Raises:
        InputError: no such image, or a standard deviation is not positive.

    Examples:
        >>> bilateral_features(np.full((1, 2, 3), 26, np.uint8), (2, 2), (13, 13, 13))[1]
        array([0.5, 0. , 2. , 2. , 2. ], dtype=float32)
    """
    image = check_image(image)
    features = np.empty((image.shape[0] * image.shape[1], 5), np.float32)
    with np.errstate(over="ignore"):  # build_lattice refuses what is too far away
        np.divide(_positions(*image.shape[:2]), _reach(sxy, "sxy"), out=features[:, :2])
        np.divide(image.reshape(-1, 3), _reach(srgb, "srgb"), out=features[:, 2:])
    return features


@lru_cache(maxsize=8)
def position_lattice(
    height: int, width: int, sx: float, sy: float, threads: int, normalization: str = "symmetric"
) -> Lattice:
    """Build the lattice of the pixels' positions; images of one size share it.

    Raises:
        InputError: a standard deviation is not positive, or too small for the size.

    Examples:
        >>> position_lattice(2, 3, 3.0, 3.0, threads=1).vertices.shape
        (6, 3)
    """
    with np.errstate(over="ignore"):
        points = _positions(height, width) / _reach((sx, sy), "sx, sy")
    return build_lattice(points, threads, normalization)


def _reach(sigmas: Sequence[float], name: str) -> np.ndarray:
    if not all(sigma > 0 for sigma in sigmas):  # also refuses NaN
        raise InputError(f"{name}: {sigmas}; give standard deviations > 0")
    return in_float32(sigmas)


def _positions(height: int, width: int) -> np.ndarray:
    """(x, y) of each pixel, (N, 2) float32."""
    positions = np.empty((height, width, 2), np.float32)
    positions[..., 0], positions[..., 1] = np.arange(width), np.arange(height)[:, None]
    return positions.reshape(-1, 2)


def _rows(channels: np.ndarray, unused: float) -> np.ndarray:
    """(C, N) -> (blocks, N, lanes) float32, lanes without a channel hold `unused`."""
    n = len(channels)  # in as few blocks as eight lanes make, fewest lanes stay empty
    lanes = min((lanes for lanes in LANES if lanes >= min(n, 8)), key=lambda lanes: -n % lanes)
    rows = np.empty((-(-n // lanes), channels.shape[1], lanes), np.float32)
    for k in range(len(rows) * lanes):
        rows[k // lanes, :, k % lanes] = channels[k] if k < len(channels) else unused
    return rows


def _channels(rows: np.ndarray, n: int) -> np.ndarray:
    """(blocks, N, lanes) -> (n, N): what `_rows` was given."""
    return np.ascontiguousarray(rows.transpose(0, 2, 1).reshape(-1, rows.shape[1])[:n])


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
def _normalized(vertices, weights, neighbours, scale, power):
    """Return the weights times (K 1) ^ -power."""
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
    normalized = np.empty_like(weights)
    for p in range(n):
        total = np.float32(0)
        for j in range(corners):
            total += weights[p, j] * values[vertices[p, j]]
        norm = np.float32(1) / (total * scale + np.float32(1e-20)) ** power
        for j in range(corners):
            normalized[p, j] = weights[p, j] * norm
    return normalized


def _combine(out, i, keep, weight, values, j, lanes):
    """Set a row of lanes: out[i] = keep * out[i] + weight * values[j]. Compiled it is `_combine_lanes`."""
    out[i] = keep * out[i] + weight * values[j]


@overload(_combine)
def _compiled_combine(out, i, keep, weight, values, j, lanes):
    return lambda out, i, keep, weight, values, j, lanes: _combine_lanes(out, i, keep, weight, values, j, lanes)


@intrinsic
def _combine_lanes(_context, out, i, keep, weight, values, j, lanes):
    """Say `_combine` as LLVM's vectors, since numba does not vectorise so short a loop: 8 lanes take as long as one."""

    def generate(context, builder, signature, arguments):
        """Write the instructions."""
        vector = ir.VectorType(ir.FloatType(), lanes.count)

        def row(array, index):
            """Point to a row of an array as one vector; both are numbers of arguments."""
            data = context.make_array(signature.args[array])(context, builder, arguments[array]).data
            number = context.cast(builder, arguments[index], signature.args[index], types.intp)
            start = builder.mul(number, ir.Constant(number.type, lanes.count))
            return builder.bitcast(builder.gep(data, [start]), vector.as_pointer())

        def spread(scalar):
            """Fill a vector with a number."""
            one, empty = ir.IntType(32), ir.Constant(vector, ir.Undefined)
            first = builder.insert_element(empty, scalar, ir.Constant(one, 0))
            return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(one, lanes.count), [0] * lanes.count))

        target, source = row(0, 1), row(4, 5)
        kept = builder.fmul(spread(arguments[2]), builder.load(target, align=4), flags=("contract",))
        added = builder.fmul(spread(arguments[3]), builder.load(source, align=4), flags=("contract",))
        builder.store(builder.fadd(kept, added, flags=("contract",)), target, align=4)
        return context.get_dummy_value()

    return types.void(out, i, keep, weight, values, j, lanes), generate


@njit(nogil=True, cache=True, fastmath={"contract"})
def _blur(splats, ranges, neighbours, scale, out, lanes):
    """Sum up the stripes' splats, leaving them zero, and blur along all directions."""
    n, one, half = neighbours.shape[1], np.float32(1), np.float32(0.5)
    a, b = np.zeros((n + 1, len(lanes)), np.float32), np.zeros((n + 1, len(lanes)), np.float32)
    for s in range(len(splats)):
        for v in range(ranges[s, 0], ranges[s, 1]):
            _combine(a, v, one, one, splats[s], v, lanes)
        splats[s, ranges[s, 0] : ranges[s, 1]] = 0
    for direction in range(len(neighbours)):
        for v in range(n):
            left, right = np.uint32(neighbours[direction, v, 0]), np.uint32(neighbours[direction, v, 1])
            _combine(b, v, np.float32(0), one, a, v, lanes)
            _combine(b, v, one, half, a, left, lanes)
            _combine(b, v, one, half, a, right, lanes)
        a, b = b, a
    for v in range(n):
        _combine(out, v, np.float32(0), scale, a, v, lanes)


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
def _tanh_halves(x, lanes, last):
    """Squash logits of binary problems, in place; in the last pass they become probabilities of the foreground."""
    for k in range(len(x)):
        flat = x[k].reshape(-1)
        for i in range(len(flat)):
            flat[i] = _tanh_half(flat[i])
        if last:
            for i in range(len(flat)):
                flat[i] = np.float32(0.5) + np.float32(0.5) * flat[i]


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _softmax(from_zero, x, lanes, last):
    """Softmax over the labels of some pixels, in place; x is (blocks, pixels, lanes).

    With `from_zero` label 0, whose logit is 0, has no lane, and the others' probabilities are lessened by its own,
    but in the last pass.
    """
    ones, lowest = np.ones((1, len(lanes)), np.float32), np.float32(-80)
    zeros = np.full(x.shape[1], np.float32(from_zero), np.float32)  # label 0 of each pixel
    is_high = not from_zero
    for k in range(len(x)):
        flat = x[k].reshape(-1)
        for i in range(len(flat)):
            is_high |= flat[i] > -lowest
    for i in range(x.shape[1] if is_high else 0):  # less each pixel's highest logit; rare, since label 0 has logit 0
        highest = np.float32(0) if from_zero else x[0, i, 0]
        for k in range(len(x)):
            for c in range(len(lanes)):
                highest = max(highest, x[k, i, c])
        zeros[i] = _exp(max(-highest, lowest)) if from_zero else np.float32(0)
        for k in range(len(x)):
            _combine(x[k], i, np.float32(1), -highest, ones, 0, lanes)
    for k in range(len(x)):
        flat = x[k].reshape(-1)
        for i in range(len(flat)):
            flat[i] = _exp(max(flat[i], lowest))
    for i in range(x.shape[1]):
        total = zeros[i]
        for k in range(len(x)):
            for c in range(len(lanes)):
                total += x[k, i, c]
        scale = np.float32(1) / total
        less = np.float32(0) if last else -zeros[i] * scale
        for k in range(len(x)):
            _combine(x[k], i, scale, less, ones, 0, lanes)


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _squash(x, lanes, squash, last):
    if squash == _TANH:
        _tanh_halves(x, lanes, last)
    elif squash != _AS_IT_IS:
        _softmax(squash == _SOFTMAX_FROM_ZERO, x, lanes, last)


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _slice(vertices, weights, start, table, x, corners, lanes):
    """Add the table's values at pixels from `start` on to x. The compiler knows the tuples' lengths and unrolls."""
    for k in range(len(x)):
        for i in range(x.shape[1]):
            for j in range(len(corners)):
                _combine(
                    x[k], i, np.float32(1), weights[start + i, j], table[k], np.uint32(vertices[start + i, j]), lanes
                )


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _splat(vertices, weights, start, table, x, corners, lanes):
    """Add x to the table at the vertices of pixels from `start` on."""
    for k in range(len(x)):
        for i in range(x.shape[1]):
            for j in range(len(corners)):
                _combine(
                    table[k], np.uint32(vertices[start + i, j]), np.float32(1), weights[start + i, j], x[k], i, lanes
                )


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _pass(rows, kernels, first, end, lanes, squash, slices, last):
    """Slice, squash and splat some pixels; in the last pass the result replaces the rows instead.

    Args:
        rows: (blocks, N, lanes) float32.
        kernels: for each kernel vertices, weights to slice and to splat with, (blocks, M + 1, lanes) float32 blurred
            values to read and splats to add to, and a tuple as long as a pixel has vertices.
        first, end: the pixels.
        lanes: a tuple as long as there are lanes. numba knows the lengths of tuples and unrolls loops over them.
        squash: how, one of the constants above.
        slices: whether there are blurred values yet.
    """
    chunk = _CHUNK // max(1, len(rows) * len(lanes)) + 1
    scratch = np.empty(len(rows) * chunk * len(lanes), np.float32)
    for start in range(first, end, chunk):
        size = min(chunk, end - start)
        x = scratch[: len(rows) * size * len(lanes)].reshape((len(rows), size, len(lanes)))
        for k in range(len(rows)):
            x[k] = rows[k, start : start + size]
        if slices:
            for kernel in literal_unroll(kernels):
                _slice(kernel[0], kernel[1], start, kernel[3], x, kernel[5], lanes)
        _squash(x, lanes, squash, last)
        if last:
            for k in range(len(rows)):
                rows[k, start : start + size] = x[k]
        else:
            for kernel in literal_unroll(kernels):
                _splat(kernel[0], kernel[2], start, kernel[4], x, kernel[5], lanes)
