"""A run that is killed at any moment goes on, ends as one that was not, and leaves nobody behind."""

import contextlib
import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from tiny import TINY

from pmm.run.params import Params, dump_yaml

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
KILLS, KILLS_OF_NOTEBOOKS = 30, 8
NOTEBOOKS = ("02", "04", "06")  # they make everything that a run learns
LONGER = {"seg_epochs": 3, "cls_epochs": 3, "n_train": 8}
SHORT = {
    "ablation_scenes": 2,
    "ablation_s": [0.0],
    "ablation_alpha": [0.5],
    "ablation_t": [0.05],
    "ablation_crf": [0.0],
}
TOLD_APART = ("manifest.json", ".stage.json", ".marks.json", ".lock", "params.yaml")  # seconds, memory, times, the name
PAGES = (".ipynb", ".html")  # seconds and memory, too


def write_params(folder, name, **changes):
    own = {**TINY, "run_name": name, "runs_dir": str(folder), **LONGER, **changes}
    path = folder / f"{name}.yaml"
    path.write_text(dump_yaml(Params(**own).model_dump()))
    return path


def start(*command, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-m", "pmm", *map(str, command)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **{**quiet, **options})


def contents(run):
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in TOLD_APART and not path.name.endswith((".tmp", *PAGES))
    }


def check_readable(run):
    """Whatever stands under its own name is whole."""
    for path in run.rglob("*"):
        if path.name.endswith(".tmp") or not path.is_file() or ".kernels" in path.parts:
            continue
        if path.suffix in (".json", ".ipynb"):
            json.loads(path.read_text())
        elif path.suffix in (".png", ".jpg"):
            Image.open(path).load()
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                assert arrays["cams"].size
        elif path.suffix == ".pt":
            assert zipfile.ZipFile(path).testzip() is None
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")


def finished_files(run):
    """Files of finished stages, and when they were written."""
    found = {}
    for record in run.rglob(".stage.json"):
        if json.loads(record.read_text())["finished"]:
            for name in json.loads((record.parent / ".files.json").read_text()):
                found[record.parent / name] = (record.parent / name).stat().st_mtime_ns
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of a training that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert start("train", write_params(folder, "whole")).wait() == 0
    return contents(folder / "whole")


def test_thirty_kills_change_nothing(tmp_path, whole):
    """Each time everything is killed at a random moment; finished work is not done again."""
    rng, kills, runs, repeated = random.Random(0), 0, 0, 0
    while kills < KILLS:
        parameters, run, runs = write_params(tmp_path, f"killed{runs}"), tmp_path / f"killed{runs}", runs + 1
        while True:
            before = finished_files(run) if run.exists() else {}
            process = start("train", parameters)
            try:
                code = process.wait(timeout=rng.uniform(1, 9) if kills < KILLS else None)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
            else:
                assert code == 0
                break
            finally:
                after = finished_files(run) if run.exists() else {}
                repeated += sum(after.get(path) != written for path, written in before.items())
            check_readable(run)
        assert contents(run) == whole
    print(f"\nkills survived: {kills} of {kills}, in {runs} runs; files of finished stages made again: {repeated}")
    assert repeated == 0


def kill(process, parent_alone):
    """End a run, its kernels with it or not; what is left of its family after half a minute."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in family[:1] if parent_alone else family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    return psutil.wait_procs(family[1:], timeout=30)[1]


def test_kills_of_runs_with_notebooks_change_nothing(tmp_path):
    """Of everything, and of the parent alone: the kernels end by themselves, and the next call goes on."""
    only = [part for number in NOTEBOOKS for part in ("--only", number)]
    whole = tmp_path / "whole"
    begun = time.monotonic()
    assert start("run", write_params(tmp_path, "tiny", runs_dir=str(whole)), *only).wait() == 0
    longest, kept, rng = time.monotonic() - begun, contents(whole / "tiny"), random.Random(1)
    kills, runs, repeated = 0, 0, 0
    while kills < KILLS_OF_NOTEBOOKS:
        folder, runs = tmp_path / f"killed{runs}", runs + 1
        parameters, run = write_params(tmp_path, "tiny", runs_dir=str(folder)), folder / "tiny"
        code = None
        while code is None:
            before = finished_files(run) if run.exists() else {}
            process = start("run", parameters, *only)
            try:
                code = process.wait(timeout=rng.uniform(1, longest) if kills < KILLS_OF_NOTEBOOKS else None)
            except subprocess.TimeoutExpired:
                assert not kill(process, parent_alone=kills % 2 == 1)
                kills += 1
            after = finished_files(run) if run.exists() else {}
            repeated += sum(after.get(path) != written for path, written in before.items())
            check_readable(run)
        assert code == 0 and contents(run) == kept and not (run / ".kernels").exists()
    print(f"\nkills of pmm run survived: {kills} of {kills}, in {runs} runs of {longest:.0f} s; made again: {repeated}")
    assert repeated == 0
    assert {"classifier", "cams", "masks", "segmenter", "figures", "metrics.json"} <= {Path(p).parts[0] for p in kept}


def test_when_the_parent_dies_no_kernel_stays(tmp_path):
    process = start("run", ROOT / "params" / "smoke.yaml", "-p", f"runs_dir={tmp_path}", "-p", "run_name=orphan")
    family = []
    for _ in range(600):
        family = psutil.Process(process.pid).children(recursive=True)
        if family and (tmp_path / "orphan" / "classifier").exists():
            break
        time.sleep(0.1)
    assert family
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


def test_the_second_of_two_runs_in_a_folder_says_so_and_stops(tmp_path):
    options = ["-p", f"runs_dir={tmp_path}", "-p", "run_name=both"]
    first = start("run", ROOT / "params" / "smoke.yaml", *options)
    while not (tmp_path / "both" / "params.yaml").exists():
        assert first.poll() is None
        time.sleep(0.05)
    command = [sys.executable, "-m", "pmm", "run", str(ROOT / "params" / "smoke.yaml"), *options]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    os.killpg(first.pid, signal.SIGTERM)
    first.wait()
    assert second.returncode == 2 and "another `pmm run` is at work here" in second.stderr
    assert second.stderr.count("\n") == 1


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path, whole):
    """A limit on the size of files stands for the disk: writing fails in the middle of a file."""
    parameters = write_params(tmp_path, "full")
    limited = f"ulimit -f 4000; exec {sys.executable} -m pmm train {parameters}"  # KiB: the weights are larger
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    ignoring = ["sh", "-c", f"trap '' XFSZ; {limited}"]
    done = subprocess.run(ignoring, cwd=ROOT, env=environment, capture_output=True, text=True)
    last = [line for line in done.stderr.splitlines() if line.startswith("pmm: ")]
    assert done.returncode == 2 and len(last) == 1 and "File too large" in last[0]
    assert "Traceback" not in done.stderr
    check_readable(tmp_path / "full")
    assert start("train", parameters).wait() == 0
    assert contents(tmp_path / "full") == whole


def without_privileges():
    """Let the rights of files count for root, too: what is started next cannot override them (capabilities 1 to 3)."""
    if os.geteuid() == 0:
        for capability in (1, 2, 3):
            assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP


def told(process):
    """Wait for the end, which is one line and exit code 2; return the line."""
    _, errors = process.communicate()
    lines = [line for line in errors.splitlines() if line.startswith("pmm: ")]
    assert process.returncode == 2 and len(lines) == 1 and "Traceback" not in errors, errors
    return lines[0]


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")


@needs_linux
@pytest.mark.parametrize("command", ["train", "run"])
def test_a_folder_that_may_not_be_written_is_one_line(tmp_path, command):
    parameters, run = write_params(tmp_path, "locked"), tmp_path / "locked"
    run.mkdir(mode=0o500)
    line = told(start(command, parameters, stderr=subprocess.PIPE, text=True, preexec_fn=without_privileges))
    assert str(run) in line and "Permission denied" in line
    assert not list(run.iterdir())


@needs_linux
def test_rights_that_are_lost_on_the_way_are_one_line_and_the_run_goes_on_later(tmp_path, whole):
    parameters, run = write_params(tmp_path, "lost"), tmp_path / "lost"
    process = start("train", parameters, stderr=subprocess.PIPE, text=True, preexec_fn=without_privileges)
    while not (run / "classifier" / "log.csv").exists():
        assert process.poll() is None
        time.sleep(0.02)
    folders = [run, *(path for path in run.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    assert "Permission denied" in told(process)
    check_readable(run)
    for folder in folders:
        folder.chmod(0o700)
    assert start("train", parameters).wait() == 0
    assert contents(run) == whole
