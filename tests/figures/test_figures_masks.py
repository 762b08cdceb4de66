"""What the figures of notebooks 04-06 compute, and that they draw without touching their input."""

import inspect
import json
from types import SimpleNamespace

import numpy as np
import pytest
from bs4 import BeautifulSoup

from pmm.figures import masks, tables, training
from pmm.figures.style import mask_to_rgb, to_png
from pmm.method.crf import CRFSettings
from pmm.method.pseudo_mask import background_score, ppmg, ppmg_steps
from pmm.method.smoothing import coefficient_of_variation
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


class FakeExperiment:
    """Three images of 4 x 6 pixels with one, two and three classes; the last has no ground truth."""

    def __init__(self):
        labels = {"a": (1,), "b": (1, 2), "c": (1, 2, 3)}
        self.train_ids, self.judge_ids = list(labels), ["a", "b"]
        self.params = SimpleNamespace(s=0.3, t=0.05, alpha=1.0, variant="paper")
        self.data = SimpleNamespace(
            class_names=tuple("abcdefgh"),
            labels=labels.get,
            has_mask=lambda i: i != "c",
            image=lambda i: np.zeros((4, 6, 3), np.uint8),
            mask=lambda i: np.ones((4, 6), np.uint8),
        )

    def pseudo_mask(self, method, image_id):
        return np.full((4, 6), len(method), np.uint8)

    def cam(self, image_id):
        return [1, 2], np.linspace(0, 1, 48, dtype=np.float32).reshape(2, 4, 6)

    def crf_settings(self):
        return CRFSettings(iterations=1)

    def predict(self, name, image_id):
        return np.full((4, 6), 2, np.uint8)

    def cyclic_mask(self, teacher, image_id, filtered):
        return np.full((4, 6), int(filtered), np.uint8)


def test_examples_have_masks_and_two_classes():
    assert masks.pick_examples(FakeExperiment(), count=2) == ["b", "a"]
    assert masks.pick_examples(FakeExperiment(), count=9)[-1] == "c"
    judged = FakeExperiment()
    judged.judge_ids = ["a"]
    assert masks.pick_examples(judged, count=9) == ["a", "b", "c"]


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def drawn(figure):
    return [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]


def test_rows_follow_the_experiment():
    experiment = FakeExperiment()
    rows = masks.methods_figure(experiment, {"crf": "joint CRF"}, ["a", "c"])
    assert titles(rows) == ["image", "joint CRF", "ground truth", "image", "joint CRF", ""]
    assert np.array_equal(drawn(rows)[1], mask_to_rgb(experiment.pseudo_mask("crf", "a")))
    predictions = training.predictions_figure(experiment, {"pus": "PUS", "ce": "CE"}, ["a", "b"])
    assert titles(predictions) == ["image", "PUS", "CE", "ground truth"] * 2
    assert np.array_equal(drawn(predictions)[1], mask_to_rgb(experiment.predict("pus", "a")))
    free, filtered = drawn(masks.cyclic_figure(experiment, "pus", "ppmg", ["a"]))[2:4]
    assert (free == mask_to_rgb(np.array(0))).all() and (filtered == mask_to_rgb(np.array(1))).all()
    changes = masks.changes_figure(experiment, "crf", "ppmg", ["a"])
    assert titles(changes)[-1] == "changed pixels" and (drawn(changes)[-1] == masks.MARK_RGB).all()


def test_the_story_names_the_labels_and_ends_with_the_ground_truth():
    figure = masks.story_figure(FakeExperiment(), "b", "pus")
    assert [title.split("\n")[0] for title in titles(figure)] == [
        "label: b,", "CAM,", "smoothed,", "pseudo-mask,", "segmentation", "ground truth,",
    ]  # fmt: skip
    assert titles(figure)[0] == "label: b,\nc" and len(titles(masks.story_figure(FakeExperiment(), "c", "pus"))) == 5


def test_variants_are_drawn_with_the_pixels_that_differ():
    experiment = FakeExperiment()
    pair = masks.variant_masks(experiment, "a")
    assert list(pair) == ["variant: official", "variant: paper"]
    one, other = np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8)
    other[0, 0] = 1
    figure = masks.variants_figure(experiment.data, "a", {"one": one, "other": other})
    assert figure.alt.endswith("1 of 24 pixels differ.") and titles(figure)[-1] == "pixels that differ"
    assert (drawn(figure)[-1] == masks.MARK_RGB).all(axis=-1).sum() == 4  # cut off at the corner


def test_background_figure_draws_the_scores():
    cam = np.array([[[0.0, 0.5]], [[0.2, 0.1]]], np.float32)
    figure = masks.background_figure(np.zeros((1, 2, 3), np.uint8), cam, [2.0])
    assert titles(figure)[:3] == ["image", "strongest CAM", "background, alpha 2"]
    assert drawn(figure)[1].tolist() == cam.max(0).tolist()
    assert np.array_equal(drawn(figure)[2], background_score(cam, 2))


def test_each_setting_of_the_crf_is_drawn_at_its_values():
    experiment, rng = FakeExperiment(), np.random.default_rng(0)
    image, cam = rng.integers(0, 40, (12, 16, 3), dtype=np.uint8), rng.random((2, 12, 16), dtype=np.float32)
    experiment.data.image, experiment.cam = lambda i: image, lambda i: ([1, 2], cam)

    def mask(**changed):
        crf = CRFSettings(**{"iterations": 1, **changed})
        return ppmg(image, cam, [1, 2], s=0.3, alpha=1.0, t=0.05, variant="paper", crf=crf)

    values = {"gauss_compat": (0, 30), "gauss_sxy": (1, 9)}
    figure = masks.crf_settings_figure(experiment, "a", values)
    made = [mask(gauss_compat=0, bilateral_compat=0), mask()]
    made += [mask(**{name: value}) for name, pair in values.items() for value in pair]
    assert len({each.tobytes() for each in made}) > 2
    for place, each in zip([1, 2, 4, 5, 6, 7], made, strict=True):
        assert np.array_equal(drawn(figure)[place], mask_to_rgb(each, experiment.data.class_names))
    assert titles(figure)[3] == "ground truth"
    assert titles(figure)[5] == f"gauss_compat 30\ninstead of 10: {(made[3] > 0).mean():.0%}".replace("%", " %")
    assert titles(masks.crf_settings_figure(experiment, "c", values))[3] == ""  # no ground truth


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_ppmg_figure_draws_any_number_of_classes(classes):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    cam, ids = rng.random((classes, 12, 16), dtype=np.float32), list(range(1, classes + 1))
    steps = ppmg_steps(image, cam, ids, s=0.3, alpha=2, t=0.05, crf=CRFSettings(iterations=1))
    kept = cam.copy()
    figure = masks.ppmg_figure(image, cam, ids, steps, (*NAMES, "dog"))
    assert to_png(figure).startswith(PNG) and figure.alt.startswith("Rows for bird, c_v = ") and "\n" not in figure.alt
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
    shape = training.loss_shapes(kappa=1.0, power=0.5)[name]
    assert np.allclose(np.ravel(training.value_and_slope(shape, np.array([2.25]))), [value, slope])


def test_doubted_pixels_by_hand():
    loss = np.array([[0.1, 2.0, 2.0, 2.0, 1.0, 0.1]])
    label = np.array([[1, 1, 1, 255, 1, 2]], np.uint8)
    truth = np.array([[1, 1, 2, 1, 255, 1]], np.uint8)
    split = training.split_doubted(loss, label, truth, kappa=1.0)
    assert split.wrong.tolist() == [[False, False, True, False, False, False]]
    assert split.hard.tolist() == [[False, True, False, False, False, False]]
    # 2 of 4 evaluated pixels are doubted, 1 of them wrong; 2 of 4 labels are wrong, 1 of them doubted
    assert training.doubt_shares([split]) == [0.5, 0.5, 0.5, 0.5]


def test_a_table_of_doubt_says_the_same_of_every_model():
    split = training.Doubted(*np.array([[[1, 1, 1, 0]], [[1, 1, 0, 0]], [[1, 0, 0, 0]]], bool))
    section = training.doubt_section({"early": [split, split], "late": []}, "fake", 0.5)
    assert section["rows"][0] == ["early", pytest.approx(2 / 3), 0.5, pytest.approx(1 / 3), 1.0]
    nothing = training.split_doubted(np.zeros((1, 1)), np.ones((1, 1), np.uint8), np.ones((1, 1), np.uint8), 1.0)
    assert training.doubt_shares([nothing]) == [0.0, None, 0.0, None]  # none is doubted, none is wrong
    assert section["rows"][1] == ["late", None, None, None, None]
    assert "0.5 or more" in section["note"] and len(section["columns"]) == 5


def test_loss_figures_draw():
    assert to_png(training.loss_shapes_figure(0.5, 0.5)).startswith(PNG)
    image, mask = np.zeros((8, 9, 3), np.uint8), np.ones((8, 9), np.uint8)
    loss = np.linspace(0, 2, 72).reshape(8, 9)
    split = training.split_doubted(loss, mask, mask * 2, 1.0)
    figure = training.doubted_figure(image, {"pseudo-mask": mask}, loss, split, 1.0, NAMES)
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
    assert section["per_class"]["note"] == "Sorted by the first score."
    assert json.loads(json.dumps(section, allow_nan=False)) == section
    assert len(section["columns"]) == 4
    assert len(tables.score_section("title", "data", SCORES, bound="absent")["columns"]) == 3


def test_a_score_with_a_crf_stands_beside_the_one_without():
    first, *others = SCORES
    refined = {**SCORES, first: {**SCORES[first], "with_crf": {**SCORES[first], "miou": 0.625}}}
    section = tables.score_section("title", "data", refined)
    assert section["columns"] == ["method", "mIoU", "pixel accuracy", "mIoU with CRF"]
    assert [row[3] for row in section["rows"]] == [0.625] + [None] * len(others)


def test_classes_that_do_not_occur_are_counted_and_the_others_sorted():
    iou = {"background": 0.2, "cat": float("nan"), "cow": 0.3, "boat": float("nan"), "dog": 0.9}
    section = tables.score_section("title", "data", {"a": {"miou": 0.4, "pixel_accuracy": 0.8, "iou": iou}})
    assert [row[0] for row in section["per_class"]["rows"]] == ["background", "dog", "cow"]
    assert section["per_class"]["note"] == "Sorted by the first score; 2 of 5 neither occur nor are predicted."
    assert "2 of 5 neither occur" in tables.table_html(section)


def test_a_table_without_rows_says_why():
    page = tables.table_html(tables.score_section("title", "data", {}))
    assert tables.NOTHING in page and "<table>" not in page


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


def test_a_source_is_the_packages_own_and_folded(monkeypatch):
    page = BeautifulSoup(tables.source_html(coefficient_of_variation), "html.parser")
    assert page.summary.text == "pmm.method.smoothing.coefficient_of_variation (eq. 5)"
    assert page.pre.text.startswith(inspect.getsource(coefficient_of_variation)) and page.details.get("open") is None


def test_a_source_brings_the_private_functions_that_it_calls():
    assert "values.std() / values.mean()" in tables.source_of(coefficient_of_variation)  # in _channel_variation
    assert tables.source_of(background_score).count("\ndef ") == 1  # _check_alpha


def test_sources_are_shown_in_order(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, **options: shown.append(bundle))
    tables.show_source(background_score, ppmg_steps)
    assert shown[0]["text/html"].count("<details>") == 2 and "def ppmg_steps(" in shown[0]["text/plain"]
