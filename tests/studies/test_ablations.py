"""The grid of settings and seeds, its summary and its file, with a stand-in for the experiment."""

import json
from types import SimpleNamespace

import pytest

from pmm.errors import InputError
from pmm.run.params import Params
from pmm.studies.ablations import (
    SETTINGS,
    Setting,
    check_results,
    differences,
    findings,
    load_results,
    metrics_section,
    origin,
    run_grid,
    summarise,
    verdict,
    write_results,
)

PLAIN = Setting("ce", "cross-entropy", "ppmg", {"pus": "none"})
CLAMP = Setting("clamp", "clamp, 0.2/1", "ppmg", {"pus": "clamp", "beta": 0.2, "kappa": 1.0})


class FakeExperiment:
    """Scores 0.50 + 0.01 * seed, and 0.03 more for a clamp; remembers what it was asked for."""

    def __init__(self, seeds=(0, 1, 2)):
        self.params = Params(ablation_seeds=list(seeds))
        self.calls = []

    def segmenter(self, name, masks, **changes):
        self.calls.append((name, masks, changes))
        miou = 0.5 + 0.01 * changes["seed"] + 0.03 * (changes["pus"] == "clamp")
        return SimpleNamespace(facts={"val": {"miou": miou}})


@pytest.fixture
def results():
    return run_grid(FakeExperiment(), [PLAIN, CLAMP])


def test_every_cell_is_one_named_training():
    experiment = FakeExperiment(seeds=(0, 7))
    run_grid(experiment, [CLAMP])
    changes = {"pus": "clamp", "beta": 0.2, "kappa": 1.0}
    assert experiment.calls == [
        ("ablation/clamp/seed0", "ppmg", {**changes, "seed": 0}),
        ("ablation/clamp/seed7", "ppmg", {**changes, "seed": 7}),
    ]


def test_summary_by_hand():
    row = summarise(PLAIN, {0: 0.50, 1: 0.51, 2: 0.52})
    assert (row["mean"], row["spread"], row["seeds"]) == (0.51, 0.01, [0, 1, 2])
    assert summarise(PLAIN, {4: 0.5})["spread"] is None


def test_no_seed_and_shared_names_are_refused():
    with pytest.raises(InputError, match="ablation_seeds"):
        run_grid(FakeExperiment(seeds=()), [PLAIN])
    with pytest.raises(InputError, match="share a name"):
        run_grid(FakeExperiment(), [PLAIN, PLAIN])


def test_committed_settings_are_valid_parameters():
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)
    for setting in SETTINGS:
        Params(**setting.changes)
    for masks in {setting.masks for setting in SETTINGS}:
        assert any(s.masks == masks and s.title == "cross-entropy" for s in SETTINGS)


def test_write_and_load_agree(results, tmp_path):
    path = write_results(results, tmp_path / "results" / "pus.json")
    assert load_results(path) == json.loads(path.read_text()) == json.loads(json.dumps(results))
    assert [p.name for p in path.parent.iterdir()] == ["pus.json"]


def test_absent_file_is_none(tmp_path):
    assert load_results(tmp_path / "pus.json") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"manifest": {}, "settings": [], "rows": [1]}', "{"])
def test_broken_file_is_one_line(text, tmp_path):
    path = tmp_path / "pus.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"pus\.json") as caught:
        load_results(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"miou": [0.5]},
        {"miou": [0.5, 0.5, 50.0]},
        {"mean": float("nan")},
        {"miou": "0.5"},
        {"miou": [None] * 3},
    ],
)
def test_rows_out_of_range_are_refused(results, change):
    results["rows"][0] |= change
    with pytest.raises(InputError, match="row 1"):
        check_results(results, "here")


def test_difference_is_taken_seed_by_seed(results):
    (gain,) = differences(results)
    assert gain["setting"] == "clamp" and gain["seeds"] == 3 and gain["better"] == 3
    assert gain["mean"] == pytest.approx(0.03)
    assert gain["spread"] == pytest.approx(0, abs=1e-9)


def test_difference_stays_within_the_same_masks(results):
    results["rows"][1]["masks"] = "threshold"
    assert differences(results) == []


@pytest.mark.parametrize(
    "mean, spread, better, words",
    [
        (0.03, 0.01, 3, "gains"),
        (-0.03, 0.01, 0, "loses"),
        (0.01, 0.02, 3, "within"),
        (0.03, 0.02, 2, "within"),
        (0.03, None, 1, "one seed"),
        (-0.00004, 0.00003, 0, "makes no difference"),  # PUS with a gate that never opens is cross-entropy
        (0.0, 0.0, 0, "makes no difference"),
    ],
)
def test_verdict(mean, spread, better, words):
    seeds = 1 if spread is None else 3
    assert verdict({"mean": mean, "spread": spread, "better": better, "seeds": seeds}).startswith(words)


def test_findings_and_section_follow_the_numbers(results):
    (sentence,) = findings(results)
    assert "+3.0 points" in sentence and "3 of 3" in sentence and sentence.endswith("gains.")
    assert "3 seeds" in origin(results) and "absent" in origin(None)
    section = metrics_section(results)
    assert section["rows"][1] == ["ppmg", "clamp, 0.2/1", 0.54, 0.01, 3]
    assert len(section["columns"]) == len(section["rows"][0])
