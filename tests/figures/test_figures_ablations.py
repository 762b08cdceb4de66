"""The figures of notebook 07 draw without touching their input, and mark what they say they mark."""

from types import SimpleNamespace

import numpy as np
import pytest

from pmm.figures import ablations as figures
from pmm.figures.style import to_png
from pmm.method.crf import CRFSettings
from pmm.run.params import Params
from pmm.studies.ablations import summarise
from pmm.studies.training_grids import pus_settings

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


def test_gains_are_those_of_the_named_losses():
    rows = [summarise(s, {0: 0.5 + 0.01 * ("clamp" in s.title), 1: 0.5}) for s in pus_settings()]
    figure = figures.gains_figure({"rows": rows}, ["clamp, paper, 0.3/1"])
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"clamp, paper, 0.3/1  [{masks}]" for masks in ("exact", "ppmg", "threshold", "noisy")]
    assert to_png(figures.gains_figure({"rows": rows})).startswith(PNG)


@pytest.mark.parametrize("options", [{}, {"log": True, "zero": True}])
def test_seeds_are_dots_around_their_mean(options):
    lines = {"weak": ([1, 2], [[1.0, 3.0], [2.0]]), "strong": ([1, 2], [[0.0], [1.0]])}
    figure = figures.seeds_figure({"a": lines, "b": lines}, "round", "mIoU in %", **options)
    assert figure.axes[0].get_lines()[0].get_ydata().tolist() == [2.0, 2.0]
    assert to_png(figure).startswith(PNG)


def test_the_story_changes_one_thing_at_a_time():
    cam = np.zeros((1, 12, 16), np.float32)
    cam[0, 3:8, 4:11] = np.linspace(0.3, 1, 7)
    image = np.round(200 * cam[0, ..., None].repeat(3, -1)).astype(np.uint8)
    experiment = SimpleNamespace(
        params=Params(),
        data=SimpleNamespace(image=lambda _: image, mask=lambda _: (cam[0] > 0).astype(np.uint8), has_mask=lambda _: 1),
        cam=lambda _: (np.array([1]), cam),
        crf_settings=lambda: CRFSettings(iterations=1, gauss_compat=0, bilateral_compat=0),
    )
    panels = dict(figures.story_panels(experiment, "a", alpha=4.0))
    assert list(panels)[3:6] == ["the run's\nmask", "the same,\ns = 0", "the same,\nalpha = 4"]
    own, without, larger = ((mask > 0).sum() for mask in list(panels.values())[3:6])
    assert without <= own < larger
