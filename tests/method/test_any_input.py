"""Whatever array a function of the method is given: what its docstring promises, or one line that says why not."""

import warnings
from collections import Counter
from types import FunctionType

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_examples import PUBLIC

from pmm.errors import InputError
from pmm.method import cam, crf, lattice, losses, metrics, noise, pseudo_mask, smoothing

CHANNELS = (0, 1, 2, 3, 5, 25)
FLOATS = ("float32", "float32", "float64", "float16", ">f4")
DTYPES = (*FLOATS, *FLOATS, "int64", "uint8", "bool", "complex64", "object", "U3")
WITHIN = ("uniform", "uniform", "zeros", "ones", "half", "smallest", "steps")
BEYOND = ("negative", "scores", "nan", "inf", "-inf", "largest", "just above")
LAYOUTS = ("C", "F", "reversed", "every second", "read-only", "one value")
sides = st.integers(1, 64)
odd = st.sampled_from([0.0, 1.0, 11.0, -1.0, 1e300, 1e-300, np.nan, np.inf, -np.inf])


def mostly(good, other):
    """Draw the other in one of six examples."""
    return st.integers(0, 5).flatmap(lambda i: other if i == 2 else good)


numbers = mostly(st.sampled_from([0.05, 0.3, 0.5]), odd)
seeds = st.integers(0, 2**32 - 1)
variants = st.sampled_from(["paper", "official", "official", "best"])
LARGEST = float(np.finfo(np.float32).max)
SPEAKS = "s: .* is too large for this image"  # the one warning that is promised


def filled(shape, content, seed):
    """Values as float64."""
    rng = np.random.default_rng(seed)
    values = {
        "uniform": lambda: rng.random(shape),
        "zeros": lambda: np.zeros(shape),
        "ones": lambda: np.ones(shape),
        "half": lambda: np.full(shape, 0.5),
        "smallest": lambda: np.full(shape, 1e-45),
        "steps": lambda: rng.integers(0, 3, shape) / 2,
        "negative": lambda: -rng.random(shape),
        "scores": lambda: 10 * rng.normal(size=shape),
        "largest": lambda: rng.choice([-1.7e308, 1.7e308], shape),
        "just above": lambda: 1 + rng.random(shape) * 1e-3,
    }
    own = values.get(content, values["uniform"])()
    if content in ("nan", "inf", "-inf") and own.size:
        own.flat[rng.integers(own.size)] = float(content)
    return np.asarray(own)


def laid_out(array, layout):
    """The same values (but for "one value") in another place of the memory."""
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "reversed" and array.ndim:
        return array[::-1].copy()[::-1]
    if layout == "every second" and array.ndim:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if layout == "one value" and array.size:
        return np.broadcast_to(array.flat[0], array.shape)
    if layout == "read-only":
        array.flags.writeable = False
    return array


@st.composite
def arrays(draw, shape, contents=WITHIN * 3 + BEYOND, dtypes=DTYPES):
    """An array of a shape; one in twelve has an axis more, less, or empty."""
    other = draw(st.integers(-36, 2))
    shape = {0: shape[1:], 1: (1, *shape), 2: (*shape[:-1], 0)}.get(other, tuple(shape))
    values = filled(shape, draw(st.sampled_from(contents)), draw(seeds))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = np.asarray(values.astype(draw(st.sampled_from(dtypes))))
    return laid_out(array, draw(st.sampled_from(LAYOUTS)))


def usable(shape, **own):
    """Mostly what a function takes, so that most of the examples reach its end."""
    good = arrays(shape, WITHIN, FLOATS)
    return mostly(good, arrays(shape, **own))


@st.composite
def maps(draw, **own):
    return draw(usable((draw(st.sampled_from(CHANNELS)), draw(sides), draw(sides)), **own))


@st.composite
def ids_for(draw, n):
    good = st.permutations(range(1, 255)).map(lambda order: order[:n])
    bad = st.sampled_from([[], [0] * n, [1] * n, [255], [-1], [1.5] * n, [[1]] * n, ["1"] * n, [2**70], [None] * n])
    found = draw(mostly(good, bad))
    return draw(st.sampled_from([list, np.asarray]))(found)


@st.composite
def image_of(draw, size):
    good = arrays((*size, 3), ["uniform"], ["uint8"])
    speckled = st.builds(lambda seed: np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8), seeds)
    return draw(mostly(mostly(speckled, good), arrays((*size, 3))))


@st.composite
def photographs(draw, most=5):
    """Image, CAM and class ids that mostly fit together."""
    size = draw(sides), draw(sides)
    n = draw(st.sampled_from([c for c in CHANNELS if c <= most] + [25]))
    other = draw(st.sampled_from([size] * 9 + [(size[0] + 1, size[1])]))
    return draw(image_of(size)), draw(usable((n, *other))), draw(ids_for(n))


@st.composite
def with_mask(draw):
    own = draw(maps())
    shape = own.shape if draw(st.integers(0, 9)) else (1, 1, 1)
    return own, draw(arrays(shape, ["steps", "ones", "zeros"], ["bool"] * 5 + ["uint8"])), draw(variants)


@st.composite
def labels(draw, dtypes=("uint8", "uint8", "int64", "int8", "uint64", "float32", "bool")):
    """Two label maps and a number of classes."""
    shape, n = (draw(sides), draw(sides)), draw(st.sampled_from([1, 2, 21, 25, 255, 0, -1, 256, 2**40]))
    rng = np.random.default_rng(draw(seeds))
    pair = [rng.integers(0, min(max(n, 1), draw(st.sampled_from([127, 255]))), shape) for _ in "ab"]
    pair[0][rng.random(shape) < draw(st.sampled_from([0, 0.2, 1]))] = draw(st.sampled_from([255, 255, 0, -1, 300]))
    with np.errstate(all="ignore"):
        pair = [laid_out(each.astype(draw(st.sampled_from(dtypes))), draw(st.sampled_from(LAYOUTS))) for each in pair]
    return *pair, n


@st.composite
def confusions(draw):
    n = draw(st.integers(0, 25))
    shape = (n, n + draw(st.integers(0, 2)))
    counts = np.random.default_rng(draw(seeds)).integers(0, draw(st.sampled_from([1, 9, 2**62])), shape)
    return (draw(mostly(st.just(counts), arrays(shape))),)


@st.composite
def tensors(draw, shape, contents=WITHIN + BEYOND):
    """A tensor of losses or scores; sometimes a view, of another type, or with nothing in it."""
    kinds = [torch.float32] * 12 + [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
    own = filled(tuple(shape), draw(st.sampled_from(contents)), draw(seeds))
    own = torch.from_numpy(own).to(draw(st.sampled_from(kinds)))
    return own.transpose(-1, -2).contiguous().transpose(-1, -2) if draw(st.booleans()) and own.ndim > 1 else own


@st.composite
def batches(draw):
    """Logits and targets that mostly fit together."""
    n, k, h, w = draw(st.integers(0, 2)), draw(st.sampled_from([1, 2, 21, 25, 0])), draw(sides), draw(sides)
    logits = draw(tensors((n, k, h, w), (*WITHIN, "scores", "scores", "nan", "inf", "largest")))
    rng = np.random.default_rng(draw(seeds))
    target = rng.integers(0, max(k, 1), (n, h, w + (draw(st.integers(0, 9)) == 0)))
    target[rng.random(target.shape) < draw(st.sampled_from([0, 0.2, 1]))] = draw(st.sampled_from([255] * 6 + [-1, 99]))
    kinds = [torch.int64] * 12 + [torch.uint8, torch.int32, torch.float32, torch.bool]
    return logits, torch.from_numpy(target).to(draw(st.sampled_from(kinds)))


@st.composite
def energies(draw):
    """A mean field of a few points, and energies for it."""
    size = draw(sides), draw(st.integers(1, 16))
    own = [lattice.Kernel(lattice.position_lattice(*size, 3.0, 3.0, 1), 10.0)] * draw(st.integers(0, 1))
    n = draw(st.sampled_from(CHANNELS))
    return lattice.MeanField(own), draw(usable((n, size[0] * size[1]))), draw(usable((n, size[0] * size[1])))


def mean_field(field, first, second):
    """All that a mean field computes."""
    posterior = field.posterior(first, 2)
    return posterior, field.binary_posterior(first, second, 2), field.message(first)


def whole_score(target, prediction, n):
    score = metrics.SegmentationScore([str(i) for i in range(n)] if n < 1000 else [])
    score.update(target, prediction)
    return score.result()


def dense_crf(image, foreground, _):
    own = crf.DenseCRF(image)
    refined = own.foreground_posterior(foreground, foreground)
    return refined, own.posterior(foreground) if len(foreground) > 1 else np.ones_like(refined)


def pus(logits, target, kind, beta, kappa, variant, pixel_loss):
    return losses.PretendedUnderfittingLoss(kind, beta, kappa, variant, pixel_loss)(logits, target)


# --- what is promised of a result


def is_map(result, shape, low=0.0, high=1.0):
    assert result.dtype == np.float32 and result.shape == tuple(shape)
    assert not result.size or (low <= result.min() and result.max() <= high)  # NaN fails


def is_mask(result, size, ids):
    assert result.dtype == np.uint8 and result.shape == tuple(size)
    assert set(np.unique(result).tolist()) <= {0, *map(int, ids)}


def is_flat(result, own, low, high):
    is_map(result, (len(own),), low, high)


def is_loss_map(result, own, where=None):
    """Of the same shape; finite and not negative wherever the given loss is, and no number where it is none."""
    assert result.shape == own.shape and result.is_floating_point()
    assert (result.isnan() >= own.isnan()).all()
    assert (result[own.isfinite() & (own >= 0)] >= 0).all()


def is_pixel_loss(result, logits, target):
    assert result.dtype == torch.float32 and result.shape == target.shape
    fine = logits.isfinite().all(1) & (logits.abs() < 1e30).all(1)
    assert ((result >= 0) & result.isfinite())[fine].all() and (result[target == 255] == 0).all()


def is_loss(result, logits, target, *_):
    assert result.dtype == torch.float32 and result.shape == ()
    if not (target != 255).any():
        assert result == 0 or result.isnan()
    elif logits.isfinite().all() and (logits.abs() < 1e30).all():
        assert result >= 0


def is_steps(steps, image, own, ids):
    shape, size = own.shape, image.shape[:2]
    is_flat(steps.c_v, own, 0, 1e6)
    is_flat(steps.exponent, own, smoothing.MIN_EXPONENT, 1)
    for each in (steps.smoothed, steps.background, steps.posterior):
        is_map(each, shape)
    is_map(steps.proportion, shape, high=1e38)
    assert steps.foreground.dtype == bool and steps.foreground.shape == shape
    is_mask(steps.mask, size, ids)


def is_score(result, target, prediction, n):
    values = [result["miou"], result["pixel_accuracy"], *result["iou"].values()]
    assert len(values) == n + 2 and all(0 <= value <= 1 or value != value for value in values)


def is_iou(result, own):
    assert result.shape == (len(own),) and result.dtype == np.float64
    assert all(0 <= value <= 1 or value != value for value in result)


def is_field(found, field, first, second):
    posterior, binary, message = found
    is_map(posterior, first.shape, high=1 + 1e-5)
    assert not posterior.size or np.abs(posterior.sum(0) - 1).max() < 1e-4
    is_map(binary, first.shape)
    assert message.shape == first.shape and np.isfinite(message).all()


def is_crf(found, image, own, _):
    for each in found:
        is_map(each, own.shape, high=1 + 1e-5)
    assert not len(own) or np.abs(found[1].sum(0) - 1).max() < 1e-4


def is_lattice(found, features, *_):
    n, d = features.shape
    assert found.vertices.shape == (n, d + 1) == found.splat_weights.shape
    assert found.vertices.max() < found.n_vertices and np.isfinite(found.splat_weights).all()
    assert found.neighbours.min() >= 0 and found.neighbours.max() <= found.n_vertices


def is_confusion(result, target, prediction, n):
    assert result.shape == (n, n) and result.dtype == np.int64
    assert result.sum() == (target != 255).sum() and result.min() >= 0


def is_flipped(result, mask, ids, *_):
    is_mask(result, mask.shape, {*np.unique(mask).tolist(), *ids})
    kept = (mask == 0) | (mask == 255)
    assert (result[kept] == mask[kept]).all()


some_ids = st.sampled_from([[], [1], [2, 1], [24], [0], [-1], [1.5], [[1]], ["1"], [2**70]])
allowed = st.tuples(maps(), mostly(st.sampled_from([[], [1], [1, 1]]), some_ids))
one_mask = maps().flatmap(lambda own: st.tuples(st.just(own), ids_for(own.shape[0] if own.ndim else 0)))
channels = st.sampled_from(CHANNELS)
flat = channels.flatmap(lambda n: usable((n,)))
raised = maps().flatmap(
    lambda own: st.tuples(st.just(own), usable(own.shape[:1], contents=("ones", "half", *BEYOND)), numbers, variants)
)
photographed, pictures = photographs(), st.tuples(sides, sides).flatmap(image_of)
loss_maps = st.tuples(sides, sides).flatmap(lambda size: tensors((2, *size)))
alone, smoothed = st.tuples(maps()), st.tuples(maps(), numbers, numbers, variants)
layers = st.tuples(
    st.lists(st.tuples(sides, sides).flatmap(lambda size: arrays((1, *size))), max_size=3), st.tuples(sides, sides)
)
points = st.tuples(sides, st.integers(1, 7)).flatmap(lambda shape: usable(shape))
corrupted = st.tuples(
    labels(("uint8",) * 9 + ("int64",)).map(lambda pair: pair[0]), ids_for(3), numbers, seeds.map(int), st.just("a")
)

TABLE = {  # function -> arguments, how it is called, what its result is; nothing for records, which compute nothing
    "cam.normalize_cam": (alone, cam.normalize_cam, lambda r, a: is_map(r, a.shape)),
    "cam.cam_of_layers": (layers, cam.cam_of_layers, lambda r, a, size: is_map(r, (len(a), *size))),
    "cam.resize_maps": (
        st.tuples(maps(), st.tuples(st.integers(0, 64), sides)),
        cam.resize_maps,
        lambda r, a, size: is_map(r, (len(a), *size), -LARGEST, LARGEST),
    ),
    "cam.check_cam": (alone, cam.check_cam, lambda r, a: is_map(r, a.shape)),
    "cam.check_class_ids": (
        channels.flatmap(lambda n: st.tuples(ids_for(n), st.just(n))),
        cam.check_class_ids,
        lambda r, ids, n: [None for each in r if not 1 <= each <= 254] == [] or pytest.fail(str(r)),
    ),
    "crf.CRFSettings": (
        st.tuples(st.integers(-1, 3), *[numbers] * 5),
        crf.CRFSettings,
        lambda r, *a: (r.iterations, r.gauss_sxy) == a[:2] or pytest.fail(str(a)),
    ),
    "crf.compile_lattice": None,
    "crf.DenseCRF": (photographed, dense_crf, is_crf),
    "cam.check_image": (
        st.tuples(pictures),
        cam.check_image,
        lambda r, a: (r.dtype == np.uint8 and r.shape == a.shape) or pytest.fail(str(r.shape)),
    ),
    "crf.unary": (alone, crf.unary, lambda r, a: is_map(r, (len(a), a[0].size if len(a) else r.shape[1]), 0, 12)),
    "lattice.Lattice": None,
    "lattice.stripes": (
        st.tuples(st.integers(0, 10**6)),
        lattice.stripes,
        lambda r, n: (r[0][0], r[-1][1]) == (0, n) or pytest.fail(str(r)),
    ),
    "lattice.build_lattice": (st.tuples(points, st.sampled_from([1, 2])), lattice.build_lattice, is_lattice),
    "lattice.Kernel": None,
    "lattice.MeanField": (energies(), mean_field, is_field),
    "lattice.bilateral_features": (
        st.tuples(sides, sides).flatmap(
            lambda z: st.tuples(image_of(z), st.tuples(numbers, numbers), st.just((1,) * 3))
        ),
        lattice.bilateral_features,
        lambda r, a, *_: is_map(r, (a.shape[0] * a.shape[1], 5), 0, np.inf),
    ),
    "lattice.position_lattice": (
        st.tuples(sides, sides, numbers, numbers, st.just(1)),
        lattice.position_lattice,
        lambda r, h, w, *_: is_lattice(r, np.empty((h * w, 2))),
    ),
    "losses.pus_clamp": (
        st.tuples(loss_maps, numbers, variants),
        losses.pus_clamp,
        lambda r, a, kappa, v: is_loss_map(r, a),
    ),
    "losses.pus_pow": (
        st.tuples(loss_maps, numbers, variants),
        losses.pus_pow,
        lambda r, a, kappa, v: is_loss_map(r, a),
    ),
    "losses.pus_ignore": (st.tuples(loss_maps, numbers), losses.pus_ignore, lambda r, a, kappa: is_loss_map(r, a)),
    "losses.cross_entropy_map": (batches(), losses.cross_entropy_map, is_pixel_loss),
    "losses.one_vs_all_bce_map": (batches(), losses.one_vs_all_bce_map, is_pixel_loss),
    "losses.UnderfittingState": None,
    "losses.PretendedUnderfittingLoss": (
        st.builds(
            lambda batch, *more: (*batch, *more),
            batches(),
            st.sampled_from([*losses.PUS_KINDS, "best"]),
            numbers,
            numbers,
            variants,
            st.sampled_from(["ce", "bce"]),
        ),
        pus,
        is_loss,
    ),
    "metrics.confusion_matrix": (labels(), metrics.confusion_matrix, is_confusion),
    "metrics.iou_per_class": (confusions(), metrics.iou_per_class, is_iou),
    "metrics.mean_iou": (
        confusions(),
        metrics.mean_iou,
        lambda r, a: 0 <= r <= 1 or r != r or pytest.fail(str(r)),
    ),
    "metrics.SegmentationScore": (labels(), whole_score, is_score),
    "noise.flip_regions": (corrupted, noise.flip_regions, is_flipped),
    "pseudo_mask.PpmgSteps": None,
    "pseudo_mask.background_score": (
        st.tuples(maps(), numbers),
        pseudo_mask.background_score,
        lambda r, a, alpha: is_map(r, a.shape[1:]),
    ),
    "pseudo_mask.threshold_pseudo_mask": (
        st.tuples(one_mask, numbers).map(lambda drawn: (*drawn[0], drawn[1])),
        pseudo_mask.threshold_pseudo_mask,
        lambda r, a, ids, threshold: is_mask(r, a.shape[1:], ids),
    ),
    "pseudo_mask.crf_pseudo_mask": (
        photographed,
        lambda *a: pseudo_mask.crf_pseudo_mask(*a, alpha=2),
        lambda r, image, a, ids: is_mask(r, image.shape[:2], ids),
    ),
    "pseudo_mask.CrfSteps": None,
    "pseudo_mask.crf_pseudo_mask_steps": (
        photographed,
        lambda *a: pseudo_mask.crf_pseudo_mask_steps(*a, alpha=24),
        lambda r, image, a, ids: is_map(r.posterior, (1 + len(a), *image.shape[:2]), high=1 + 1e-5),
    ),
    "pseudo_mask.proportion": (with_mask(), pseudo_mask.proportion, lambda r, a, *_: is_map(r, a.shape, 0, 1e38)),
    "pseudo_mask.ppmg": (
        photographed,
        lambda *a: pseudo_mask.ppmg(*a, s=0.3, alpha=11, t=0.05),
        lambda r, image, a, ids: is_mask(r, image.shape[:2], ids),
    ),
    "pseudo_mask.ppmg_steps": (
        st.builds(lambda own, *more: (*own, *more), photographs(most=2), numbers, numbers, numbers, variants),
        lambda i, a, ids, s, alpha, t, v: pseudo_mask.ppmg_steps(i, a, ids, s=s, alpha=alpha, t=t, variant=v),
        lambda r, image, a, ids, *_: is_steps(r, image, a, ids),
    ),
    "pseudo_mask.allow_classes": (allowed, pseudo_mask.allow_classes, lambda r, a, ids: is_map(r, a.shape)),
    "pseudo_mask.cyclic_pseudo_mask": (
        mostly(allowed, st.tuples(maps(), st.none())),
        pseudo_mask.cyclic_pseudo_mask,
        lambda r, a, ids: is_mask(r, a.shape[1:], range(len(a))),
    ),
    "smoothing.coefficient_of_variation": (
        st.tuples(maps(), numbers),
        smoothing.coefficient_of_variation,
        lambda r, a, t: is_flat(r, a, 0, 1e6),
    ),
    "smoothing.smoothing_exponent": (
        st.tuples(flat, numbers),
        smoothing.smoothing_exponent,
        lambda r, a, s: is_flat(r, a, smoothing.MIN_EXPONENT, 1),
    ),
    "smoothing.raise_cam": (raised, smoothing.raise_cam, lambda r, a, *_: is_map(r, a.shape)),
    "smoothing.smooth_cam": (smoothed, smoothing.smooth_cam, lambda r, a, *_: is_map(r, a.shape)),
    "cam.in_float32": (
        st.tuples(flat.filter(lambda a: a.dtype.kind in "fiu" and not np.isnan(a).any())),
        cam.in_float32,
        lambda r, a: is_map(r, a.shape, np.finfo(np.float32).tiny, LARGEST),
    ),
    "smoothing.check_variant": (
        st.tuples(variants),
        smoothing.check_variant,
        lambda r, v: r == v or pytest.fail(str(r)),
    ),
}
NEVER_REFUSE = {"lattice.stripes", "cam.in_float32"}
EXPENSIVE = {"crf.DenseCRF", "pseudo_mask.crf_pseudo_mask", "pseudo_mask.crf_pseudo_mask_steps", "pseudo_mask.ppmg"}


def name_of(public):
    return f"{public.__module__.rpartition('.')[2]}.{public.__name__}"


def test_the_table_names_every_public_function_and_no_other():
    assert set(TABLE) == {name_of(public) for public in PUBLIC}
    records = {name_of(p) for p in PUBLIC if not isinstance(p, FunctionType) and hasattr(p, "__match_args__")}
    records |= {name_of(p) for p in PUBLIC if hasattr(p, "_fields")}
    assert {name for name, row in TABLE.items() if row is None} <= records | {"crf.compile_lattice"}  # no argument


def kept(value):
    """A copy by which a change shows."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype, value.tolist() if value.dtype == object else value.tobytes()
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype, repr(value.tolist())
    return [kept(each) for each in value] if isinstance(value, (list, tuple)) else None


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row])
def test_any_input(name):
    arguments, function, promise = TABLE[name]
    ended = Counter()

    own = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}  # the same each time

    @settings(max_examples=40 if name in EXPENSIVE else 80, **own)
    @given(arguments)
    def call(given_):
        before = kept(given_)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", SPEAKS, RuntimeWarning)
            try:
                result = function(*given_)
            except InputError as error:
                ended["refused"] += 1
                assert "\n" not in str(error) and 10 < len(str(error)) < 400
                result = None
        assert kept(given_) == before
        if result is not None:
            ended["result"] += 1
            promise(result, *given_)

    call()
    print(f"\n{name}: {dict(ended)}")
    assert ended["result"] >= 2
    assert ended["refused"] > 0 or name in NEVER_REFUSE
