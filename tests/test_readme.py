"""The README tells the truth: its links lead somewhere, its commands work as typed, its code runs."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pmm.data.cams import save_cams, write_foreign_cams
from pmm.data.images import write_mask
from pmm.run.folder import RunFolder, project_root

ROOT = project_root()
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.strip().splitlines()]
MAKE = {*re.findall(r"`make ([a-z-]+)`", README), *(line.split()[1] for line in SHELL if line.startswith("make "))}
RUN = """\
import sys
import pmm.run.notebooks as notebooks
from pmm.cli import main
notebooks.run_notebooks = lambda params, *_, **__: print(params.run_name, params.s, repr(params.val_split))
main(sys.argv[1:])
"""
"""`pmm` in full, but for the notebooks of `pmm run`."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder that looks like the project from its shell, with a data set of one's own below it."""
    project = tmp_path_factory.mktemp("project")
    for name in ("params", "notebooks"):
        (project / name).symlink_to(ROOT / name)
    (project / "run.py").write_text(RUN)
    (project / ".venv" / "bin").mkdir(parents=True)
    papermill = f"#!/bin/sh\nexec {sys.executable} -m papermill --prepare-only --log-level ERROR --no-progress-bar"
    pmm = f"#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {project}/run.py"
    for name, command in (("pmm", pmm), ("papermill", papermill)):
        (project / ".venv" / "bin" / name).write_text(f'{command} "$@"\n')
        (project / ".venv" / "bin" / name).chmod(0o755)
    own = project / "own" / "images"
    own.mkdir(parents=True)
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(own / "a.jpg")
    (own.parent / "labels.csv").write_text("image,labels\na.jpg,bird dog\n")
    cam = np.linspace(0, 1, 2 * 30 * 40, dtype=np.float32).reshape(2, 30, 40)
    write_foreign_cams(own.parent / "cams" / "a.npy", [1, 2], cam, "irn")
    with RunFolder(project / "runs" / "demo").stage("cams", {}) as stage:
        save_cams(stage.folder / "a.npz", [1, 2], cam)
    write_mask(own.parent / "masks" / "a.png", np.full((30, 40), 2))
    return project


def shell(command, folder):
    command = command.replace("/path/to/my_set", "own")
    return subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(line, marks=[pytest.mark.slow] * ("check" in line and "my_set" not in line))
        for line in SHELL
        if not line.startswith("make ")
    ],
)
def test_a_command_works_as_it_is_printed(project, command):
    if " eval " in command:  # of masks that a command before it makes
        shell(next(line for line in SHELL if " masks " in line), project)
    done = shell(command, project)
    assert done.returncode == 0, done.stdout + done.stderr
    if " run " in command and "own" in command:
        assert done.stdout == "my_set 0.3 ''\n"
    if "pmm check" in command:
        assert all(line.startswith("OK ") for line in done.stdout.splitlines())
    if "papermill" in command:
        assert (project / "out.ipynb").is_file()


def test_the_commands_of_all_kinds_are_there():
    assert {"demo", "test", "explore", "lab", "bench"} <= MAKE
    words = " ".join(SHELL)
    assert words.count("/path/to/my_set") == 11
    assert all(
        f"/pmm {name} " in words for name in ("run", "check", "data", "params", "masks", "eval", "compare", "cams")
    )


@pytest.mark.parametrize("target", sorted(MAKE))
def test_make_knows_the_target(target):
    done = shell(f"make --dry-run {target}", ROOT)
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    local = [link for link in links if not link.startswith(("http://", "https://"))]
    assert len(local) > 15 and not [link for link in local if not (ROOT / link.partition("#")[0]).exists()]


def test_every_room_is_in_the_table():
    rooms = {path.parent.name for path in (ROOT / "pmm").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)/` \|", README, re.M)) == rooms


def test_the_method_as_functions_runs():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.S):
        exec(compile(block, "README.md", "exec"), names)
    assert names["dcrf"].DenseCRF2D(4, 3, 2) and names["unary_from_softmax"](np.ones((2, 12))).shape == (2, 12)
    shape = names["image"].shape[:2]
    assert names["mask"].shape == names["joint"].shape == shape and names["mask"].dtype == np.uint8
    assert set(np.unique(names["mask"])) <= {0, *names["class_ids"]}
    assert names["posterior"].shape == (3, *shape) and names["c_v"].shape == (2,)
