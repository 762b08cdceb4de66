"""What the figures of notebooks 04-06 compute, and that they draw without touching their input."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from pmm.figures import losses, masks, tables, training
from pmm.figures.style import to_png
from pmm.method.crf import CRFSettings
from pmm.method.pseudo_mask import background_score, ppmg_steps
from pmm.run.folder import RunFolder

NAMES = ("background", "bird", "cat")
PNG = b"\x89PNG"


def test_highlight_paints_only_what_is_marked():
    image = np.full((2, 3, 3), 100, np.uint8)
    where = np.array([[True, False, False], [False, False, True]])
    on_top = np.array([[True, False, False], [False, False, False]])
    painted = masks.highlight(image, (where, (1, 2, 3)), (on_top, (9, 9, 9)))
    assert painted[0, 0].tolist() == [9, 9, 9] and painted[1, 2].tolist() == [1, 2, 3]
    assert (painted[~where] == 160).all()  # 110 + 100 / 2
    assert (image == 100).all()


def test_disagreement_leaves_unknown_pixels_out():
    first, second = np.array([[0, 1, 255, 1]], np.uint8), np.array([[0, 2, 1, 255]], np.uint8)
    assert masks.disagreement(first, second).tolist() == [[False, True, False, False]]


def test_thickened_pixels_are_squares_cut_off_at_the_edge():
    where = np.zeros((4, 5), bool)
    where[0, 0] = where[2, 3] = True
    wide = masks.thicken(where)
    assert wide.astype(int).tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert where.sum() == 2


def test_alpha_panels_are_the_scores():
    cam = np.array([[[0.0, 0.5]], [[0.2, 0.1]]], np.float32)
    panels = dict(masks.alpha_panels(cam, [2.0]))
    assert panels["strongest CAM"].tolist() == cam.max(0).tolist()
    assert np.array_equal(panels["background, alpha 2"], background_score(cam, 2))


class FakeExperiment:
    """Three images of 4 x 6 pixels with one, two and three classes; the last has no exact mask."""

    def __init__(self):
        labels = {"a": (1,), "b": (1, 2), "c": (1, 2, 3)}
        self.train_ids = list(labels)
        self.data = SimpleNamespace(
            labels=labels.get,
            has_mask=lambda i: i != "c",
            image=lambda i: np.zeros((4, 6, 3), np.uint8),
            mask=lambda i: np.ones((4, 6), np.uint8),
        )

    def pseudo_mask(self, method, image_id):
        return np.full((4, 6), len(method), np.uint8)

    def predict(self, name, image_id):
        return np.full((4, 6), 2, np.uint8)

    def cyclic_mask(self, teacher, image_id, filtered):
        return np.full((4, 6), int(filtered), np.uint8)


def test_examples_have_masks_and_two_classes():
    assert masks.pick_examples(FakeExperiment(), count=2) == ["b", "a"]
    assert masks.pick_examples(FakeExperiment(), count=9)[-1] == "c"


def test_panels_follow_the_experiment():
    experiment = FakeExperiment()
    rows = masks.compare_panels(experiment, {"crf": "joint CRF"}, ["a", "c"])
    assert [title for title, _ in rows] == ["scene", "joint CRF", "exact mask", "scene", "joint CRF"]
    predictions = training.prediction_panels(experiment, {"pus": "PUS"}, ["a"])
    assert [title for title, _ in predictions] == ["scene", "PUS", "exact mask"]
    free, filtered = (panel.max() for _, panel in masks.cyclic_panels(experiment, "pus", "ppmg", "a")[2:4])
    assert (free, filtered) == (0, 1)
    *_, (title, changed) = masks.change_panels(experiment, "crf", "ppmg", ["a"])
    assert title == "changed pixels" and (changed == masks.MARK_RGB).all()


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_ppmg_figure_draws_any_number_of_classes(classes):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    cam, ids = rng.random((classes, 12, 16), dtype=np.float32), list(range(1, classes + 1))
    steps = ppmg_steps(image, cam, ids, s=0.3, alpha=2, t=0.05, crf=CRFSettings(iterations=1))
    kept = cam.copy()
    assert to_png(masks.ppmg_figure(image, cam, ids, steps, (*NAMES, "dog"))).startswith(PNG)
    assert np.array_equal(cam, kept)


def test_sweep_figure_marks_and_ticks():
    sweep = {"method": "PPMG", "parameter": "alpha", "values": [1.0, 2.0, 4.0], "miou": [0.3, 0.5, 0.4]}
    figure = masks.sweep_figure([sweep], "scenes", {"alpha": 2.0, "alpha_crf": 2.0})
    axis = figure.axes[0]
    assert axis.get_xscale() == "log" and [t.get_text() for t in axis.get_xticklabels()] == ["1", "2", "4"]
    assert [text.get_text() for text in axis.texts] == ["alpha = alpha_crf"]
    assert np.allclose(axis.lines[0].get_ydata(), [30, 50, 40])


@pytest.mark.parametrize(
    "name, value, slope",
    [
        ("none", 2.25, 1),
        ("clamp, paper", 1, 1 / 2.25),
        ("clamp, official", 1, 0),
        ("pow", 1.5, 0.5 / 1.5),
        ("ignore", 0, 0),
    ],
)
def test_slopes_by_hand(name, value, slope):
    shape = losses.loss_shapes(kappa=1.0, power=0.5)[name]
    assert np.allclose(np.ravel(losses.value_and_slope(shape, np.array([2.25]))), [value, slope])


def test_doubted_pixels_by_hand():
    loss = np.array([[0.1, 2.0, 2.0, 2.0, 1.0, 0.1]])
    label = np.array([[1, 1, 1, 255, 1, 2]], np.uint8)
    truth = np.array([[1, 1, 2, 1, 255, 1]], np.uint8)
    split = losses.split_doubted(loss, label, truth, kappa=1.0)
    assert split.wrong.tolist() == [[False, False, True, False, False, False]]
    assert split.hard.tolist() == [[False, True, False, False, False, False]]
    sentence = losses.doubt_sentence([split])
    # 2 of 4 judged pixels are doubted, 1 of them wrong; 2 of 4 labels are wrong, 1 of them doubted
    assert "50.0% of the pixels" in sentence and "50% of all pixels" in sentence
    assert "does not point" in sentence and sentence.endswith("Doubt reaches 50% of all wrong labels.")


def test_doubt_without_anything_to_doubt():
    split = losses.split_doubted(np.zeros((1, 1)), np.ones((1, 1), np.uint8), np.ones((1, 1), np.uint8), 1.0)
    assert "nothing to compare" in losses.doubt_sentence([split])


def test_loss_figures_draw():
    assert to_png(losses.loss_shapes_figure(0.5, 0.5)).startswith(PNG)
    image, mask = np.zeros((8, 9, 3), np.uint8), np.ones((8, 9), np.uint8)
    loss = np.linspace(0, 2, 72).reshape(8, 9)
    split = losses.split_doubted(loss, mask, mask * 2, 1.0)
    figure = losses.doubted_figure(image, {"pseudo-mask": mask}, loss, split, 1.0, NAMES)
    assert to_png(figure).startswith(PNG)


LOG = {
    "epoch": [1, 2, 3, 4],
    "mean_loss": [1, 0.4, 0.2, 0.1],
    "gate_open": [0, 0, 0.5, 1],
    "over_kappa": [0.3, 0.2, 0.2, 0.1],
}


def test_gate_sentence_follows_the_log():
    assert "epoch 3" in training.gate_sentence(LOG) and "38% of all steps" in training.gate_sentence(LOG)
    assert "never opened" in training.gate_sentence({**LOG, "gate_open": [0, 0, 0, 0]})


def test_training_figure_has_a_gate_panel_only_with_a_gate():
    plain = {**LOG, "gate_open": [0, 0, 0, 0]}
    assert len(training.training_figure({"ce": plain, "pus": LOG}, beta=0.2).axes) == 2
    assert len(training.training_figure({"ce": plain}).axes) == 1


@pytest.mark.parametrize("last, word", [(0.55, "higher"), (0.45, "lower"), (0.5, "the same")])
def test_rounds_sentence_compares_first_and_last(last, word):
    section = {"rows": [["round 0", 0.5, 0.9], ["round 1", 0.1, 0.9], ["round 2", last, 0.9]]}
    assert word in training.rounds_sentence("models", section)
    assert "nothing to compare" in training.rounds_sentence("models", {"rows": section["rows"][:1]})


SCORES = {
    "plain <b>": {"miou": 0.4, "pixel_accuracy": 0.8, "iou": {"background": 0.8, "bird": float("nan")}},
    "exact": {"miou": 0.8, "pixel_accuracy": 0.9, "iou": {"background": 0.9, "bird": 0.7}},
}


def test_score_section_is_valid_json_with_the_share_of_the_bound():
    section = tables.score_section("title", "data", SCORES, bound="exact")
    assert section["rows"] == [["plain <b>", 0.4, 0.8, 0.5], ["exact", 0.8, 0.9, 1.0]]
    assert section["per_class"]["rows"] == [["background", 0.8, 0.9], ["bird", None, 0.7]]
    assert json.loads(json.dumps(section, allow_nan=False)) == section
    assert len(section["columns"]) == 4
    assert len(tables.score_section("title", "data", SCORES, bound="absent")["columns"]) == 3


def test_table_html_shows_per_cent_and_escapes():
    page = tables.table_html(tables.score_section("title", "data", SCORES, note="a < b"))
    assert "40.0 %" in page and "–" in page and "plain &lt;b&gt;" in page and "a &lt; b" in page
    assert "<summary>" in page


def test_summary_skips_repeated_rows(tmp_path):
    run = RunFolder(tmp_path)
    run.record_metrics("04", {"rows": [["ppmg", 0.5, 0.9]]})
    run.record_metrics("06", {"rows": [["round 0", 0.5, 0.9], ["round 1", 0.6, 0.9]]})
    section = tables.summary_section(run, {"04": ("masks", 0), "06": ("masks", 1), "09": ("none", 0)}, "scenes")
    assert section["rows"] == [["masks", "ppmg", 0.5], ["masks", "round 1", 0.6]]
