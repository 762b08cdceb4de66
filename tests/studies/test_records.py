"""The record of a study: its file, the store of finished cells, the comparison of two settings."""

import json
from types import SimpleNamespace

import pytest

from pmm.errors import InputError
from pmm.run.params import Params
from pmm.studies import records
from pmm.studies.records import Difference, Record, compare, load_record, select, stored_cell, summarise, write_record

CELL = {"filtered": True, "seed": 0, "round": 1, "masks_miou": 0.5, "model_miou": None}
SCORES = {"masks_miou": 0.5, "model_miou": None}
EXPERIMENT = SimpleNamespace(
    params=Params(), data=SimpleNamespace(name="scenes"), train_ids=["a", "b"], inputs_mark="photographs"
)
JUDGED = SimpleNamespace(**{**vars(EXPERIMENT), "params": Params(train_split="train_aug", judge_split="exact")})
MADE = records.manifest(EXPERIMENT, "cyclic", "val", 3, [0], "models", crf=False)


@pytest.fixture
def record():
    return records.gather(MADE, [({}, lambda: [dict(CELL)])])


def test_a_finished_cell_is_found_again_and_only_by_the_same_key(tmp_path):
    path = tmp_path / "cells.json"

    def stored(key, scores=None):
        return stored_cell(path, key, lambda: scores or pytest.fail("measured again"))

    assert stored({"s": 0.3}, {"miou": 0.5, "iou": {"cat": float("nan")}}) == {"miou": 0.5, "iou": {"cat": None}}
    assert stored({"s": 0.6}, {"miou": 0.4}) == {"miou": 0.4}
    assert stored({"s": 0.3})["miou"] == 0.5 and stored({"s": 0.6})["miou"] == 0.4
    assert stored({"s": 0.3, "t": 0}, {"miou": 0.1})["miou"] == 0.1
    assert [path.name for path in tmp_path.iterdir()] == ["cells.json"]


def test_write_and_load_agree(record, tmp_path):
    path = write_record(record, tmp_path / "results" / "rounds.json")
    assert load_record(path) == record
    assert json.loads(path.read_text()) == {"manifest": record.manifest, "cells": record.cells}
    assert [p.name for p in path.parent.iterdir()] == ["rounds.json"]


def test_the_manifest_says_how_the_study_was_made(record):
    assert record.manifest["params"] == Params().model_dump() and record.manifest["environment"]["python"]
    said = {key: record.manifest[key] for key in ("study", "dataset", "split", "images", "seeds", "crf")}
    assert said == {"study": "cyclic", "dataset": "scenes", "split": "val", "images": 3, "seeds": [0], "crf": False}


def test_cells_land_in_the_file_one_by_one(tmp_path):
    path = tmp_path / "rounds.json"

    def units():
        for number in range(3):
            assert (len(load_record(path).cells) if number else 0) == number
            yield {**CELL, "round": number}, lambda: [SCORES]

    assert records.gather(MADE, units(), path) == load_record(path)


def test_a_study_begun_elsewhere_goes_on_where_its_file_is_laid(tmp_path, capsys):
    path, measured, told = tmp_path / "rounds.json", [], {"filtered": True, "seed": 0}

    def units(*rounds):
        for number in rounds:
            yield {**told, "round": number}, lambda number=number: [measured.append(number) or SCORES]

    elsewhere = {**MADE, "params": {**MADE["params"], "data_dir": "VOC2012", "run_name": "a", "ablation_seeds": [0]}}
    del elsewhere["params"]["cam_dir"]  # a record from before this parameter
    records.gather(elsewhere, units(0, 1), path)
    assert not capsys.readouterr().out
    found = records.gather(MADE, units(0, 1, 2), path)
    assert measured == [0, 1, 2] and [cell["round"] for cell in found.cells] == [0, 1, 2]
    assert capsys.readouterr().out.startswith("rounds.json: holds 2 finished cells")
    other_params, other_version = {**MADE["params"], "seg_epochs": 9}, {"pmm": "0"}
    for other in ({"images": 4}, {"inputs": "x"}, {"params": other_params}, {"environment": other_version}):
        write_record(found, path)
        records.gather({**MADE, **other}, units(0), path)
    assert measured == [0, 1, 2, 0, 0, 0, 0]


def test_the_manifest_does_not_say_where_the_data_lie():
    at_home = SimpleNamespace(**{**vars(EXPERIMENT), "params": Params(dataset="voc", data_dir="/home/me/VOC2012")})
    assert records.manifest(at_home, "cyclic", "val", 3, [0], "models", crf=False)["params"]["data_dir"] == "VOC2012"


def test_absent_is_none_and_said_in_one_line(tmp_path):
    assert load_record(tmp_path / "rounds.json") is None and load_record("no_such_study") is None
    assert records.origin(None, "rounds").count("\n") == 0 and "no rounds of" in records.origin(None, "rounds")


def test_origin_names_the_data(record):
    said = "scenes, 3 images of split val, 2 training images, seed 0, models, CRF: no."
    assert records.origin(record, "rounds") == f"this run: {said}"


def test_a_study_is_found_by_the_data_it_was_measured_on(record, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "project_root", lambda: tmp_path)
    write_record(record, tmp_path / "results" / "rounds.json")
    photographs = Record({**record.manifest, "dataset": "photographs"}, record.cells)
    write_record(photographs, tmp_path / "results" / "animals_rounds.json")
    others = SimpleNamespace(params=Params(dataset="voc", data_dir="x"), data=SimpleNamespace(name="photographs"))
    assert records.find_record("rounds", EXPERIMENT).source == "results/rounds.json"
    others.train_ids = ["a", "b"]
    assert "results/animals_rounds.json: photographs" in records.origin(records.find_record("rounds", others), "rounds")
    others.train_ids = ["a", "b", "c"]  # other images of the same name
    assert records.find_record("rounds", others) is None
    assert records.find_record("losses", EXPERIMENT) is None


MANIFEST = '"manifest": {"study": "cyclic", "params": {}}'


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "{}", f'{{{MANIFEST}, "cells": []}}', f'{{{MANIFEST}, "cells": [{{}}]}}',
     f'{{{MANIFEST}, "cells": [1]}}', '{"manifest": {"study": "cyclic"}, "cells": [{}]}'],
)  # fmt: skip
def test_a_broken_file_is_one_line_with_its_name(text, tmp_path):
    (tmp_path / "rounds.json").write_text(text)
    with pytest.raises(InputError, match=r"rounds\.json") as error:
        load_record(tmp_path / "rounds.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [50.0, "0.5", float("nan"), [0.5]])
def test_scores_out_of_range_are_refused(record, tmp_path, value):
    record.cells[0]["masks_miou"] = value
    with pytest.raises(InputError, match="cell 1: masks_miou"):
        write_record(record, tmp_path / "rounds.json")


def test_unknown_studies_and_missing_seeds_are_refused(record):
    with pytest.raises(InputError, match="choose one of"):
        records.check_record({"manifest": {**record.manifest, "study": "other"}, "cells": record.cells}, "here")
    with pytest.raises(InputError, match="ablation_seeds"):
        records.seeds_of(SimpleNamespace(params=Params()))


def test_every_committed_file_is_a_record_with_its_data():
    folder = records.project_root() / "results"
    names = [path.stem for path in folder.glob("*_ablations.json")]
    scenes = [name for name in names if load_record(name).manifest["dataset"] == "sample scenes"]
    assert len(scenes) == 4
    for name in names:
        record = load_record(name)
        assert name not in scenes or record.manifest["images"] in (80, 240)
        seeds = {cell["seed"] for cell in record.cells if "seed" in cell}
        origin, gpu = records.origin(record, name), record.manifest["environment"]["gpu"]
        assert seeds <= set(record.manifest["seeds"]) and "None" not in origin
        assert origin.endswith(f"on an {gpu}." if gpu else ("CRF: yes.", "CRF: no."))


def test_section_spells_settings_and_keeps_shares(record):
    made = records.metrics_section(record, "here")
    assert made["rows"] == [["yes", "0", "1", 0.5, None]] and made["title"] == "Cyclic rounds: here"
    assert made["columns"] == ["filtered", "seed", "round", "masks, train", "model, val"]
    assert records._spelled("masks", "ground_truth") == "ground truth" and records._spelled("c_v", None) == "–"


def cells(*scores):
    return [{"seed": seed, "miou": miou, "s": 0.3} for seed, miou in enumerate(scores)]


def test_summary_by_hand():
    (row,) = summarise(cells(0.50, 0.51, 0.52), "s")
    assert row == {"s": 0.3, "seeds": 3, "values": [0.50, 0.51, 0.52], "mean": 0.51, "spread": 0.01}
    assert summarise(cells(0.5), "s")[0]["spread"] is None


def test_difference_is_taken_seed_by_seed():
    gain = compare(cells(0.53, 0.54, 0.55, 0.9), cells(0.50, 0.51, 0.52))
    assert gain.seeds == gain.ahead == 3 and gain.mean == pytest.approx(0.03)
    assert gain.spread == pytest.approx(0, abs=1e-9) and gain.verdict == "gains"
    assert compare(cells(0.5, None), cells(None, 0.5)).verdict == "no seed has both"
    assert select(cells(0.5, 0.6), seed=1, s=0.3) == [{"seed": 1, "miou": 0.6, "s": 0.3}]


@pytest.mark.parametrize(
    "gains, words",
    [
        ((0.02, 0.03, 0.04), "gains"),
        ((-0.02, -0.03, -0.04), "loses"),
        ((0.001, 0.001, 0.028), "within"),  # every seed is ahead, the spread exceeds the mean
        ((-0.001, 0.045, 0.046), "within"),  # the mean exceeds the spread, one seed is behind
        ((0.03,), "one seed"),
        ((-0.00001, -0.00004, -0.00007), "makes no difference"),  # a gate that never opens is cross-entropy
        ((0.0, 0.0, 0.0), "makes no difference"),
    ],
)
def test_verdict(gains, words):
    assert Difference(dict(enumerate(gains))).verdict.startswith(words)


def test_a_difference_by_hand():
    gain = Difference({0: 0.004, 1: 0.009, 2: -0.001})
    assert (gain.mean, gain.spread, gain.ahead) == (pytest.approx(0.004), pytest.approx(0.005), 2)
    assert gain.verdict == "within the spread of the seeds"


def test_a_study_of_pseudo_masks_names_the_split_that_judges():
    for experiment, split in ((EXPERIMENT, "train"), (JUDGED, "exact")):
        assert records.manifest(experiment, "masks", "judge", 2, [0], "PPMG", crf=True)["split"] == split
