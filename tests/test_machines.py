"""What another processor changes: a run's numbers stay near those of the machine on which they were noted.

An older processor is stood for by this one without its newer instructions, in PyTorch, oneDNN, MKL, OpenBLAS, numba and
numpy, and with another number of threads: all of these round otherwise. `python tests/test_machines.py` notes anew.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_kills import ROOT, write_params

from pmm.data.cams import load_cams
from pmm.data.images import read_mask
from pmm.networks.training import read_log

pytestmark = pytest.mark.slow
NOTED = Path(__file__).with_name("machines.json")
METHODS = ("threshold", "crf", "ppmg_s0", "ppmg")
NEAR = {"losses": 0.15, "cams": 0.05, "objects": 0.1, "miou": 0.05}  # largest differences; trainings amplify rounding
SAME_WEIGHTS = {"cams": 2e-3, "pixels": 0.995}  # of what is computed from the same weights
OLDER = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NUMBA_CPU_NAME": "generic",
    "NPY_DISABLE_CPU_FEATURES": " ".join(np.show_config(mode="dicts")["SIMD Extensions"]["found"]),
    "OMP_NUM_THREADS": "2",
}


def make(folder, name, **machine):
    """Make all masks and models of a tiny run."""
    parameters = write_params(folder, name)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **machine}
    command = [sys.executable, "-m", "pmm", "train", str(parameters)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / name


def numbers(run):
    """What of a run is noted: losses, and of CAMs and masks a few numbers each."""
    logs = {path.parent.name: read_log(path)["loss"] for path in sorted(run.rglob("log.csv"))}
    cams = {path.stem: load_cams(path)[1].astype(np.float64) for path in sorted((run / "cams").glob("*.npz"))}
    masks = {m: [read_mask(p) for p in sorted((run / "masks" / m).glob("*.png"))] for m in (*METHODS, "cyclic1")}
    facts = {m: json.loads((run / "masks" / m / ".stage.json").read_text())["facts"] for m in METHODS}
    return {
        "losses": logs,
        "cams": {name: [float(maps.mean()), float(maps.std())] for name, maps in cams.items()},
        "objects": {method: float(np.mean([(mask > 0).mean() for mask in each])) for method, each in masks.items()},
        "miou": {method: fact["miou"] for method, fact in facts.items()},
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on this machine as it is, one as on an older machine, and one as there from this machine's weights on."""
    folder = tmp_path_factory.mktemp("machines")
    older = {**OLDER, "NUMBA_CACHE_DIR": str(folder / "numba")}
    own = make(folder, "own")
    shutil.copytree(own, folder / "given")
    for made_again in ("cams", "masks"):
        shutil.rmtree(folder / "given" / made_again)
    return {"own": own, "given": make(folder, "given", **older), "older": make(folder, "older", **older)}


@pytest.mark.parametrize("machine", ["own", "older"])
def test_a_run_is_near_the_noted_numbers(runs, machine):
    """With its trainings, whose steps follow the signs of gradients that are nearly 0."""
    noted, found = json.loads(NOTED.read_text()), numbers(runs[machine])
    worst = {}
    for kind, each in noted.items():
        assert found[kind].keys() == each.keys() and len(each) >= 4
        worst[kind] = max(np.abs(np.subtract(found[kind][name], each[name])).max() for name in each)
    print(f"\n{machine}: largest differences {', '.join(f'{kind} {value:.2g}' for kind, value in worst.items())}")
    assert not [kind for kind, value in worst.items() if not value <= NEAR[kind]]


def test_from_the_same_weights_an_older_processor_makes_nearly_the_same(runs):
    own, given, older = runs.values()
    same_weights = [(run / "classifier" / "weights.pt").read_bytes() for run in (own, given, older)]
    assert same_weights[0] == same_weights[1] != same_weights[2]  # the older machine does round otherwise
    names = sorted(path.stem for path in (own / "cams").glob("*.npz"))
    cams = [[load_cams(run / "cams" / f"{name}.npz")[1].astype(np.float64) for name in names] for run in (own, given)]
    worst = max(np.abs(a - b).max() for a, b in zip(*cams, strict=True))
    same = {}
    for method in METHODS:
        pairs = [[read_mask(run / "masks" / method / f"{name}.png") for name in names] for run in (own, given)]
        same[method] = np.mean([a == b for a, b in zip(*pairs, strict=True)])
    print(f"\nCAMs differ by {worst:.1e} at most; same pixels: {', '.join(f'{m} {v:.3%}' for m, v in same.items())}")
    assert worst <= SAME_WEIGHTS["cams"] and min(same.values()) >= SAME_WEIGHTS["pixels"]


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as place:
        NOTED.write_text(json.dumps(numbers(make(Path(place), "own")), indent=1) + "\n")
