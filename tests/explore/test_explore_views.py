"""The explorer's views against the plain functions, at a fixed size, whatever the sliders say."""

import warnings

import numpy as np
import pytest
import torch
from explorer_run import TinyRun, truth_of

from pmm.errors import InputError
from pmm.explore import canvas, charts
from pmm.explore.live import ALPHAS, Handful, live_view
from pmm.explore.masks_view import METHODS, MaskState, make_mask, masks_view
from pmm.explore.sample import Sample, from_experiment, gallery_ids
from pmm.explore.smoothing_view import SmoothingState, smooth_one, smoothing_view
from pmm.explore.underfitting_state import KINDS, UnderfittingState, model_output
from pmm.explore.underfitting_view import gate, gradient_weight, precision_recall, underfitting_view
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
def sample(run):
    return from_experiment(run, "scene0")


@pytest.mark.parametrize("variant", ["official", "paper"])
@pytest.mark.parametrize("s", [0.0, 0.3])
def test_smoothing_is_that_of_the_package(sample, s, variant):
    step = smooth_one(sample, SmoothingState(2, s, 0.05, variant))
    assert np.allclose(step.after, smooth_cam(sample.cam, s, 0.05, variant)[1], atol=1e-6)
    assert np.isclose(step.c_v, coefficient_of_variation(sample.cam, 0.05)[1])
    assert np.isclose(step.deviation / step.mean, step.c_v, atol=1e-4)


def test_a_huge_s_is_clamped_and_explained_without_a_warning_of_python(sample):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        view = smoothing_view(sample, SmoothingState(1, 3.0))
        masks = masks_view(sample, MaskState(s=3.0, crf=CRF, class_id=1))
    assert view.numbers["wanted"] < 0 and view.numbers["exponent"] == pytest.approx(MIN_EXPONENT)
    assert "s = 3.00 is too large for one" in view.warning and "Lower s below" in view.warning
    assert "two words" in masks.warning and np.isfinite(masks.picture).all()
    assert not smoothing_view(sample, SmoothingState(1, 0.1)).warning


def test_masks_are_those_of_the_package(sample):
    image, cam, ids = sample.image, sample.cam, sample.class_ids
    own = {m: make_mask(sample, MaskState(m, alpha=0.7, crf=CRF)).mask for m in METHODS}
    assert np.array_equal(own["ppmg"], ppmg(image, cam, ids, s=0.3, alpha=0.7, t=0.05, crf=CRF))
    assert np.array_equal(own["crf"], crf_pseudo_mask(image, cam, ids, alpha=0.7, crf=CRF))
    assert np.array_equal(own["threshold"], threshold_pseudo_mask(cam, ids, 0.5))


def test_iou_is_that_of_the_metrics_and_the_difference_is_told(sample):
    first, second = (MaskState(crf=CRF, alpha=a, class_id=1) for a in (0.5, 4.0))
    before, after = make_mask(sample, first), make_mask(sample, second)
    assert after.mean_iou == pytest.approx(mean_iou(confusion_matrix(sample.truth, after.mask, 3)))
    view = masks_view(sample, second, (first, before))
    points = f"{100 * (after.mean_iou - before.mean_iou):+.1f} points"
    assert points in " ".join(view.text) and "ground truth" in view.text[0]


def test_the_class_shown_does_not_make_the_mask_anew(sample):
    first = make_mask(sample, MaskState(crf=CRF, class_id=1))
    assert make_mask(sample, MaskState(crf=CRF, class_id=2)) is first
    assert sample.crf(CRF) is sample.crf(CRFSettings(iterations=2))


def test_all_pictures_have_one_size(run, sample):
    other = from_experiment(run, "scene1")
    output = model_output(run, sample, "late")
    bare = Sample("own.jpg", sample.image[:40, :33], sample.cam[:1, :40, :33], (9,), ("a very long name " * 9,))
    views = [
        smoothing_view(sample, SmoothingState(1)),
        smoothing_view(bare, SmoothingState(9, 3.0, 0.9, "paper")),
        masks_view(sample, MaskState(crf=CRF)),
        masks_view(other, MaskState("crf", crf=CRF, alpha=64.0)),
        masks_view(bare, MaskState("threshold", class_id=9)),
        *(underfitting_view(sample, output, UnderfittingState(k, 5.0, 2.0)) for k in KINDS),
    ]
    assert {v.picture.shape for v in views} == {(544, 1204, 3)}
    assert all(v.picture.dtype == np.uint8 and v.alt and v.text for v in views)


def test_a_class_that_is_not_in_the_image_is_refused(sample):
    for make in (
        lambda: smoothing_view(sample, SmoothingState(7)),
        lambda: masks_view(sample, MaskState(crf=CRF, class_id=7)),
        lambda: sample.only([7]),
    ):
        with pytest.raises(InputError, match=r"class 7: not in scene0; .* are 1 \(one\), 2 \(two words\)"):
            make()


def test_unknown_choices_are_refused():
    for make in (lambda: MaskState("magic"), lambda: UnderfittingState("clap"), lambda: UnderfittingState(kappa=0.0)):
        with pytest.raises(InputError):
            make()


@pytest.mark.parametrize("name", KINDS)
def test_gradient_weights_are_the_slopes_of_the_losses(run, sample, name):
    output = model_output(run, sample, "late")
    state = UnderfittingState(name, 0.4, beta=100.0)
    loss = torch.tensor(output.loss.clip(1e-4), requires_grad=True)
    kind, variant = KINDS[name]
    shaped = {
        "clamp": lambda: pus_clamp(loss, 0.4, variant),
        "pow": lambda: pus_pow(loss, 0.4, variant),
        "ignore": lambda: pus_ignore(loss, 0.4),
    }[kind]()
    (slope,) = torch.autograd.grad(shaped.sum(), loss)
    seen = output.loss > 1e-4
    assert np.allclose(gradient_weight(output, state)[seen], slope.numpy()[seen], rtol=1e-4)


def test_a_closed_gate_leaves_all_weights_at_one(run, sample):
    output = model_output(run, sample, "late")
    mean, is_open = gate(output, UnderfittingState(beta=0.0))
    assert not is_open and mean == pytest.approx(output.loss.mean(), rel=1e-5)
    assert (gradient_weight(output, UnderfittingState("ignore", 0.1, beta=0.0)) == 1).all()


def test_precision_and_recall_against_a_loop(run, sample):
    output, truth = model_output(run, sample, "late"), truth_of(0)
    kappas = np.array([0.1, 0.45, 2.2, 9.0])
    precision, recall = precision_recall(output, truth, kappas)
    judged = truth != 255
    wrong = judged & (truth != output.pseudo_mask)
    for kappa, p, r in zip(kappas, precision, recall, strict=True):
        doubted = judged & (output.loss >= kappa)
        hit = (doubted & wrong).sum()
        assert r == pytest.approx(hit / wrong.sum())
        assert np.isnan(p) if not doubted.any() else p == pytest.approx(hit / doubted.sum())


def test_the_model_is_asked_once_a_scene_and_checkpoint(run, sample):
    for checkpoint in ("late", "early", "late", "early"):
        model_output(run, sample, checkpoint)
    assert run.asked == 2


def test_missing_things_name_what_makes_them(tmp_path):
    bare = TinyRun(tmp_path / "a", cams=False, segmenter=False)
    with pytest.raises(InputError, match="no CAMs here; make them first: make demo"):
        from_experiment(bare, "scene0")
    untrained = TinyRun(tmp_path / "b", segmenter=False)
    with pytest.raises(InputError, match="segmenter pus is not trained"):
        model_output(untrained, from_experiment(untrained, "scene0"), "late")
    old = TinyRun(tmp_path / "c", early=False)
    with pytest.raises(InputError, match="kept no early weights"):
        model_output(old, from_experiment(old, "scene0"), "early")


def test_the_live_chart_marks_the_setting_and_can_be_stopped(run):
    handful, state = Handful.of(run, 3), MaskState(crf=CRF)
    view = live_view(handful, state)
    assert view.picture.shape == (285, 1204, 3) and "ground truth" in view.text[0]
    total = sum(confusion_matrix(x.truth, make_mask(x, state).mask, 3) for x in handful.samples)
    assert view.numbers["mean_iou"] == pytest.approx(mean_iou(total))
    assert live_view(handful, MaskState(crf=CRF, alpha=3.3), stop=lambda: True) is None
    assert live_view(handful, state, stop=lambda: True) is not None  # all of it is known
    assert len(handful.curve(state, "alpha", ALPHAS, lambda: True)) == len(ALPHAS)
    assert live_view(Handful([]), state).picture.shape == (285, 1204, 3)


def test_the_gallery_prefers_scenes_with_several_classes(run):
    assert gallery_ids(run, 2) == ["scene0", "scene2"]


def test_pictures_keep_labels_and_their_arguments(sample):
    mask = np.zeros((300, 500), np.uint8)
    mask[100:, 200:] = 7
    assert set(np.unique(canvas.shrink(mask, smooth=False))) == {0, 7}
    before = sample.image.copy()
    canvas.paint(sample.image, (truth_of(0) == 1, (1, 2, 3)))
    assert np.array_equal(sample.image, before)
    region = np.zeros((5, 5), bool)
    region[1:4, 1:4] = True
    assert canvas.border(region).sum() == 8 and not canvas.border(region)[2, 2]
    assert canvas.shortened("a" * 99, 100, 16).endswith("...")


def test_chart_places_values_on_its_axes():
    chart = charts.Chart(charts.Axes((0.1, 10), (0, 1), log=True))
    left, bottom = chart.place(0.1, 0)
    assert chart.place(1, 0.5) == pytest.approx(((left + chart.right) / 2, (chart.top + bottom) / 2))
    assert chart.place(99, 7) == (chart.right, chart.top)
    chart.curve(charts.Curve([0.1, 1, 10], [0, float("nan"), 1])).mark(1, "one")
    assert chart.picture().shape == (canvas.CELL[1], canvas.CELL[0], 3)
