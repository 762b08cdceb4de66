"""The command line: exit codes, and one line for every mistake."""

import subprocess
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

from pmm.cli import main
from pmm.errors import InputError
from pmm.run.checks import all_checks
from pmm.run.params import Params


@pytest.fixture
def parameter_file(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("run_name: tiny\nn_train: 4\n")
    return str(path)


def call(*arguments):
    return CliRunner().invoke(main, arguments)


def stop_with(error):
    def raising(*_, **__):
        raise error

    return raising


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-p", "bta=1"], "unknown parameter bta; did you mean beta?"),
        (["-p", "s"], "-p s: write name=value"),
        (["-p", "s=-1"], "s = -1"),
    ],
)
def test_a_wrong_parameter_is_one_line_and_code_2(parameter_file, command, arguments, expected):
    result = call(command, parameter_file, *arguments)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("pmm: ") and expected in result.stderr and result.stdout == ""


def test_a_missing_file_is_one_line_and_code_2(tmp_path):
    result = call("run", str(tmp_path / "none.yaml"))
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert "none.yaml: cannot be read" in result.stderr


def test_an_unknown_notebook_is_one_line_and_code_2(parameter_file):
    result = call("run", parameter_file, "--only", "99")
    assert result.exit_code == 2 and "99: no such notebook; there are 01_data" in result.stderr


def test_run_passes_overrides_notebooks_and_verbosity(parameter_file, monkeypatch):
    seen = []
    monkeypatch.setattr("pmm.run.notebooks.run_notebooks", lambda *a, **k: seen.append((a, k)))
    options = ["-p", "s=0.4", "-p", "pus=none", "--only", "04", "--only", "05", "-v"]
    result = call("run", parameter_file, *options)
    assert result.exit_code == 0, result.output
    params = Params(run_name="tiny", n_train=4, s=0.4, pus="none")
    assert seen == [((params, ["04", "05"]), {"verbose": True})]
    call("run", parameter_file)
    assert seen[1][0][1] is None


def test_exit_codes_of_a_run(parameter_file, monkeypatch):
    from pmm.run.notebooks import NotebookError

    for error, code, text in (
        (InputError("a line"), 2, "pmm: a line"),
        (KeyboardInterrupt(), 130, "pmm: interrupted; the same command goes on and reuses finished stages"),
        (NotebookError("01_a.ipynb: boom", "the traceback"), 1, "pmm: 01_a.ipynb: boom"),
    ):
        monkeypatch.setattr("pmm.run.notebooks.run_notebooks", stop_with(error))
        result = call("run", parameter_file)
        assert result.exit_code == code
        assert result.stderr.splitlines()[-1] == text
        assert ("the traceback" in result.stderr) == (code == 1)


def test_a_message_of_several_lines_becomes_one(parameter_file, monkeypatch):
    monkeypatch.setattr("pmm.run.notebooks.run_notebooks", stop_with(InputError("a\n  b")))
    assert call("run", parameter_file).stderr == "pmm: a b\n"


def test_check_prints_a_line_for_each_check_and_counts_failures(parameter_file, monkeypatch):
    bad = stop_with(InputError("no such thing; get one"))
    monkeypatch.setattr(
        "pmm.run.checks.all_checks", lambda _: [("one", lambda: "fine"), ("two", bad), ("three", lambda: "ok")]
    )
    result = call("check", parameter_file)
    assert result.exit_code == 2
    assert result.stdout.splitlines()[1:] == [
        "OK    one: fine",
        "FAIL  two: no such thing; get one",
        "OK    three: ok",
    ]
    assert result.stderr == "pmm: 1 of the checks failed; see the lines that begin with FAIL\n"


def test_check_passes_on_the_sample_scenes(parameter_file):
    result = call("check", parameter_file)
    assert result.exit_code == 0, result.output
    assert all(line.startswith("OK    ") for line in result.stdout.splitlines())
    assert "4 train" in result.stdout and "embedded" in result.stdout


def own_images(folder):
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for name in "ab":
        Image.new("RGB", (40, 30), "red").save(folder / "images" / f"{name}.png")
    Image.new("L", (40, 30), 1).save(folder / "masks" / "a.png")
    (folder / "labels.csv").write_text("image,labels,split\na.png,bird,train\nb.png,bird,val\n")


def check_own(folder, parameter_file, *more):
    options = [f"-pdataset={'folder'}", f"-pdata_dir={folder}", *more]
    return call("check", parameter_file, *options)


def test_check_reads_every_image_label_and_mask(parameter_file, tmp_path):
    folder = tmp_path / "own"
    own_images(folder)
    lines = check_own(folder, parameter_file).stdout.splitlines()
    assert "OK    split train: 1 images decode, 1 have labels, 1 have masks" in lines
    assert any(line.startswith("FAIL  split val: none of the 1 images has a mask") for line in lines)
    assert check_own(folder, parameter_file, "-pval_split=''").exit_code == 0
    (folder / "images" / "a.png").write_bytes(b"no image")
    result = check_own(folder, parameter_file, "-pval_split=''")
    assert result.exit_code == 2
    failed = next(line for line in result.stdout.splitlines() if line.startswith("FAIL"))
    assert failed.startswith("FAIL  split train: 1 of 1 images are unusable; first: ") and "a.png" in failed


def test_check_reads_the_split_that_judges_and_says_what_is_left_out(parameter_file, tmp_path):
    folder = tmp_path / "own"
    own_images(folder)
    (folder / "labels.csv").write_text("image,labels,split\na.png,bird,train\nb.png,cat bird,train\n")
    chosen = ("-pclasses=[bird]", "-pjudge_split=train", "-pval_split=")
    lines = check_own(folder, parameter_file, *chosen, "-pdata_name=birds").stdout.splitlines()
    assert "OK    data: birds, 1 classes" in lines
    counted = "1 images decode, 1 have labels, 1 have masks; 1 of 2 images show other classes, and are left out"
    assert lines.count(f"OK    split train: {counted}") == 2
    (folder / "masks" / "a.png").unlink()
    result = check_own(folder, parameter_file, *chosen)
    assert "none of the 1 images has a mask; write judge_split: '' to do without" in result.stdout
    assert (
        "'brid' is no class of the data set; did you mean 'bird'?"
        in call("check", parameter_file, "-pclasses=[brid]").stdout
    )


def test_what_may_wait_for_the_network_is_checked_last(tmp_path):
    own_images(tmp_path / "own")
    params = Params(dataset="folder", data_dir=str(tmp_path / "own"), val_split="")
    names = [name for name, step in all_checks(params) if name in ("backbone", "segmentation model") or step()]
    assert names == ["run folder", "device", "dense CRF", "data", "split train", "backbone", "segmentation model"]
    assert [name for name, _ in all_checks(Params())][-2:] == ["backbone", "segmentation model"]


@pytest.mark.parametrize("empty", ["-pval_split=", "-pval_split=''"])
def test_an_empty_value_is_the_empty_text(parameter_file, tmp_path, empty):
    own_images(tmp_path / "own")
    result = check_own(tmp_path / "own", parameter_file, empty)
    assert result.exit_code == 0 and "split val" not in result.stdout
    assert "s = ''" in call("check", parameter_file, "-ps=").stderr


def test_check_says_why_the_data_cannot_be_opened(parameter_file, tmp_path):
    result = check_own(tmp_path / "nowhere", parameter_file)
    assert result.exit_code == 2 and "FAIL  data: " in result.stdout and "nowhere" in result.stdout


def test_report_of_no_run_is_one_line_and_code_2(tmp_path):
    result = call("report", str(tmp_path))
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1


def test_report_writes_the_page(tmp_path):
    (tmp_path / "params.yaml").write_text("run_name: x\n")
    result = call("report", str(tmp_path))
    assert result.exit_code == 0 and (tmp_path / "report.html").is_file()
    assert str(tmp_path / "report.html") in result.stdout


def test_params_lists_every_parameter():
    result = call("params")
    names = [line.split()[0] for line in result.stdout.splitlines()]
    assert result.exit_code == 0 and names == ["name", *Params.model_fields]


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom pmm.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "heavy = ('torch', 'numpy', 'pydantic', 'papermill', 'yaml', 'jinja2')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
