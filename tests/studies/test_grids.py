"""The store of finished cells and the files of the grids."""

import json
from types import SimpleNamespace

import pytest

from pmm.errors import InputError
from pmm.run.params import Params
from pmm.studies.grids import COLUMNS, CellStore, check_grid, gather, load_grid, origin, section, seeds_of, write_grid

CELL = {"filtered": True, "seed": 0, "round": 1, "masks": 0.5, "model": None}


@pytest.fixture
def results():
    return gather(SimpleNamespace(params=Params()), [CELL], "scenes, 3 images")


def test_a_finished_cell_is_found_again_and_only_by_the_same_key(tmp_path):
    store = CellStore(tmp_path / "cells.json")
    assert store.get({"s": 0.3}) is None
    assert store.put({"s": 0.3}, {"miou": 0.5, "iou": {"cat": float("nan")}}) == {"miou": 0.5, "iou": {"cat": None}}
    store.put({"s": 0.6}, {"miou": 0.4})
    again = CellStore(tmp_path / "cells.json")
    assert again.get({"s": 0.3})["miou"] == 0.5 and again.get({"s": 0.6})["miou"] == 0.4
    assert again.get({"s": 0.3, "t": 0}) is None
    assert [path.name for path in tmp_path.iterdir()] == ["cells.json"]


def test_write_and_load_agree(results, tmp_path):
    path = write_grid(results, "cyclic_ablations", tmp_path)
    assert load_grid("cyclic_ablations", tmp_path) == json.loads(path.read_text()) == json.loads(json.dumps(results))
    assert results["manifest"]["params"] == Params().model_dump()


def test_absent_is_none_and_said_in_one_line(tmp_path):
    assert load_grid("cyclic_ablations", tmp_path) is None
    assert origin(None, "cyclic_ablations").count("\n") == 0 and "absent" in origin(None, "cyclic_ablations")


def test_origin_names_the_data(results):
    assert "scenes, 3 images" in origin(results, "cyclic_ablations")


@pytest.mark.parametrize(
    "text",
    ["[]", "{", "{}", '{"manifest": {"params": {}}, "cells": []}', '{"manifest": {"params": {}}, "cells": [{}]}'],
)
def test_a_broken_file_is_one_line_with_its_name(text, tmp_path):
    (tmp_path / "cyclic_ablations.json").write_text(text)
    with pytest.raises(InputError, match=r"cyclic_ablations\.json") as error:
        load_grid("cyclic_ablations", tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [50.0, "0.5", float("nan")])
def test_scores_out_of_range_are_refused(results, value):
    results["cells"][0]["masks"] = value
    with pytest.raises(InputError, match="cell 1: masks"):
        check_grid(results, "cyclic_ablations", "here")


def test_unknown_names_and_missing_seeds_are_refused(results):
    with pytest.raises(InputError, match="choose one of"):
        check_grid(results, "other", "here")
    with pytest.raises(InputError, match="ablation_seeds"):
        seeds_of(SimpleNamespace(params=Params()))
    assert set(COLUMNS) == {"mask_ablations", "augment_ablations", "cyclic_ablations"}


def test_section_spells_settings_and_keeps_shares(results):
    made = section(results, "Rounds", {"filtered": "filter", "round": "round", "masks": "masks", "model": "model"})
    assert made["rows"] == [["yes", "1", 0.5, None]] and made["columns"] == ["filter", "round", "masks", "model"]
