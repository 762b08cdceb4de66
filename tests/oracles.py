"""Slow and plain versions of the numerical core, written from the equations, one number at a time."""

import math

import numpy as np
import torch

IGNORE_INDEX = 255


def normalize_cam(cam):
    """Eq. 1."""
    out = np.zeros(np.shape(cam))
    for c, channel in enumerate(cam):
        flat = [float(x) for row in channel for x in row]
        low, high = min(flat), max(flat)
        for y, row in enumerate(channel):
            for x, value in enumerate(row):
                out[c, y, x] = (float(value) - low) / (high - low) if high > low else 0.0
    return out


def coefficient_of_variation(cam, t):
    """Eq. 5; the threshold is compared in the maps' own precision."""
    t = float(np.float32(t))
    out = []
    for channel in cam:
        foreground = [float(x) for row in channel for x in row if float(x) > t]
        if not foreground:
            out.append(0.0)
            continue
        mean = math.fsum(foreground) / len(foreground)
        variance = math.fsum((x - mean) ** 2 for x in foreground) / len(foreground)
        out.append(math.sqrt(variance) / mean)
    return out


def smooth_cam(cam, s, t, variant):
    """Eq. 6, without the floor of the exponent."""
    t32 = float(np.float32(t))
    out = np.zeros(np.shape(cam))
    for c, c_v in enumerate(coefficient_of_variation(cam, t)):
        for y, row in enumerate(cam[c]):
            for x, value in enumerate(row):
                value = float(value)
                if variant == "official" and value < t32:
                    value = 0.0
                out[c, y, x] = value ** (1 - s * c_v)
    return out


def background_score(cam, alpha):
    """Eq. 2."""
    _, height, width = np.shape(cam)
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            out[y, x] = (1 - max(float(channel[y, x]) for channel in cam)) ** alpha
    return out


def threshold_pseudo_mask(cam, class_ids, threshold):
    """Strongest class where it exceeds the threshold, the first one of equals."""
    _, height, width = np.shape(cam)
    mask = np.zeros((height, width), dtype=int)
    for y in range(height):
        for x in range(width):
            best = float(np.float32(threshold))
            for class_id, channel in zip(class_ids, cam, strict=True):
                if float(channel[y, x]) > best:
                    best, mask[y, x] = float(channel[y, x]), class_id
    return mask


def proportion(cam, mask, variant):
    """Eq. 8."""
    out = np.zeros(np.shape(cam))
    _, height, width = np.shape(cam)
    for c in range(len(cam)):
        inside = [float(cam[c, y, x]) for y in range(height) for x in range(width) if mask[c, y, x]]
        total = math.fsum(inside) + (1 if variant == "official" else 0)
        for y in range(height):
            for x in range(width):
                out[c, y, x] = float(cam[c, y, x]) / total if total else 0.0
    return out


def ppmg_from_binary_masks(cam, mask, class_ids, variant):
    """The end of Algorithm 1: Y = argmax(X(m) * P), background where nothing is above 0."""
    share = proportion(cam, mask, variant)
    _, height, width = np.shape(cam)
    out = np.zeros((height, width), dtype=int)
    for y in range(height):
        for x in range(width):
            best = 0.0
            for c, class_id in enumerate(class_ids):
                score = share[c, y, x] if mask[c, y, x] else 0.0
                if score > best:
                    best, out[y, x] = score, class_id
    return out


def dense_crf(image, probabilities, settings):
    """Mean field over every pair of pixels; (K, H, W) posterior. Kernels exact, symmetrically normalised.

    Q_i(l) ~ p_i(l) * exp(sum over both kernels m of w_m * sum_j k_m(i, j) * Q_j(l)), the Potts model.
    """
    n_labels, height, width = probabilities.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    gauss, bilateral = np.zeros((len(pixels),) * 2), np.zeros((len(pixels),) * 2)
    for i, (y1, x1) in enumerate(pixels):
        for j, (y2, x2) in enumerate(pixels):
            place = (y1 - y2) ** 2 + (x1 - x2) ** 2
            colour = sum((int(a) - int(b)) ** 2 for a, b in zip(image[y1, x1], image[y2, x2], strict=True))
            gauss[i, j] = math.exp(-place / (2 * settings.gauss_sxy**2))
            bilateral[i, j] = math.exp(
                -place / (2 * settings.bilateral_sxy**2) - colour / (2 * settings.bilateral_srgb**2)
            )
    for kernel in (gauss, bilateral):
        scale = 1 / np.sqrt(kernel.sum(axis=1))
        kernel *= scale[:, None] * scale[None, :]
    log_p = np.log(np.clip(probabilities, 1e-5, 1)).reshape(n_labels, -1).astype(float)
    q = _softmax(log_p)
    for _ in range(settings.iterations):
        message = settings.gauss_compat * q @ gauss + settings.bilateral_compat * q @ bilateral
        q = _softmax(log_p + message)
    return q.reshape(probabilities.shape)


def _softmax(scores):
    weights = np.exp(scores - scores.max(axis=0))
    return weights / weights.sum(axis=0)


def cross_entropy_map(logits, target):
    """-log softmax of the true class; 0 where ignored."""
    out = np.zeros(target.shape)
    for n, y, x in np.ndindex(target.shape):
        if target[n, y, x] != IGNORE_INDEX:
            scores = [float(z) for z in logits[n, :, y, x]]
            out[n, y, x] = math.log(sum(math.exp(z) for z in scores)) - scores[target[n, y, x]]
    return out


def one_vs_all_bce_map(logits, target):
    """Mean over the classes of -log sigmoid(z) (the true class) and -log(1 - sigmoid(z)) (the others)."""
    out = np.zeros(target.shape)
    for n, y, x in np.ndindex(target.shape):
        if target[n, y, x] != IGNORE_INDEX:
            terms = []
            for k, z in enumerate(logits[n, :, y, x]):
                p = 1 / (1 + math.exp(-float(z)))
                terms.append(-math.log(p if k == target[n, y, x] else 1 - p))
            out[n, y, x] = sum(terms) / len(terms)
    return out


def pus(loss, kind, kappa, variant):
    """Eq. 11-13 for one pixel."""
    if kind == "clamp":
        return kappa if loss >= kappa else loss
    if kind == "pow":
        return (loss + 1e-9) ** kappa if variant == "official" else loss**kappa
    if kind == "ignore":
        return loss if loss < kappa else 0.0
    return loss


def pretended_underfitting_loss(loss_map, target, kind, beta, kappa, variant):
    """Eq. 10; the official variant takes the ignored pixels, whose loss is 0, along."""
    counted = [i for i in np.ndindex(target.shape) if variant == "official" or target[i] != IGNORE_INDEX]
    losses = [float(loss_map[i]) for i in counted]
    mean = sum(losses) / len(losses)
    if kind == "none" or mean >= beta:
        return mean
    return sum(pus(loss, kind, kappa, variant) for loss in losses) / len(losses)


def iou_per_class(target, prediction, n_classes):
    """TP / (TP + FP + FN) pixel by pixel; a predicted 255 is nobody's false positive."""
    out = []
    for k in range(n_classes):
        hit = union = 0
        for truth, answer in zip(np.ravel(target), np.ravel(prediction), strict=True):
            if truth != IGNORE_INDEX:
                hit += truth == k and answer == k
                union += truth == k or answer == k
        out.append(hit / union if union else math.nan)
    return out


def lattice_filter(features, values):
    """Filter values (N,) at points (N,d) on a permutohedral lattice of dictionaries, symmetrically normalised.

    Written from Adams et al. 2010: elevate onto the plane of sum 0, find the enclosing simplex by rounding and
    sorting, splat with barycentric weights, blur along each direction with (1/2, 1, 1/2), slice.
    """
    points = np.asarray(features, np.float64)
    n, d = points.shape
    corners = [_simplex(point, d) for point in points]

    def smooth(signal):
        table = {}
        for value, simplex in zip(signal, corners, strict=True):
            for vertex, weight in simplex:
                table[vertex] = table.get(vertex, 0.0) + weight * value
        for direction in range(d + 1):
            step = np.full(d + 1, -1)
            step[direction] = d
            blurred = {}
            for vertex, value in table.items():
                ahead, behind = (tuple(np.array(vertex) + sign * step) for sign in (1, -1))
                blurred[vertex] = value + 0.5 * (table.get(ahead, 0.0) + table.get(behind, 0.0))
            table = blurred
        scale = 1 / (1 + 2.0**-d)
        return np.array([scale * sum(w * table[v] for v, w in simplex) for simplex in corners])

    norm = 1 / np.sqrt(smooth(np.ones(n)))
    return norm * smooth(norm * np.asarray(values, np.float64))


def _simplex(point, d):
    """The d + 1 vertices around a point, each with its barycentric weight."""
    spread = np.sqrt(2 / 3) * (d + 1)
    basis = np.zeros((d + 1, d))  # column i: i + 1 ones, then -(i + 1), of length 1 before spreading
    for i in range(d):
        basis[: i + 1, i], basis[i + 1, i] = 1, -(i + 1)
        basis[:, i] *= spread / np.sqrt((i + 1) * (i + 2))
    elevated = basis @ point
    nearest = np.round(elevated / (d + 1)).astype(int) * (d + 1)
    order = np.argsort(-(elevated - nearest), kind="stable")
    excess = nearest.sum() // (d + 1)
    if excess > 0:  # too far along: step back where the rounding up was largest
        nearest[order[len(order) - excess :]] -= d + 1
    elif excess < 0:
        nearest[order[:-excess]] += d + 1
    offset = (elevated - nearest) / (d + 1)
    order = np.argsort(-offset, kind="stable")
    ranked = offset[order]
    weights = [1 - ranked[0] + ranked[-1], *(ranked[i - 1] - ranked[i] for i in range(d, 0, -1))]
    # the vertex of colour r: r everywhere, but r - (d + 1) at the r coordinates of smallest remainder
    vertices = []
    for r in range(d + 1):
        key = nearest + r
        key[order[d + 1 - r :]] -= d + 1
        vertices.append(tuple(key))
    return list(zip(vertices, weights, strict=True))


def batch(n_classes=4, shape=(2, 5, 6), ignored=0.3, seed=0, scale=3.0):
    """Random logits and labels, a share of them ignored: what the losses are tried on."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (shape[0], n_classes, *shape[1:])).astype(np.float32)
    target = rng.integers(0, n_classes, shape)
    target[rng.random(shape) < ignored] = 255
    return torch.from_numpy(logits).requires_grad_(), torch.from_numpy(target)
