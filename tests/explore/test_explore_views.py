"""The explorer's views against the plain functions, at a fixed size, whatever the sliders say."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from explorer_run import TinyRun, truth_of

from pmm.errors import InputError
from pmm.explore import drawing
from pmm.explore.masks import (
    ALPHAS,
    STEPS,
    TITLES,
    MaskState,
    make_mask,
    masks_view,
    scenes_iou,
    scored_scenes,
    scores_view,
)
from pmm.explore.picker import ExplorerScene, gallery_ids, load_scene
from pmm.explore.smoothing import SmoothingState, smooth_one, smoothing_view
from pmm.explore.underfitting import (
    SKY,
    STRATEGIES,
    PusState,
    lesson,
    model_output,
    precision_recall,
    underfitting_view,
)
from pmm.figures.training import HARD_RGB, WRONG_RGB
from pmm.method import IGNORE_INDEX
from pmm.method.crf import CRFSettings
from pmm.method.losses import pus_clamp, pus_ignore, pus_pow
from pmm.method.metrics import confusion_matrix, mean_iou
from pmm.method.pseudo_mask import crf_pseudo_mask, ppmg, threshold_pseudo_mask
from pmm.method.smoothing import MIN_EXPONENT, coefficient_of_variation, smooth_cam

CRF = CRFSettings(iterations=2)


@pytest.fixture
def run(tmp_path):
    return TinyRun(tmp_path)


@pytest.fixture
def scene(run):
    return load_scene(run, "scene0")


@pytest.mark.parametrize("variant", ["official", "paper"])
@pytest.mark.parametrize("s", [0.0, 0.3])
def test_smoothing_is_that_of_the_package(scene, s, variant):
    step = smooth_one(scene, SmoothingState(2, s, 0.05, variant))
    assert np.allclose(step.after, smooth_cam(scene.cam, s, 0.05, variant)[1], atol=1e-6)
    assert np.isclose(step.c_v, coefficient_of_variation(scene.cam, 0.05)[1])
    assert np.isclose(step.deviation / step.mean, step.c_v, atol=1e-4)


def test_a_huge_s_is_clamped_and_explained_without_a_warning_of_python(scene):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        view = smoothing_view(scene, SmoothingState(1, 3.0))
        masks = masks_view(scene, MaskState(s=3.0, crf=CRF, class_id=1))
    assert view.numbers["wanted"] < 0 and view.numbers["exponent"] == pytest.approx(MIN_EXPONENT)
    assert "s = 3.00 is too large for one" in view.warning and "Lower s below" in view.warning
    assert "two words" in masks.warning and np.isfinite(masks.picture).all()
    assert not smoothing_view(scene, SmoothingState(1, 0.1)).warning


def test_masks_are_those_of_the_package(scene):
    image, cam, ids = scene.image, scene.cam, scene.class_ids
    own = {m: make_mask(scene, MaskState(m, alpha=0.7, crf=CRF)).mask for m in TITLES}
    assert np.array_equal(own["ppmg"], ppmg(image, cam, ids, s=0.3, alpha=0.7, t=0.05, crf=CRF))
    assert np.array_equal(own["crf"], crf_pseudo_mask(image, cam, ids, alpha=0.7, crf=CRF))
    assert np.array_equal(own["threshold"], threshold_pseudo_mask(cam, ids, 0.5))


def test_iou_is_that_of_the_metrics_and_the_difference_is_told(scene):
    first, second = (MaskState(crf=CRF, alpha=a, class_id=1) for a in (0.5, 4.0))
    before, after = make_mask(scene, first), make_mask(scene, second)
    assert after.mean_iou == pytest.approx(mean_iou(confusion_matrix(scene.truth, after.mask, 3)))
    view = masks_view(scene, second, ("the previous setting", first))
    points = f"{100 * (after.mean_iou - before.mean_iou):+.1f} points"
    assert points in " ".join(view.text) and "ground truth" in view.text[0]


def test_the_class_shown_does_not_make_the_mask_anew(scene):
    first = make_mask(scene, MaskState(crf=CRF, class_id=1))
    assert make_mask(scene, MaskState(crf=CRF, class_id=2)) is first
    assert scene.crf(CRF) is scene.crf(CRFSettings(iterations=2))


def test_all_pictures_have_one_size(run, scene):
    other = load_scene(run, "scene1")
    output = model_output(run, scene, "late")
    bare = ExplorerScene("own.jpg", scene.image[:40, :33], scene.cam[:1, :40, :33], (9,), ("a very long name " * 9,))
    views = [
        smoothing_view(scene, SmoothingState(1)),
        smoothing_view(bare, SmoothingState(9, 3.0, 0.9, "paper")),
        masks_view(scene, MaskState(crf=CRF)),
        masks_view(other, MaskState("crf", crf=CRF, alpha=64.0)),
        masks_view(bare, MaskState("threshold", class_id=9)),
        *(underfitting_view(scene, output, PusState(k, 5.0, 2.0)) for k in STRATEGIES),
    ]
    assert {v.picture.shape for v in views} == {(444, 1200, 3)}
    assert all(v.picture.dtype == np.uint8 and v.alt and v.text for v in views)


def test_a_class_that_is_not_in_the_image_is_refused(scene):
    for make in (
        lambda: smoothing_view(scene, SmoothingState(7)),
        lambda: masks_view(scene, MaskState(crf=CRF, class_id=7)),
    ):
        with pytest.raises(InputError, match=r"class 7: not in scene0; .* are 1 \(one\), 2 \(two words\)"):
            make()


def test_unknown_choices_are_refused():
    for make in (lambda: MaskState("magic"), lambda: PusState("clap"), lambda: PusState(kappa=0.0)):
        with pytest.raises(InputError):
            make()


@pytest.mark.parametrize("name", STRATEGIES)
def test_gradient_weights_are_the_slopes_of_the_losses(run, scene, name):
    output = model_output(run, scene, "late")
    state = PusState(name, 0.4, beta=100.0)
    loss = torch.tensor(output.loss.clip(1e-4), requires_grad=True)
    kind, variant = STRATEGIES[name]
    shaped = {
        "clamp": lambda: pus_clamp(loss, 0.4, variant),
        "pow": lambda: pus_pow(loss, 0.4, variant),
        "ignore": lambda: pus_ignore(loss, 0.4),
    }[kind]()
    (slope,) = torch.autograd.grad(shaped.sum(), loss)
    seen = output.loss > 1e-4
    assert np.allclose(lesson(scene, output, state).weight[seen], slope.numpy()[seen], rtol=1e-4)


def test_a_closed_gate_leaves_all_weights_at_one(run, scene):
    output = model_output(run, scene, "late")
    closed = lesson(scene, output, PusState(beta=0.0))
    assert not closed.is_open and closed.mean_loss == pytest.approx(output.loss.mean(), rel=1e-5)
    assert (lesson(scene, output, PusState("ignore", 0.1, beta=0.0)).weight == 1).all()


@pytest.mark.parametrize("beta", [0.0, 100.0])
def test_with_the_gate_closed_no_pixel_looks_doubted(run, scene, beta):
    output = model_output(run, scene, "late")
    view = underfitting_view(scene, output, PusState(kappa=0.2, beta=beta))
    maps = view.picture[: drawing.TITLE + drawing.CELL[1]].reshape(-1, 3)
    marks = {HARD_RGB, WRONG_RGB, SKY} & {tuple(rgb) for rgb in np.unique(maps, axis=0).tolist()}
    assert bool(marks) == view.numbers["open"] == (beta > 0)
    assert (view.numbers["doubted"] > 0) == (beta > 0) and view.numbers["reached"] > 0
    assert ("not doubted now" in view.text[1]) == (beta == 0)


def test_precision_and_recall_against_a_loop(run, scene):
    output, truth = model_output(run, scene, "late"), truth_of(0)
    kappas = np.array([0.1, 0.45, 2.2, 9.0])
    precision, recall = precision_recall(output, truth, kappas)
    evaluated = truth != IGNORE_INDEX
    wrong = evaluated & (truth != output.pseudo_mask)
    for kappa, p, r in zip(kappas, precision, recall, strict=True):
        doubted = evaluated & (output.loss >= kappa)
        hit = (doubted & wrong).sum()
        assert r == pytest.approx(hit / wrong.sum())
        assert np.isnan(p) if not doubted.any() else p == pytest.approx(hit / doubted.sum())


def test_the_model_is_asked_once_a_scene_and_checkpoint(run, scene):
    for checkpoint in ("late", "early", "late", "early"):
        model_output(run, scene, checkpoint)
    assert run.asked == 2


def test_missing_things_name_what_makes_them(tmp_path):
    bare = TinyRun(tmp_path / "a", cams=False, segmenter=False)
    with pytest.raises(InputError, match="no CAMs here; make them first: make demo"):
        load_scene(bare, "scene0")
    untrained = TinyRun(tmp_path / "b", segmenter=False)
    with pytest.raises(InputError, match="segmenter pus is not trained"):
        model_output(untrained, load_scene(untrained, "scene0"), "late")
    old = TinyRun(tmp_path / "c", early=False)
    with pytest.raises(InputError, match="kept no early weights"):
        model_output(old, load_scene(old, "scene0"), "early")


def test_the_chart_of_scores_marks_the_setting_and_can_be_stopped(run):
    scenes, state = scored_scenes(run, 3), MaskState(crf=CRF)
    view = scores_view(scenes, state)
    assert view.picture.shape == (234, 1200, 3) and "ground truth" in view.text[0]
    total = sum(confusion_matrix(x.truth, make_mask(x, state).mask, 3) for x in scenes)
    assert view.numbers["mean_iou"] == pytest.approx(mean_iou(total))
    assert scores_view(scenes, MaskState(crf=CRF, alpha=3.3), stop=lambda: True) is None
    assert scores_view(scenes, state, stop=lambda: True) is not None  # all of it is known
    assert all(np.isfinite(scenes_iou(scenes, replace(state, alpha=a), lambda: True)) for a in ALPHAS)
    assert scores_view([], state).picture.shape == (234, 1200, 3)


def test_no_other_value_is_called_the_highest_where_the_setting_itself_is(run, monkeypatch):
    state = MaskState(s=0.33, alpha=0.6, crf=CRF)
    score = lambda _, other, *__: 0.7 - abs(other.s - state.s) - abs(other.alpha - 1)  # noqa: E731
    monkeypatch.setattr("pmm.explore.masks.scenes_iou", score)
    over_alpha, over_s = scores_view(scored_scenes(run, 3), state).text[1].split("; ")
    assert over_s == "no other s of the chart, alone, does better"
    assert over_alpha == "alpha = 1 alone would give 70.0 %, the highest of its chart"


def test_the_steps_of_algorithm_1_show_what_the_package_computes(scene):
    all_steps = masks_view(scene, MaskState(crf=CRF))
    views = [masks_view(scene, MaskState(crf=CRF, step=number)) for number in range(1, len(STEPS) + 1)]
    assert len({view.picture.tobytes() for view in (all_steps, *views)}) == 7
    assert {view.picture.shape for view in views} == {all_steps.picture.shape}
    assert all(view.mask is all_steps.mask for view in views)  # a step shows, and changes nothing
    assert "eq. 2" in views[2].text[1] and "step 3 of 6: background" in views[2].alt
    joint = MaskState("crf", crf=CRF)
    assert np.array_equal(masks_view(scene, replace(joint, step=3)).picture, masks_view(scene, joint).picture)


def test_a_pinned_mask_stands_beside_the_other(scene):
    pinned, moved = MaskState(crf=CRF, alpha=0.5), MaskState(crf=CRF, alpha=4.0)
    plain, view = (masks_view(scene, moved, (name, pinned)) for name in ("the previous setting", "A"))
    assert "points against A (PPMG, s 0.30, alpha 0.5" in view.text[1]
    first_cell = (slice(drawing.CELL[1] + drawing.TITLE + drawing.GAP, -drawing.LEGEND), slice(0, drawing.CELL[0]))
    assert (view.picture[first_cell] != plain.picture[first_cell]).any()
    assert np.isin(scene.small_mask(make_mask(scene, pinned).mask), view.picture[first_cell]).all()


def test_the_gallery_prefers_scenes_with_several_classes(run):
    assert gallery_ids(run, 2) == ["scene0", "scene2"]


def test_the_gallery_begins_with_colours_that_nobody_mixes_up():
    labels = {"two_purples": (6, 9), "sand_and_cyan": (4, 5), "one": (3,)}
    names = ("background", *(f"class {number}" for number in range(1, 10)))
    data = SimpleNamespace(class_names=names, labels=labels.get, has_mask=lambda _: True)
    chosen = gallery_ids(SimpleNamespace(data=data, train_ids=list(labels)))
    assert chosen == ["sand_and_cyan", "two_purples", "one"]


def test_pictures_keep_labels_and_their_arguments(scene):
    mask = np.zeros((300, 500), np.uint8)
    mask[100:, 200:] = 7
    assert set(np.unique(drawing.shrink(mask, smooth=False))) == {0, 7}
    before = scene.image.copy()
    drawing.paint(scene.image, (truth_of(0) == 1, (1, 2, 3)))
    assert np.array_equal(scene.image, before)
    region = np.zeros((5, 5), bool)
    region[1:4, 1:4] = True
    assert drawing.border(region).sum() == 8 and not drawing.border(region)[2, 2]
    assert drawing.shortened("a" * 99, 100, 16).endswith("...")


def test_chart_places_values_on_its_axes():
    chart = drawing.Chart((0.1, 10), (0, 1), log=True)
    left, bottom = chart.place(0.1, 0)
    assert chart.place(1, 0.5) == pytest.approx(((left + chart.right) / 2, (chart.top + bottom) / 2))
    assert chart.place(99, 7) == (chart.right, chart.top)
    chart.curve([0.1, 1, 10], [0, float("nan"), 1]).mark(1, "one")
    assert chart.picture().shape == (drawing.CELL[1], drawing.CELL[0], 3)
