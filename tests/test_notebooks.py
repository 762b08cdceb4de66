"""The notebooks: clean in git, their parameters those of `Params`, and (slow) all of them run."""

import ast
import io
import re
import token
import tokenize
from typing import Literal, get_args, get_origin, get_type_hints

import nbformat
import pytest
from test_exercises import with_solutions

from pmm.run.folder import project_root
from pmm.run.params import Params, load_params

ROOT = project_root()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
MAX_LINES = 20
EXPECTED = [
    "01_data",
    "02_classifier_and_cams",
    "03_cv_smoothing",
    "04_pseudo_masks",
    "05_pretended_underfitting",
    "06_cyclic_pseudo_masks",
    "07_ablations",
    "08_explorer",
]

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def type_name(name):
    """The annotation that a parameters cell must carry: `Literal` is written as the type of its values."""
    hint = get_type_hints(Params)[name]
    inner = get_args(hint)[0] if get_origin(hint) is list else hint
    inner = type(get_args(inner)[0]) if get_origin(inner) is Literal else inner
    return f"list[{inner.__name__}]" if get_origin(hint) is list else inner.__name__


def complaints(source):
    """Say what is wrong with the source of a parameters cell, line by line."""
    found = []
    defaults = Params().model_dump()
    for line in filter(str.strip, source.splitlines()):
        match = re.fullmatch(r"(\w+): ([\w\[\]]+) = (.+?)  # (\S.*)", line)
        if not match:
            found.append(f"not `name: type = value  # help`: {line}")
            continue
        name, annotation, value, _ = match.groups()
        tokens = list(tokenize.generate_tokens(io.StringIO(line).readline))
        comments = [t for t in tokens if t.type == token.COMMENT]
        if line.count("=") != 1 or "#" in comments[0].string[1:]:
            found.append(f"a second = or #: {line}")
        elif name not in defaults:
            found.append(f"unknown parameter: {line}")
        elif annotation != type_name(name):
            found.append(f"type is {annotation}, wanted {type_name(name)}: {line}")
        elif repr(ast.literal_eval(value)) != repr(defaults[name]):
            found.append(f"value is {value}, wanted {defaults[name]!r}: {line}")
    return found


def test_the_numbered_notebooks_are_all_there():
    assert [path.stem for path in NOTEBOOKS] == EXPECTED


@each_notebook
def test_outputs_are_cleared(path):
    for number, cell in enumerate(code_cells(path), 1):
        assert cell.outputs == [] and cell.execution_count is None, f"code cell {number}: clear all outputs"
    assert "widgets" not in read(path).metadata and "papermill" not in read(path).metadata


@each_notebook
def test_it_opens_with_text_and_then_parameters(path):
    nbformat.validate(read(path))
    first, second = read(path).cells[:2]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    tagged = [cell for cell in read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [second] and second.cell_type == "code"


@each_notebook
def test_parameters_equal_the_defaults(path):
    source = read(path).cells[1].source
    assert complaints(source) == []
    assert "run_name" in source


@each_notebook
def test_code_cells_are_short_and_parse(path):
    for number, cell in enumerate(code_cells(path), 1):
        assert len(cell.source.splitlines()) <= MAX_LINES or number == 1, f"code cell {number} is too long"
        ast.parse(cell.source)


@each_notebook
def test_links_to_notebooks_lead_somewhere(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    linked = re.findall(r"\]\(([\w./-]+\.ipynb)", text)
    assert not [link for link in linked if not (path.parent / link).exists()]


@pytest.mark.parametrize(
    ("stem", "functions"),
    [
        ("02", "normalize_cam"),
        ("03", "coefficient_of_variation smooth_cam raise_cam"),
        ("04", "background_score crf_pseudo_mask proportion ppmg_steps"),
        ("05", "pus_clamp pus_pow pus_ignore forward"),
        ("06", "cyclic_pseudo_mask"),
    ],
)
def test_the_function_behind_an_equation_can_be_read_where_it_is_taught(stem, functions):
    (path,) = (p for p in NOTEBOOKS if p.stem.startswith(stem))
    shown = re.findall(r"show_source\((.*)\)", "\n".join(cell.source for cell in code_cells(path)))
    assert set(functions.split()) <= {name.split(".")[-1] for names in shown for name in names.split(", ")}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("s = 0.3  # strength", "not `name"),
        ("s: float = 0.3", "not `name"),
        ("s: float = 0.3 # one space", "not `name"),
        ("s: float = 0.3  # s = 0.3", "a second"),
        ("s: float = 0.3  # eq. #6", "a second"),
        ("q: float = 0.3  # strength", "unknown"),
        ("s: str = 0.3  # strength", "type is str, wanted float"),
        ("s: float = 0.4  # strength", "value is 0.4, wanted 0.3"),
        ("seed: int = False  # seed", "value is False, wanted 0"),
    ],
)
def test_the_check_itself_finds_every_fault(line, expected):
    assert complaints('run_name: str = "demo"  # name') == []
    assert len(complaints(line)) == 1 and complaints(line)[0].startswith(expected)


@pytest.mark.slow
def test_all_notebooks_and_solutions_run_on_the_smoke_parameters(tmp_path):
    from pmm.run.notebooks import run_notebooks

    for path in NOTEBOOKS:
        nbformat.write(with_solutions(path), tmp_path / path.name)
    params = load_params(ROOT / "params" / "smoke.yaml", {"runs_dir": str(tmp_path)})
    run = run_notebooks(params, folder=tmp_path)
    assert (run.path / "figures" / "06_story.png").exists() and (run.path / "figures" / "06_story.svg").exists()
    assert sorted(run.manifest()["notebooks"]) == [path.stem for path in NOTEBOOKS]
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == len(list((run.path / "figures").glob("*.png"))) > 0
    assert all(section["title"] in page for section in run.metrics().values() if "&" not in section["title"])
    errors = [
        output
        for path in (run.path / "notebooks").glob("*.ipynb")
        for cell in code_cells(path)
        for output in cell.outputs
        if output.output_type == "error"
    ]
    assert errors == []
