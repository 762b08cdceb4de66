"""All notebooks, three times: from three working directories, with one worker and two, in homes of their own.

The results are the same, a second time nothing is made again, nothing is written elsewhere, every figure has words.
"""

import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from test_kills import SHORT, contents, finished_files
from tiny import TINY

from pmm.run.params import Params, dump_yaml

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
PLACES = {"root": 1, "notebooks": 2, "elsewhere": 1}  # working directory -> workers
OWN_CACHE = "__pycache__"  # Python's and numba's, beside the package's modules
FONTS = ".cache/matplotlib"  # matplotlib's list of the machine's fonts; it makes an empty folder below .config, too


class Place:
    """A working directory, with a home, a folder for temporary files, and a run's folder."""

    def __init__(self, folder, name, clone):
        self.base = folder / name
        self.home, self.tmp, self.runs = (self.base / each for each in ("home", "tmp", "runs"))
        self.cwd = {"root": clone, "notebooks": clone / "notebooks"}.get(name, self.base / "cwd")
        for each in (self.home, self.tmp, self.cwd):
            each.mkdir(parents=True, exist_ok=True)
        own = {**TINY, **SHORT, "run_name": "tiny", "runs_dir": str(self.runs), "workers": PLACES[name]}
        (self.base / "params.yaml").write_text(dump_yaml(Params(**own).model_dump()))
        self.run = self.runs / "tiny"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "JUPYTER", "IPYTHON", "MPL", "NUMBA"))}
        self.environment = {**kept, "HOME": str(self.home), "TMPDIR": str(self.tmp), "PYTHONPATH": str(clone)}
        self.environment |= {"OMP_NUM_THREADS": "1"}

    def make(self):
        command = [sys.executable, "-m", "pmm", "run", str(self.base / "params.yaml")]
        done = subprocess.run(command, cwd=self.cwd, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    def results(self):
        """The run's files; of the grid of notebook 07 its numbers, since its file names run and workers, too."""
        found = contents(self.run)
        return {**found, "mask_ablations.json": json.loads(found["mask_ablations.json"])["cells"]}


def listing(folder):
    """What lies below a folder, and when files were written."""
    paths = sorted(folder.rglob("*"))
    return {path.relative_to(folder): path.lstat().st_mtime_ns if path.is_file() else 0 for path in paths}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the project, with what was compiled for it."""
    wanted = ("pmm", "notebooks", "params", "results", "pyproject.toml")
    folder = tmp_path_factory.mktemp("project") / "clone"
    for path in (ROOT / name for name in wanted):
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copy2(path, folder / path.name)
    return folder


@pytest.fixture(scope="module")
def places(clone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    places = {name: Place(folder, name, clone) for name in PLACES}
    before = listing(clone)
    for place in places.values():
        place.make()
    places["root"].clone_changed = {path for path, written in listing(clone).items() if before.get(path) != written}
    return places


def test_the_results_are_the_same_from_everywhere_and_on_two_workers(places):
    """Data, CAMs, masks, weights, metrics and figures; and what the notebooks show."""
    own, *others = (place.results() for place in places.values())
    kinds = {Path(name).parts[0] for name in own}
    assert {"dataset", "classifier", "cams", "masks", "segmenter", "figures", "metrics.json"} <= kinds
    for other in others:
        assert other.keys() == own.keys() and not [name for name in own if own[name] != other[name]]
    for notebook in sorted((places["root"].run / "notebooks").glob("*.ipynb")):
        shown = [pictures(place.run / "notebooks" / notebook.name) for place in places.values()]
        assert shown[0] and shown[1] == shown[0] == shown[2], notebook.name
    print(f"\nequal files: {len(own)} in each of {len(places)} runs")


def test_nothing_is_written_outside_the_runs_folder(places):
    """But for two caches of the machine: numba's and Python's beside the modules, and matplotlib's list of fonts."""
    strays = [path for path in places["root"].clone_changed if OWN_CACHE not in path.parts]
    for name, place in places.items():
        strays += [path for path in listing(place.home) if not str(path).startswith(FONTS)]
        strays += listing(place.tmp)
        strays += [] if name != "elsewhere" else listing(place.cwd)
        assert {path.name for path in place.runs.iterdir()} == {"tiny"} and not (place.run / ".kernels").exists()
    folders = {Path(name) for name in (".cache", ".config", ".config/matplotlib")}
    assert set(strays) <= folders
    print("\nfiles written outside the run's folder: 0")


def test_a_second_time_gives_the_same_and_makes_nothing_again(places):
    place = places["elsewhere"]
    before, finished = place.results(), finished_files(place.run)
    place.make()
    assert place.results() == before and len(finished) > 50
    assert finished_files(place.run) == finished


class Pictures(HTMLParser):
    """The pictures of a page, and the words that stand for them."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        if tag in ("img", "svg", "canvas", "video", "object", "embed", "iframe"):
            own = dict(attributes)
            self.found.append((own.get("src", ""), own.get("alt") or own.get("aria-label") or ""))


def pictures_of(page):
    parser = Pictures()
    parser.feed(page)
    return parser.found


def pictures(notebook):
    """The pictures among the outputs of an executed notebook; one without a page of its own has no words."""
    found = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        for bundle in (output.get("data", {}) for output in cell.get("outputs", [])):
            shown = pictures_of(bundle.get("text/html", ""))
            bare = [kind for kind in bundle if kind.startswith("image/")] if not shown else []
            found += shown + [(kind, "") for kind in bare]
    return found


def test_no_picture_is_without_words(places):
    """In the executed notebooks, in their pages and in the report."""
    run, counted = places["root"].run, 0
    for notebook in sorted((run / "notebooks").glob("[0-9]*.ipynb")):
        of_notebook, of_page = pictures(notebook), pictures_of(notebook.with_suffix(".html").read_text("utf-8"))
        drawn = list((run / "figures").glob(f"{notebook.stem[:2]}_*.png"))
        assert len(of_page) >= len(of_notebook) >= len(drawn) >= 1
        counted += check_words(of_notebook) + check_words(of_page)
    in_report = pictures_of((run / "report.html").read_text("utf-8"))
    assert len(in_report) >= len(list((run / "figures").glob("*.png"))) > 50
    print(f"\npictures, each with words: {counted + check_words(in_report)}")


def check_words(found):
    short = [words for _, words in found if len(words) < 15 or words.endswith((".png", ".svg"))]
    assert not short
    return len(found)
