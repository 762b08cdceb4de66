"""The figures of notebook 07 draw without touching their input, and mark what they say they mark."""

from types import SimpleNamespace

import numpy as np
import pytest

from pmm.figures import studies as figures
from pmm.figures.style import to_png
from pmm.method.crf import CRFSettings
from pmm.run.params import Params
from pmm.studies.records import Record, load_record
from pmm.studies.trainings import SETTINGS, loss_settings

PNG = b"\x89PNG"
TABLE = ([0.0, 0.3], [0.5, 1.0, 2.0], np.array([[0.4, 0.5, np.nan], [0.2, 0.6, 0.3]]))


def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_heat_maps_write_every_number_and_mark_the_run():
    figure = figures.heat_maps({"one": TABLE, "two": TABLE}, "s", "alpha", own=(0.3, 1.0))
    first = figure.axes[0]
    assert texts(first) == ["40.0", "50.0", "20.0", "60.0", "30.0"]
    (frame,) = first.patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((0.5, 0.5), 1, 1)
    assert to_png(figure).startswith(PNG)


def test_heat_maps_of_gains_are_white_at_zero_and_show_signs():
    gains = ([0.1], [1, 2, 3], np.array([[0.02, -0.0001, -0.01]]))
    axis = figures.heat_maps({"gains": gains}, "beta", "kappa", signed=True).axes[0]
    assert [text.get_text() for text in axis.texts] == ["+2.0", "+0.0", "-1.0"]
    blue, white, red = axis.images[0].get_array()[0, :, :3]
    assert blue[2] > blue[0] and red[0] > red[2] and white.min() > 0.95


def test_heat_maps_mark_a_column_or_nothing():
    (frame,) = figures.heat_maps({"one": TABLE}, "class", "s", own=(None, 0.5)).axes[0].patches
    assert (frame.get_xy(), frame.get_height()) == ((-0.5, -0.5), 2)
    assert not figures.heat_maps({"one": TABLE}, "s", "alpha", own=(9.0, 0.5)).axes[0].patches
    same = (["a"], [1.0], np.array([[0.5]]))
    assert to_png(figures.heat_maps({"one value": same}, "s", "alpha")).startswith(PNG)


@pytest.mark.parametrize("options", [{"own": 0.5, "log": True}, {"own": 1.0, "even": True}, {"own": 9.0, "even": True}])
def test_lines_have_one_style_a_name_in_all_panels(options):
    grids = {"few": {"s = 0": ([0.5, 1.0], [40.0, 50.0])}}
    grids["many"] = {"s = 0": ([0.5, 1.0], [41.0, 51.0]), "s = 0.3": ([0.5, 1.0], [45.0, 46.0])}
    figure = figures.lines_figure(grids, "alpha", "mIoU in %", **options)
    few, many = figure.axes
    assert few.get_lines()[0].get_color() == many.get_lines()[0].get_color() != many.get_lines()[1].get_color()
    assert to_png(figure).startswith(PNG)


def scored(settings, scores):
    cells = [
        {"masks": s.masks, "title": s.title, "pus": s.pus, "seed": seed, "miou": miou}
        for s in settings
        for seed, miou in enumerate(scores(s))
    ]
    return Record({"params": Params().model_dump()}, cells)


def test_of_few_losses_all_gains_are_drawn_and_of_many_those_that_all_masks_have():
    def labels(settings):
        """Read the lines of the chart."""
        figure = figures.gains_figure(scored(settings, lambda s: (0.5 + 0.01 * (s.pus == "clamp"), 0.5)))
        assert to_png(figure).startswith(PNG)
        return [label.get_text() for label in figure.axes[0].get_yticklabels()]

    few = [s for s in loss_settings() if s.masks == "ppmg"]
    assert labels(few) == [f"{s.title}  [ppmg]" for s in few if s.pus != "none"]
    assert labels(loss_settings()) == [
        f"{title}  [{masks}]"
        for masks in ("ground truth", "ppmg", "threshold", "noisy")
        for title in ("clamp, paper, 0.3/1", "ignore, paper, 0.3/1", "pow, 0.3/0.5")
    ]


def test_losses_have_a_line_a_setting():
    record = scored(SETTINGS, lambda _: (0.5, 0.6))
    figure = figures.losses_figure(record, {"PUS": 0.55})
    assert len(figure.axes[0].get_yticks()) == len(SETTINGS) + 1


@pytest.mark.parametrize("options", [{"even": True, "share": False}, {"log": True, "zero": True}])
def test_seeds_are_dots_around_their_mean(options):
    lines = {"weak": ([1, 2], [[1.0, 3.0], [2.0]]), "strong": ([1, 2], [[0.0], [1.0]])}
    figure = figures.lines_figure({"a": lines, "b": lines}, "round", "mIoU in %", **options)
    assert figure.axes[0].get_lines()[0].get_ydata().tolist() == [2.0, 2.0]
    assert to_png(figure).startswith(PNG)


def test_the_story_changes_one_thing_at_a_time(monkeypatch):
    cam = np.zeros((1, 12, 16), np.float32)
    cam[0, 3:8, 4:11] = np.linspace(0.3, 1, 7)
    image = np.round(200 * cam[0, ..., None].repeat(3, -1)).astype(np.uint8)
    experiment = SimpleNamespace(
        params=Params(),
        data=SimpleNamespace(image=lambda _: image, mask=lambda _: (cam[0] > 0).astype(np.uint8), has_mask=lambda _: 1),
        cam=lambda _: (np.array([1]), cam),
        crf_settings=lambda: CRFSettings(iterations=1, gauss_compat=0, bilateral_compat=0),
    )
    experiment.data.class_names = ("background", "cat")
    drawn = {}
    monkeypatch.setattr(figures, "image_row", lambda panels, *a, **k: drawn.update(panels) or figures.new_figure()[0])
    assert "ground truth" in figures.story(experiment, "a", alpha=4.0).alt
    panels = drawn
    assert list(panels)[3:6] == ["the run's\nmask", "the same,\ns = 0", "the same,\nalpha = 4"]
    own, without, larger = ((mask > 0).sum() for mask in list(panels.values())[3:6])
    assert without <= own < larger


def test_every_study_is_drawn_with_caption_and_alternative_text():
    grid, losses = load_record("mask_ablations"), load_record("training_ablations")
    found = {"this run": grid, "long grid": grid}
    drawn = [
        *(draw(found) for draw in (figures.s_alpha_maps, figures.s_alpha_curves)),
        *(draw(found) for draw in (figures.threshold_curves, figures.crf_curves)),
        figures.class_map("long grid", grid),
        figures.augment_curves(load_record("augment_ablations")),
        figures.round_curves(load_record("cyclic_ablations")),
        *(figures.losses_figure(losses), figures.gains_figure(losses), figures.beta_kappa_maps(losses)),
    ]
    for figure in drawn:
        assert to_png(figure).startswith(PNG) and len(figure.caption) > 20 and len(figure.alt) > 20
    assert figures.beta_kappa_maps(load_record("voc2012_animals_training_ablations")) is None
