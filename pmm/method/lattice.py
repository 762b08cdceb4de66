"""Permutohedral lattice: Gaussian filtering in d dimensions at a cost that is linear in pixels.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010.
Each point lies in one simplex of the lattice; its value is spread over the d + 1 vertices (splat), the vertices
are blurred along the d + 1 lattice directions, and each point reads its value back (slice).

numba compiles these functions once for each machine. They let go of Python's lock, so plain threads run them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit

from pmm.threads import run_parallel

STRIPES = 4
"""Parts that the pixels are cut into, one thread each; sums are the same on any number of threads."""

_SHIFT = 21  # bits a coordinate of a packed key, three to a word; pydensecrf's coordinates have 16
_HASH_LOW, _HASH_HIGH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd, well mixed


@dataclass(frozen=True)
class Lattice:
    """Where each pixel lies between the vertices, and which vertices are neighbours.

    Attributes:
        vertices: (N, d + 1) uint16, or int32 where there are too many for it: the vertices of each pixel's simplex.
        weights: (N, d + 1) float32, its barycentric weights times the normalisation D^-1/2.
        neighbours: (d + 1, M, 2) int32, both neighbours of each vertex along each direction; M stands for none.
        ranges: (STRIPES, 2) int64, first and last + 1 of the vertices that each stripe of pixels touches.
    """

    vertices: np.ndarray
    weights: np.ndarray
    neighbours: np.ndarray
    ranges: np.ndarray

    @property
    def n_vertices(self) -> int:
        """M, the number of vertices."""
        return self.neighbours.shape[1]

    @property
    def blur_scale(self) -> float:
        """What a blur along all directions must be multiplied by, 1 / (1 + 2^-d)."""
        return 1 / (1 + 2.0 ** (1 - self.vertices.shape[1]))


def stripes(n: int) -> list[tuple[int, int]]:
    """Cut n pixels into `STRIPES` ranges (first, last + 1)."""
    edges = [n * i // STRIPES for i in range(STRIPES + 1)]
    return list(pairwise(edges))


def build_lattice(features: np.ndarray, threads: int) -> Lattice:
    """Place points in a lattice normalised as D^-1/2 K D^-1/2, D being the row sums of K.

    Args:
        features: (N, d) float32, coordinates in standard deviations of the kernel, d <= 6.
        threads: how many may work.

    Returns:
        The lattice.
    """
    n, d = features.shape
    vertices, weights = np.empty((n, d + 1), np.int32), np.empty((n, d + 1), np.float32)
    i = np.arange(d)
    scale = (np.sqrt(2 / 3) * (d + 1) / np.sqrt((i + 1) * (i + 2))).astype(np.float32)
    parts = run_parallel(threads, lambda s: _locate(features, scale, *s, vertices, weights), stripes(n))
    capacity = 2
    while capacity < 2 * sum(len(part) for part in parts) + 2:
        capacity *= 2
    table, keys = np.full(capacity, -1, np.int32), np.empty((capacity // 2, 2), np.int64)
    count, renumbered = 0, []
    for part in parts:
        numbers = np.empty(len(part), np.int32)
        count = _absorb(table, keys, count, part, numbers)
        renumbered.append(numbers)
    jobs = [(vertices, *stripe, numbers) for stripe, numbers in zip(stripes(n), renumbered, strict=True)]
    run_parallel(threads, lambda job: _renumber(*job), jobs)
    neighbours = np.empty((d + 1, count, 2), np.int32)
    run_parallel(threads, lambda j: _find_neighbours(table, keys[:count], d, j, neighbours[j]), list(range(d + 1)))
    ranges = np.array([(n.min(), n.max() + 1) if len(n) else (0, 0) for n in renumbered])
    if count <= 1 << 16:  # a pass over the pixels is bound by what it reads
        vertices = vertices.astype(np.uint16)
    lattice = Lattice(vertices, weights, neighbours, ranges)
    _normalize(vertices, weights, neighbours, lattice.blur_scale)
    return lattice


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
def _grow(table, keys, count):
    """Double a hash table."""
    larger, room = np.full(2 * len(table), -1, np.int32), np.empty((2 * len(keys), 2), np.int64)
    for i in range(count):
        room[i] = keys[i]
        larger[_find(larger, keys, keys[i, 0], keys[i, 1])] = i
    return larger, room


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
def _find_neighbours(table, keys, d, direction, out):
    """Look up both neighbours along a direction: all coordinates one less, one of them d more, and the reverse."""
    step = np.zeros(2, np.int64)
    for i in range(d):
        step[i // 3] += np.int64(d if i == direction else -1) << (_SHIFT * (i % 3))
    for v in range(len(keys)):
        for side in range(2):
            sign = 1 - 2 * side
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
def _pack(coordinates, d, word):
    """Pack d coordinates into two words, so that adding packed steps adds coordinates."""
    word[0] = word[1] = 0
    for i in range(d):
        word[i // 3] += np.int64(coordinates[i]) << (_SHIFT * (i % 3))


@njit(nogil=True, cache=True)
def _locate(features, scale, first, last, vertices, weights):
    """Find the simplices of some points; write vertices, numbered as they come, and weights; return the keys."""
    d = features.shape[1]
    table, keys, count = np.full(4096, -1, np.int32), np.empty((2048, 2), np.int64), 0
    elevated, lower = np.empty(d + 1, np.float32), np.empty(d + 1, np.float32)
    rank, at_rank, ranks_before = np.empty(d + 1, np.int32), np.empty(d + 1, np.int32), np.full(d + 1, -1, np.int32)
    word, before, step = np.zeros(2, np.int64), np.zeros(2, np.int64), np.zeros((d + 1, 2), np.int64)
    for i in range(d + 1):  # from one vertex to the next: all coordinates one more, one of them d less
        coordinates = np.ones(d + 1, np.int64)
        coordinates[i] = -d
        _pack(coordinates, d, step[i])
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
        if 2 * (count + d + 1) > len(table):
            table, keys = _grow(table, keys, count)
        for r in range(d + 1):
            slot = _find(table, keys, word[0], word[1])
            if table[slot] < 0:
                keys[count] = word
                table[slot] = count
                count += 1
            vertices[p, r] = table[slot]
            word += step[at_rank[d - r]]
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
