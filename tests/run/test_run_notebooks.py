"""The runner, on tiny notebooks that are written into a temporary folder."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import click
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pmm.errors import InputError
from pmm.run.notebooks import NotebookError, find_notebooks, injected_parameters, run_notebooks
from pmm.run.params import Params, run_path

PARAMETERS = 'run_name: str = "demo"  # name of the run folder\ns: float = 0.3  # strength'


def write_notebook(folder, name, *sources):
    parameters = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# title"), parameters, *map(new_code_cell, sources)]
    folder.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells), folder / name)


@pytest.fixture
def params(tmp_path):
    return Params(run_name="tiny", runs_dir=str(tmp_path / "runs"), s=0.4)


@pytest.fixture
def notebooks(tmp_path):
    return tmp_path / "notebooks"


def test_injects_only_what_differs_and_the_name():
    assert injected_parameters(Params()) == {"run_name": "demo"}
    assert injected_parameters(Params(s=0.4, run_name="a")) == {"run_name": "a", "s": 0.4}


def test_notebooks_run_in_order_and_are_found_by_number_name_and_path(notebooks):
    for name in ("02_b.ipynb", "01_a.ipynb", "draft.ipynb"):
        write_notebook(notebooks, name)
    names = [path.stem for path in find_notebooks(folder=notebooks)]
    assert names == ["01_a", "02_b"]
    for wanted in ("2", "02", "02_b", "notebooks/02_b.ipynb"):
        assert [path.stem for path in find_notebooks([wanted], notebooks)] == ["02_b"]
    assert [path.stem for path in find_notebooks(["02", "01"], notebooks)] == ["01_a", "02_b"]


def test_a_second_run_in_the_same_folder_says_so_and_changes_nothing(params, notebooks):
    write_notebook(notebooks, "01_a.ipynb")
    folder = run_path(params)
    holder = "import sys, pathlib; from pmm.run.folder import alone_in\n"
    holder += f"with alone_in(pathlib.Path({str(folder)!r})):\n    print('held', flush=True)\n    sys.stdin.read()"
    first = subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(
        InputError, match=r"tiny: another `pmm run` is at work here; wait for it, or give another run_name$"
    ):
        run_notebooks(params, folder=notebooks, report=False)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    first.kill()  # as the system does when memory runs out: the folder is free again
    first.wait()
    run_notebooks(params, folder=notebooks, report=False)
    assert (folder / "notebooks" / "01_a.ipynb").is_file()


def test_an_unknown_notebook_names_those_that_are_there(notebooks):
    write_notebook(notebooks, "01_a.ipynb")
    with pytest.raises(InputError, match=r"^9: no such notebook; there are 01_a$"):
        find_notebooks(["9"], notebooks)
    with pytest.raises(InputError, match="no notebook such as"):
        find_notebooks(folder=notebooks / "empty")


def test_success_keeps_the_copy_the_parameters_and_the_record(params, notebooks, capfd):
    write_notebook(
        notebooks,
        "01_a.ipynb",
        "import os, sys\nprint(sys.executable)\nprint(os.getcwd())\nprint(run_name, s)",
        "import time\nblock = bytes(50_000_000)\ntime.sleep(1.2)",
    )
    run = run_notebooks(params, folder=notebooks, verbose=True, report=False)
    shown = capfd.readouterr().out.splitlines()
    executed = nbformat.read(run.path / "notebooks" / "01_a.ipynb", as_version=4)
    assert executed.cells[3].outputs[0].text == f"{sys.executable}\n{notebooks}\ntiny 0.4\n"
    assert "    tiny 0.4" in shown
    facts = json.loads((run.path / "manifest.json").read_text())["notebooks"]["01_a"]
    assert facts["seconds"] > 1 and facts["peak_memory_mib"] > 40
    assert shown[-1].startswith("[1/1] 01_a: done in ")


def test_quiet_mode_shows_no_print_and_no_warning(params, notebooks, capfd):
    write_notebook(notebooks, "01_a.ipynb", "print('inner')")
    with_unknown = params.model_copy(update={"beta": 0.1})  # papermill alone would warn of it
    run_notebooks(with_unknown, folder=notebooks, report=False)
    out, err = capfd.readouterr()
    assert "inner" not in out and err == ""


@pytest.mark.parametrize("kind", ["InputError", "MissingDependency"])
def test_bad_input_in_a_notebook_is_the_same_one_line(params, notebooks, kind):
    raising = f"from pmm.errors import {kind}\nraise {kind}('data_dir = x: no such folder; name another')"
    write_notebook(notebooks, "01_a.ipynb", raising)
    write_notebook(notebooks, "02_b.ipynb", "1")
    with pytest.raises(InputError, match=r"^data_dir = x: no such folder; name another$"):
        run_notebooks(params, folder=notebooks, report=False)
    assert not (notebooks.parent / "runs" / "tiny" / "notebooks" / "02_b.ipynb").exists()


@pytest.mark.parametrize(("number", "text"), [(28, "No space left on device"), (13, "Permission denied")])
def test_a_full_disk_or_lost_rights_in_a_notebook_are_one_line(params, notebooks, number, text):
    write_notebook(notebooks, "01_a.ipynb", f"raise OSError({number}, {text!r}, 'runs/a.png')")
    with pytest.raises(InputError, match=rf"^{text}: 'runs/a\.png'; check the rights and the space; executed copy: "):
        run_notebooks(params, folder=notebooks, report=False)


def test_a_failing_cell_is_exit_code_1_and_a_line_that_names_notebook_and_cell(notebooks, tmp_path):
    write_notebook(notebooks, "01_a.ipynb", "fine = 1", "1 / 0")
    write_notebook(notebooks, "02_b.ipynb", "1")
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "p.yaml").write_text(f"run_name: tiny\nruns_dir: {tmp_path / 'runs'}\n")
    command = [sys.executable, "-m", "pmm.cli", "run", "params/p.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    *shown, last = done.stderr.strip().splitlines()
    assert done.returncode == 1 and not any(line.startswith("pmm: ") for line in shown)
    assert re.match(r"pmm: 01_a\.ipynb, cell In \[\d+\]: ZeroDivisionError: division by zero; executed copy: ", last)
    left = [path.name for path in (tmp_path / "runs" / "tiny").rglob("*") if path.is_file()]
    assert "01_a.ipynb" in left and "02_b.ipynb" not in left and "report.html" not in left


def test_a_failure_names_notebook_cell_and_copy(params, notebooks):
    write_notebook(notebooks, "01_a.ipynb", "fine = 1", "1 / 0")
    with pytest.raises(NotebookError) as caught:
        run_notebooks(params, folder=notebooks, report=False)
    message = str(caught.value)
    copy = notebooks.parent / "runs" / "tiny" / "notebooks" / "01_a.ipynb"
    assert "ZeroDivisionError: division by zero" in message and str(copy) in message
    number = int(message.partition("In [")[2].partition("]")[0])
    failed = [c for c in nbformat.read(copy, as_version=4).cells if c.get("execution_count") == number]
    assert [c.source for c in failed] == ["1 / 0"]
    assert "Traceback" in click.unstyle(caught.value.traceback)


def test_a_dead_kernel_is_named(params, notebooks):
    write_notebook(notebooks, "01_a.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(NotebookError, match=r"01_a\.ipynb, cell In \[3\]: the kernel stopped .* memory"):
        run_notebooks(params, folder=notebooks, report=False)


def test_a_broken_notebook_file_is_one_line(params, notebooks):
    notebooks.mkdir()
    (notebooks / "01_a.ipynb").write_text("{not json")
    with pytest.raises(InputError, match=r"01_a\.ipynb: no readable notebook"):
        run_notebooks(params, folder=notebooks, report=False)


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_ends_with_one_line_and_130(params, notebooks, tmp_path):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "p.yaml").write_text(f"run_name: tiny\nruns_dir: {tmp_path / 'runs'}\n")
    started = tmp_path / "started"
    busy = f"import time, pathlib\npathlib.Path({str(started)!r}).touch()\ntime.sleep(60)"
    write_notebook(notebooks, "01_a.ipynb", busy)
    process = subprocess.Popen(
        [sys.executable, "-m", "pmm.cli", "run", "params/p.yaml"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )
    deadline = time.monotonic() + 40
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines() == ["pmm: interrupted; the same command goes on and reuses finished stages"]
