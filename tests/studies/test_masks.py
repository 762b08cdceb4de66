"""The grid of pseudo-masks, against a loop over the same images and by hand."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from test_sweeps import FakeExperiment, miou_by_loop

from pmm.method.crf import CRFSettings
from pmm.method.pseudo_mask import crf_pseudo_mask, ppmg, ppmg_steps, threshold_pseudo_mask
from pmm.run.folder import RunFolder
from pmm.run.params import Params
from pmm.studies import findings, masks
from pmm.studies.masks import MaskCell
from pmm.studies.records import Record, metrics_section

SHORT = {
    "ablation_scenes": 4,
    "ablation_s": [0.3],
    "ablation_alpha": [0.5, 2.0],
    "ablation_t": [0.2],
    "ablation_crf": [0.0, 1.0],
}


class GridExperiment(FakeExperiment):
    """The squares of the sweeps, with a run folder."""

    def __init__(self, folder, masked=True, truth=(), **changes):
        super().__init__(masked, workers=2)
        self.truth_marks = list(truth)
        self.params = Params(workers=2, **{**SHORT, **changes})
        self.run = RunFolder(folder)

    def cams(self):
        return SimpleNamespace(fingerprint="squares")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return GridExperiment(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def results(experiment):
    return masks.run_mask_grid(experiment)


def test_the_plan_has_each_cell_once_and_the_runs_own():
    params = Params(**SHORT)
    cells = masks.plan(params)
    assert len(cells) == len(set(cells)) == 4 + 3 + 1  # s x alpha, the new ones of t x variant, no CRF
    assert masks.own_cell(params) in cells and masks.axes(params)["s"] == [0.0, 0.3]


@pytest.mark.parametrize("cell", [MaskCell(0.0, 2.0, 0.05, "official", 1.0), MaskCell(0.3, 0.5, 0.2, "paper", 1.0)])
def test_a_cell_agrees_with_a_loop(experiment, results, cell):
    settings = {"s": cell.s, "alpha": cell.alpha, "t": cell.t, "variant": cell.variant}
    expected = miou_by_loop(experiment, lambda *a: ppmg(*a, **settings, crf=CRFSettings(iterations=3)))
    (found,) = masks.pick(results, **settings)
    assert found["miou"] == pytest.approx(expected)


def test_factor_zero_is_no_crf(experiment, results):
    p = experiment.params

    def mask(image, cam, ids):
        steps = ppmg_steps(image, cam, ids, s=p.s, alpha=p.alpha, t=p.t)
        return np.where((steps.smoothed > steps.background)[0] & (cam[0] > 0), ids[0], 0).astype(np.uint8)

    (found,) = masks.pick(results, crf_scale=0.0)
    assert found["miou"] == pytest.approx(miou_by_loop(experiment, mask), abs=1e-6)


def test_finished_cells_are_not_computed_again(experiment, results, monkeypatch):
    monkeypatch.setattr(masks, "ppmg", lambda *a, **k: pytest.fail("computed again"))
    again = masks.run_mask_grid(GridExperiment(experiment.run.path))
    assert again.cells == results.cells


def test_an_interrupted_grid_keeps_its_finished_cells(tmp_path, monkeypatch):
    calls = []

    def measure(experiment, cell, ids):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(cell)
        return {**vars(cell), "miou": 0.5, "iou": {}, "background": 0.5}

    monkeypatch.setattr(masks, "_measure", measure)
    with pytest.raises(KeyboardInterrupt):
        masks.run_mask_grid(GridExperiment(tmp_path))
    first = list(calls)
    monkeypatch.setattr(masks, "_measure", lambda e, cell, i: calls.append(cell) or {**vars(cell), "miou": 0.5})
    masks.run_mask_grid(GridExperiment(tmp_path))
    assert first == masks.plan(Params(**SHORT))[:2] and calls == masks.plan(Params(**SHORT))


def test_cells_evaluated_against_another_ground_truth_are_measured_anew(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(masks, "_measure", lambda e, cell, i: calls.append(cell) or {**vars(cell), "miou": 0.5})
    for truth in ((), ("corrected",), ("corrected",)):
        masks.run_mask_grid(GridExperiment(tmp_path, truth=truth))
    assert calls == 2 * masks.plan(Params(**SHORT))


def test_without_ground_truth_there_is_no_grid(tmp_path):
    assert masks.run_mask_grid(GridExperiment(tmp_path, masked=False)) is None


def test_eq_2_gives_less_background_for_a_larger_alpha(experiment):
    alphas = [0.5, 1.0, 4.0]
    shares = masks.background_shares(experiment, alphas)
    strongest = np.stack([experiment.cam(i)[1].max(0) for i in experiment.train_ids])
    assert shares == pytest.approx([((1 - strongest) ** a >= strongest).mean() for a in alphas], abs=1e-3)
    assert shares[0] > shares[1] > shares[2]


def test_tables_and_curves_hold_the_cells(results):
    s, alphas, values = masks.table(results, "s", "alpha")
    assert (s, alphas, values.shape) == ([0.0, 0.3], [0.5, 2.0], (2, 2)) and not np.isnan(values).any()
    curves = masks.curves(results, "alpha", "s")
    assert curves["s = 0"] == ([0.5, 2.0], pytest.approx(100 * values[0]))
    x, y = masks.curves(results, "crf_scale")["mIoU"]
    assert x == [0.0, 1.0] and y[1] == pytest.approx(100 * values[1, 0])
    names, columns, iou = masks.class_table(results, "s")
    assert names == ["background", "one", "two"] and columns == [0.0, 0.3] and iou.shape == (3, 2)
    section = metrics_section(results, "this run")
    assert len(section["rows"]) == len(results.cells) and len(section["rows"][0]) == len(section["columns"])


def by_hand(values):
    """A grid with chosen mIoU: (s, alpha, t, variant, crf) -> mIoU."""
    cells = [
        {**dict(zip(masks.AXES, key, strict=True)), "miou": m, "iou": {"sea": m, "land": 0.5}, "background": 1 - m}
        for key, m in values.items()
    ]
    params = Params(s=0.3, alpha=1.0, t=0.05).model_dump()
    return Record({"params": params}, cells)


def test_sentences_follow_the_numbers():
    grid = by_hand(
        {
            (0.0, 1.0, 0.05, "official", 1.0): 0.50,
            (0.0, 2.0, 0.05, "official", 1.0): 0.70,
            (0.3, 1.0, 0.05, "official", 1.0): 0.60,
            (0.3, 2.0, 0.05, "official", 1.0): 0.40,
            (0.3, 1.0, 0.05, "paper", 1.0): 0.62,
            (0.3, 1.0, 0.2, "official", 1.0): 0.55,
            (0.3, 1.0, 0.2, "paper", 1.0): 0.64,
            (0.3, 1.0, 0.05, "official", 0.0): 0.45,
        }
    )
    said = findings.smoothing_sentence(grid)
    assert "at 1 of 2 values of alpha (+10.0 points" in said and "s = 0, alpha = 2 with 70.0%" in said
    assert "1 of 2 classes: most for sea (+10.0 points), least for land (+0.0 points)" in findings.class_sentence(grid)
    said = findings.threshold_sentence(grid)
    assert "5.0 points in the variant official, highest at t = 0.05" in said
    assert "2.0 points in the variant paper, highest at t = 0.2" in said
    said = findings.variant_sentence(grid)
    assert "-2.0 points at the run's t" in said and "-9.0 points at t = 0.2" in said
    assert "+15.0 points against none; of the strengths tried the factor 1" in findings.crf_sentence(grid)
    said = findings.background_sentence([1.0, 2.0], [0.8, 0.7], grid)
    assert "80% and then 70%" in said and "40% at alpha = 1 and 60% at 2" in said


@pytest.mark.parametrize("method", ["threshold", "crf", "ppmg_s0", "ppmg"])
def test_one_image_in_four_chooses_and_the_others_judge(experiment, method):
    found = masks.chosen_and_judged(experiment, method)
    setting = {name: found[name] for name in ("threshold", "s", "alpha")}
    given = {name: value for name, value in setting.items() if value is not None}
    assert given in masks.methods(experiment.params)[method]
    if method == "threshold":
        make = partial(threshold_pseudo_mask_of, **given)
    elif method == "crf":
        make = partial(crf_pseudo_mask, **given, crf=experiment.crf_settings(joint=True))
    else:
        make = partial(ppmg, **given, t=0.05, crf=experiment.crf_settings())
    for ids, score in ((experiment.judge_ids[:1], "chosen_miou"), (experiment.judge_ids[1:], "miou")):
        part = SimpleNamespace(data=experiment.data, cam=experiment.cam, train_ids=ids)
        assert found[score] == pytest.approx(miou_by_loop(part, make), abs=1e-4)


def test_every_way_is_tried_with_the_released_weights_and_the_runs(experiment):
    found = masks.ways(Params(crf_gauss_compat=5.0))
    assert found[0] == ("threshold", None) and len(found) == len(set(found)) == 1 + 3 * 3
    assert {weight for _, weight in found[1:]} == {3, 5, 10}
    for method, own in (("crf", experiment.crf_settings(joint=True)), ("ppmg", experiment.crf_settings())):
        for weight, expected in ((None, own), (7.0, replace(own, gauss_compat=7.0))):
            assert masks._maker(experiment, method, [{"alpha": 1.0}], weight).args[1] == expected


def threshold_pseudo_mask_of(image, cam, ids, threshold):
    return threshold_pseudo_mask(cam, ids, threshold)
