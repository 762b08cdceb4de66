"""What a run's folder is found to hold, damage that is noticed, and why two runs differ."""

import json
import os
import shutil

import pytest
from click.testing import CliRunner
from tiny import params

from pmm.cli import main
from pmm.errors import InputError
from pmm.run import audit
from pmm.run.experiment import Experiment, make_all
from pmm.run.folder import FileMarks, RunFolder, damaged_files
from pmm.run.params import Params


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_all(Experiment(params(folder, run_name="whole")))
    return folder / "whole"


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "whole")
    changed(tmp_path / "whole", runs_dir=str(tmp_path))
    return tmp_path / "whole"


def changed(path, **values):
    """Write the parameters that the next run would have."""
    from pmm.run.params import dump_yaml, load_params

    known = load_params(path / "params.yaml").model_dump()
    (path / "params.yaml").write_text(dump_yaml(Params(**{**known, **values}).model_dump()))


def states(path):
    return {name: state for name, (state, _) in audit.status(path).items()}


def test_a_whole_run_is_done_and_asking_changes_nothing(run):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and not p.name.startswith(".marks")}
    found = states(run)
    assert set(found.values()) == {"done"}
    assert {
        "dataset",
        "classifier",
        "cams",
        "masks/ppmg",
        "segmenter/pus",
        "segmenter/pus/val",
        "masks/cyclic1",
    } <= set(found)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and not p.name.startswith(".marks")} == before


def test_a_changed_parameter_makes_exactly_what_depends_on_it_stale(run):
    changed(run, alpha=2.0)
    found = audit.status(run)
    stale = {name for name, (state, _) in found.items() if state == "stale"}
    assert {
        "masks/ppmg",
        "masks/ppmg_s0",
        "segmenter/ce",
        "segmenter/pus",
        "masks/cyclic1",
        "segmenter/round1",
    } <= stale
    assert not stale & {"dataset", "classifier", "cams", "masks/threshold", "masks/crf", "segmenter/ground_truth"}
    assert found["masks/ppmg"][1].startswith("alpha ") and found["masks/ppmg"][1].endswith("-> 2.0")
    assert found["segmenter/ce"][1] == "masks/ppmg is another"


def test_begun_and_missing_stages_are_told_apart(run):
    record = json.loads((run / "masks/ppmg/.stage.json").read_text())
    (run / "masks/ppmg/.stage.json").write_text(json.dumps({**record, "finished": False}))
    shutil.rmtree(run / "segmenter" / "pus")
    found = states(run)
    assert found["masks/ppmg"] == "begun" and found["segmenter/pus"] == "missing" == found["segmenter/pus/val"]


ARTEFACTS = [
    "classifier/weights.pt",
    "cams/*.npz",
    "masks/ppmg/*.png",
    "masks/cyclic1/*.png",
    "segmenter/round1/weights.pt",
]
DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "edited": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
    "edited, its time set back": lambda path: set_back(path),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
}


def set_back(path):
    times = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_a_damaged_artefact_is_noticed(run, artefact, damage):
    path = sorted(run.glob(artefact))[0]
    stage = str(path.parent.relative_to(run))
    assert not damaged_files(path.parent)
    DAMAGES[damage](path)
    assert damaged_files(path.parent) == [path]
    assert audit.status(run)[stage] == ("damaged", path.name)


def test_a_damaged_mask_is_made_again_and_said_so(run, capsys):
    path, other = sorted((run / "masks/ppmg").glob("*.png"))[:2]
    whole, kept = path.read_bytes(), other.stat().st_mtime_ns
    path.write_bytes(b"no png")
    made = Experiment(params(run.parent, run_name="whole"))
    assert not made.pseudo_masks("ppmg").reused
    said = capsys.readouterr().out
    assert f"masks/ppmg: 1 files are damaged or missing ({path.name}); made again" in said
    assert path.read_bytes() == whole and other.stat().st_mtime_ns == kept
    assert made.pseudo_masks("ppmg").reused and set(states(run).values()) == {"done"}


def test_a_damaged_record_means_an_unknown_stage(run, capsys):
    (run / "masks/threshold/.stage.json").write_text("{ half")
    made = Experiment(params(run.parent, run_name="whole")).pseudo_masks("threshold")
    assert not made.reused and "its stage is made again" in capsys.readouterr().out


def test_marks_follow_the_content_and_read_what_changed_alone(tmp_path, monkeypatch):
    files = [tmp_path / name for name in ("a", "b", "none")]
    files[0].write_bytes(b"one")
    files[1].write_bytes(b"two")
    first = FileMarks(tmp_path / "marks.json").of(files)
    assert first[2] == "" and len(set(first)) == 3
    read = []
    from pmm.run import folder

    original = folder.file_mark
    monkeypatch.setattr(folder, "file_mark", lambda path: read.append(path) or original(path))
    assert FileMarks(tmp_path / "marks.json").of([*files, files[0]]) == [*first, first[0]] and not read
    set_back(files[0])  # same size, same time of change
    assert FileMarks(tmp_path / "marks.json").of(files)[0] != first[0] and read == [files[0]]


def test_runs_that_are_equal_and_runs_that_differ(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    assert audit.differences(run, other) == {}
    changed(other, s=0.1)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["environment"] |= {"processor": "abacus", "code": {"commit": "0", "dirty": True}}
    manifest["environment"]["packages"]["torch"] = "1.0"
    manifest["stages"]["masks/ppmg"] |= {"fingerprint": "0", "settings": {"s": 0.1}}
    (other / "manifest.json").write_text(json.dumps(manifest))
    RunFolder(other).record_metrics("04_pseudo_masks", {"rows": []})
    found = audit.differences(run, other)
    assert found["parameters"][0].startswith("s: ") and found["parameters"][0].endswith("| 0.1")
    assert any("abacus" in line for line in found["machine"]) and any(
        line.endswith("| 1.0") for line in found["machine"]
    )
    assert found["code"][0].startswith("code: ") and found["stages"][0].startswith("masks/ppmg: ")
    assert found["sections of metrics.json"] == ["04_pseudo_masks"]


def test_the_manifest_says_how_to_repeat_the_run(run):
    manifest = RunFolder(run).manifest()
    assert manifest["schema"] == 2 and manifest["command"].startswith("pmm run ")
    stage = manifest["stages"]["classifier"]
    assert stage["processes"] == 1 and stage["peak MiB"] > 100 and stage["seconds"] >= 0
    assert {"packages", "processor", "torch threads", "code"} <= manifest["environment"].keys()


def test_commands(run, tmp_path):
    done = CliRunner().invoke(main, ["status", str(run)])
    assert done.exit_code == 0 and done.output.strip().endswith("stages are done")
    assert CliRunner().invoke(main, ["diff", str(run), str(run)]).output.startswith("no difference")
    for command in (["status", str(tmp_path)], ["diff", str(run), str(tmp_path)]):
        refused = CliRunner().invoke(main, command)
        assert refused.exit_code == 2 and "no run, since it has no params.yaml" in refused.output


def test_doctor_finds_this_installation_well():
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert all(line.startswith("OK ") for line in lines) and any("kernel: starts" in line for line in lines)


def test_doctor_says_how_to_mend(monkeypatch):
    from pmm.run import checks

    monkeypatch.setattr(checks, "requires", lambda _: ["numpy>=99", "no-such-package>=1"])
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 2
    assert "FAIL  numpy>=99: found " in done.output.replace("FAIL  numpy: ", "FAIL  numpy>=99: ")
    assert "pip install 'no-such-package>=1'" in done.output


def test_a_run_that_is_no_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"has no params\.yaml"):
        audit.status(tmp_path / "nowhere")
