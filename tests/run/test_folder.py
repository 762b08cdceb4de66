"""The run folder: atomic writes, reuse, changed settings, interruption."""

import json
import os

import pytest

import pmm
from pmm.errors import InputError
from pmm.files import read_json, write_text
from pmm.run.folder import RunFolder, fingerprint


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def make(run, name="cams", inputs=(), **settings):
    with run.stage(name, settings, inputs) as stage:
        if not stage.reused:
            stage.folder.mkdir(parents=True, exist_ok=True)
            (stage.folder / "result.txt").write_text(str(settings))
            stage.facts["images"] = 3
    return stage


def test_write_replaces_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "one")
    write_text(path, "zwei ü")
    assert path.read_text(encoding="utf-8") == "zwei ü" and os.listdir(path.parent) == ["a.txt"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_fingerprint_hangs_on_content_not_on_order():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2}) != fingerprint({"b": 2})
    assert len(fingerprint({})) == 16


def test_a_finished_stage_is_reused_with_its_facts(run, capsys):
    first, second = make(run, s=0.3), make(RunFolder(run.path), s=0.3)
    assert not first.reused and second.reused
    assert second.facts == {"images": 3} and second.fingerprint == first.fingerprint
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("cams: computing") and said[1].startswith("cams: reused")


def test_a_stage_is_announced_once_however_often_it_is_asked_for(run, capsys):
    for _ in range(3):
        make(run, s=0.3)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_recorded_finds_finished_stages_alone(run):
    assert run.recorded("cams") is None
    made = make(run, s=0.3)
    assert run.recorded("cams").facts == {"images": 3}
    assert run.recorded("cams").fingerprint == made.fingerprint
    with pytest.raises(KeyboardInterrupt), run.stage("cams", {"s": 0.4}):
        raise KeyboardInterrupt
    assert run.recorded("cams") is None


def test_changed_settings_inputs_or_version_empty_the_folder(run, monkeypatch):
    make(run, s=0.3)
    (run.path / "cams" / "stale.txt").touch()
    assert not make(run, s=0.4).reused
    assert not (run.path / "cams" / "stale.txt").exists()
    assert not make(run, s=0.4, inputs=["other"]).reused
    monkeypatch.setattr(pmm, "__version__", "99")
    assert not make(run, s=0.4, inputs=["other"]).reused


def test_what_other_settings_made_is_kept_and_comes_back_with_them(run, capsys):
    first = make(run, "masks/ppmg", s=0.3)
    make(run, "masks/ppmg", s=0.4)
    assert "masks/ppmg: settings changed; what the old ones made is kept in " in capsys.readouterr().out
    assert (first.folder / "result.txt").read_text() == "{'s': 0.4}"
    again = make(RunFolder(run.path), "masks/ppmg", s=0.3)
    assert again.reused and again.facts == {"images": 3} and again.fingerprint == first.fingerprint
    assert (first.folder / "result.txt").read_text() == "{'s': 0.3}"
    entry = run.manifest()["stages"]["masks/ppmg"]
    assert entry["settings"] == {"s": 0.3} and entry["seconds"] >= 0
    assert make(run, "masks/ppmg", s=0.4).reused  # there and back


def test_what_was_not_finished_is_not_kept(run):
    with pytest.raises(KeyboardInterrupt), run.stage("cams", {"s": 0.3}):
        raise KeyboardInterrupt
    make(run, s=0.4)
    assert not (run.path / "replaced").exists()


def test_a_changed_input_stage_changes_what_reads_it(run):
    assert not make(run, "masks", inputs=[make(run, "cams", s=0.3)]).reused
    assert make(run, "masks", inputs=[make(run, "cams", s=0.3)]).reused
    assert not make(run, "masks", inputs=[make(run, "cams", s=0.4)]).reused


def test_an_interrupted_stage_keeps_its_files_and_is_not_finished(run):
    with pytest.raises(KeyboardInterrupt), run.stage("cams", {"s": 0.3}) as stage:
        (stage.folder / "first.npz").touch()
        raise KeyboardInterrupt
    with run.stage("cams", {"s": 0.3}) as stage:
        assert not stage.reused and (stage.folder / "first.npz").exists()
    assert make(run, s=0.3).reused


def test_the_manifest_records_the_environment_and_each_stage(run):
    make(run, s=0.3)
    make(run, "masks/ppmg", alpha=2.0)
    manifest = run.manifest()
    assert set(manifest["stages"]) == {"cams", "masks/ppmg"}
    assert manifest["stages"]["cams"]["settings"] == {"s": 0.3}
    assert manifest["stages"]["cams"]["seconds"] >= 0
    assert manifest["environment"]["pmm"] == pmm.__version__
    assert manifest["environment"]["packages"]["torch"]


def test_metrics_keep_other_sections(run):
    run.record_metrics("a", {"miou": 0.1})
    run.record_metrics("b", {"miou": 0.2})
    run.record_metrics("a", {"miou": 0.3})
    assert run.metrics() == {"a": {"miou": 0.3}, "b": {"miou": 0.2}}


def test_not_a_number_is_written_as_null_which_every_reader_understands(run):
    run.record_metrics("a", {"rows": [["x", float("nan"), {"deep": float("nan")}]], "miou": float("nan")})
    assert "NaN" not in (run.path / "metrics.json").read_text()
    assert run.metrics() == {"a": {"rows": [["x", None, {"deep": None}]], "miou": None}}


def test_a_missing_json_is_empty_and_a_damaged_one_is_named(tmp_path):
    assert read_json(tmp_path / "none.json") == {}
    for text in ("{", "[1]", json.dumps("text")):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match=r"a\.json: found no JSON object; delete"):
            read_json(tmp_path / "a.json")
