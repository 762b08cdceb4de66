"""Single images on a Dask cluster, trainings in two processes: the same results as on one machine, in one process."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner

from pmm.cli import main
from pmm.data.cams import save_cams
from pmm.data.images import read_mask
from pmm.data.scenes import compose_scene
from pmm.errors import InputError
from pmm.run.experiment import train
from pmm.run.folder import RunFolder
from pmm.run.params import run_path
from pmm.threads import map_images

ROOT = Path(__file__).resolve().parents[1]
MADE = (".npz", ".png", ".pt", ".csv")


def test_a_scheduler_that_does_not_answer_is_one_line(monkeypatch):
    distributed = pytest.importorskip("distributed", reason="distributed is not installed: pip install distributed")
    patient = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: patient(address, timeout="0.2s"))
    for address in ("tcp://127.0.0.1:1", "nonsense://x"):
        with pytest.raises(InputError, match=rf"^scheduler = {address}: does not answer .*; start it with: dask sched"):
            list(map_images(str, [1], scheduler=address))


@pytest.fixture(scope="module")
def cluster():
    """Two workers; a scheduler that thins out the copies of data every tenth of a second, and not every two seconds."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed: pip install distributed")
    import dask

    with (
        dask.config.set({"distributed.scheduler.active-memory-manager.interval": "100ms"}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as started,
    ):
        yield started


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Images and their CAMs, 120 of them."""
    folder = tmp_path_factory.mktemp("inputs")
    y, x = np.mgrid[:48, :64]
    for i in range(120):
        scene = compose_scene("val", i % 6, width=64, height=48)
        write_image(folder / "images" / f"{i:03}.png", scene.image)
        cam = np.exp(-((x - 10 - i % 40) ** 2 + (y - 24) ** 2) / 200)[None]
        save_cams(folder / "cams" / f"{i:03}.npz", [1 + i % 9], cam)
    return folder


def write_image(path, pixels):
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_masks(inputs, out, *options):
    command = ["masks", "--cams", inputs / "cams", "--images", inputs / "images", "--out", out]
    done = CliRunner().invoke(main, [str(part) for part in (*command, *options)])
    assert done.exit_code == 0, done.output
    return {path.name: path.read_bytes() for path in out.glob("*.png")}


@pytest.mark.slow
def test_masks_are_the_same_on_one_worker_on_two_and_on_a_cluster(inputs, cluster, tmp_path):
    one = make_masks(inputs, tmp_path / "one", "-p", "workers=1")
    assert len(one) == 120 and make_masks(inputs, tmp_path / "two", "-p", "workers=2") == one
    assert make_masks(inputs, tmp_path / "dask", "-p", f"scheduler={cluster.scheduler_address}") == one


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_mask(inputs, cluster, tmp_path):
    one, out, killed = make_masks(inputs, tmp_path / "one"), tmp_path / "dask", []

    def kill_a_worker():
        while not out.is_dir() or len(list(out.glob("*.png"))) < 10:
            time.sleep(0.01)
        name, worker = next(iter(cluster.workers.items()))
        killed.append((name, worker.process.pid))
        os.kill(worker.process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_a_worker, daemon=True)
    killer.start()
    assert make_masks(inputs, out, "-p", f"scheduler={cluster.scheduler_address}") == one
    killer.join(10)
    assert killed


@pytest.mark.slow
def test_each_worker_may_be_killed_after_the_other(cluster):
    """Whichever of them holds the function, and the results that nobody has fetched."""
    offset = np.arange(100_000)

    def work(i):
        time.sleep(0.02)
        return int(offset[i]) ** 2

    squares = []
    for square in map_images(work, range(200), scheduler=cluster.scheduler_address):
        squares.append(square)
        if len(squares) in (20, 60):
            worker = cluster.workers[len(squares) // 40]
            dead, patience = worker.pid, time.monotonic() + 120
            os.kill(dead, signal.SIGKILL)
            while worker.pid in (dead, None) or len(cluster.scheduler.workers) < 2:
                assert time.monotonic() < patience, "no worker was started anew"
                time.sleep(0.01)
    assert squares == [i * i for i in range(200)]


@pytest.mark.slow
def test_an_image_that_kills_every_worker_is_one_line(cluster):
    def work(i):
        if i == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    with pytest.raises(InputError, match=r"^scheduler = tcp://.*: 4 workers died in turn, at \d or at an item near it"):
        list(map_images(work, range(10), scheduler=cluster.scheduler_address))


@pytest.mark.slow
def test_a_scheduler_that_is_lost_in_mid_work_is_one_line():
    pytest.importorskip("distributed", reason="distributed is not installed: pip install distributed")
    start = "LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol='tcp', dashboard_address=None)"
    script = f"import time; from distributed import *; print({start}.scheduler_address, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as cluster:
        results = map_images(abs, range(1000), scheduler=cluster.stdout.readline().strip())
        assert next(results) == 0
        cluster.kill()
        with pytest.raises(InputError, match=r"^scheduler = tcp://.*: was lost in mid-work; start it again"):
            list(results)


@pytest.mark.slow
def test_every_image_of_a_run_may_be_computed_on_a_cluster(cluster, tmp_path):
    """CAMs, masks, predictions and scores; trainings stay where they are."""
    one, dask = (tiny.params(tmp_path / name, cyclic_crf=True) for name in ("one", "dask"))
    train(one)
    train(dask.model_copy(update={"scheduler": cluster.scheduler_address}))
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*") if path.suffix in MADE}
    assert len(files) > 4 * 6
    for file in files:
        assert (tmp_path / "dask" / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file
    own, other = (RunFolder(run_path(p)) for p in (one, dask))
    for name in ("classifier", "masks/ppmg", "masks/cyclic1", "segmenter/pus/val"):
        assert own.recorded(name).facts == other.recorded(name).facts and own.recorded(name).facts, name


@pytest.mark.slow
def test_coco_is_converted_on_a_cluster_as_here(cluster, tmp_path):
    pytest.importorskip("pycocotools", reason="pycocotools is not installed: pip install pycocotools")
    coco = ROOT.parent / "shared" / "minicoco"
    if not coco.is_dir():
        pytest.skip(f"{coco} is not there: 30 images in COCO's layout")
    for name, option in (("one", "--workers=1"), ("dask", f"--scheduler={cluster.scheduler_address}")):
        command = ["data", "coco2014", "--root", str(coco), "--out", str(tmp_path / name), option]
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
    maps = {path.relative_to(tmp_path / "one"): path.read_bytes() for path in (tmp_path / "one").rglob("*.*")}
    assert maps == {path.relative_to(tmp_path / "dask"): path.read_bytes() for path in (tmp_path / "dask").rglob("*.*")}
    assert len(maps) > 30


TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
IN_A_NOTEBOOK = """
import runpy, sys
from accelerate import notebook_launcher

def main():
    runpy.run_path(sys.argv.pop(1), run_name="__main__")

notebook_launcher(main, num_processes=2)
"""


def two_processes(launch, *command):
    """Start a command twice, as `accelerate launch` and torchrun do, or a script, as accelerate's notebook_launcher."""
    launch = [sys.executable, *launch]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*launch, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


TRAINING = """
import json, os, sys, time
from functools import partial
from pathlib import Path
import numpy as np, torch
from torch import nn
from pmm.method.losses import PretendedUnderfittingLoss
from pmm.networks.devices import seeded
from pmm.networks.training import SegmentationLoss, TrainingImages, TrainingSettings, fit
from pmm.processes import join, rank

join("cpu")
folder, seen = Path(sys.argv[1]), []
rng = np.random.default_rng(0)
pictures = rng.integers(0, 256, (8, 3, 12, 12), dtype=np.uint8)
targets = rng.integers(0, 3, (8, 12, 12), dtype=np.uint8)
for i, target in enumerate(targets):  # the shares of a batch differ in the pixels that count
    target[: i + 1] = 255

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), nn.Conv2d(8, 3, 1)
    def forward(self, x):
        return self.head(self.backbone(x))

def load(index):
    time.sleep(float(os.environ.get("SECONDS_AN_IMAGE", 0)))
    seen.append(index)
    return pictures[index], targets[index], None

with seeded(1):
    model = Net()
images = TrainingImages(load, 8, lambda image, mask, rng: (torch.from_numpy(image), torch.from_numpy(mask)), 0)
own = {"micro_batches": int(sys.argv[2])}
settings = TrainingSettings(epochs=6, batch_size=4, lr=0.01, head_lr=2.0, weight_decay=0.01, **own)
loss = SegmentationLoss(PretendedUnderfittingLoss("clamp", beta=float(sys.argv[4]), kappa=0.9, variant=sys.argv[3]))
fit(model, images, loss, settings, folder, backbone=model.backbone, statistics=([0.5] * 3, [0.5] * 3), title="tiny")
(folder / f"seen{rank()}.json").write_text(json.dumps(seen))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "beta", "launch"), [("paper", 1.09, TORCHRUN), ("official", 0.71, ["-c", IN_A_NOTEBOOK])]
)
def test_two_processes_learn_what_one_learns(tmp_path, variant, beta, launch):
    """The same losses, gates and weights; each sample once an epoch; one writer."""
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    alone, both = tmp_path / "alone", tmp_path / "both"
    alone.mkdir(), both.mkdir()
    subprocess.run([sys.executable, str(script), str(alone), "1", variant, str(beta)], check=True, cwd=ROOT)
    two_processes(launch, script, both, 1, variant, beta)
    logs = [np.genfromtxt(folder / "log.csv", delimiter=",", names=True) for folder in (alone, both)]
    for name in ("loss", "mean_loss", "gate_open", "over_kappa"):
        if name != "over_kappa":  # a share of each process's own pixels
            np.testing.assert_allclose(logs[1][name], logs[0][name], atol=2e-6, err_msg=name)
    assert 0 < logs[0]["gate_open"].mean() < 1
    weights = [torch.load(folder / "weights.pt", weights_only=True) for folder in (alone, both)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-4)
    seen = [eval((both / f"seen{k}.json").read_text()) for k in (0, 1)]
    assert all(len(each) == 24 for each in seen)
    for epoch in range(6):
        assert sorted(seen[0][4 * epoch :][:4] + seen[1][4 * epoch :][:4]) == list(range(8))
    assert sorted(path.name for path in both.iterdir()) == [
        "early.pt",
        "log.csv",
        "seen0.json",
        "seen1.json",
        "weights.pt",
    ]


@pytest.mark.slow
def test_two_processes_make_a_whole_run_which_the_notebooks_would_reuse(tmp_path):
    given = ["train", "params/smoke.yaml", "-p", "device=cpu", "-p", f"runs_dir={tmp_path}", "-p"]
    done = CliRunner().invoke(main, [*given, "run_name=one"])
    assert done.exit_code == 0, done.output
    said = two_processes(TORCHRUN, "-m", "pmm", *given, "run_name=two").stdout
    assert said.count("masks/ppmg: computing") == 1  # the second process is silent
    for method in ("threshold", "crf", "ppmg_s0", "ppmg"):  # sums of gradients are rounded otherwise
        masks = [sorted((tmp_path / run / "masks" / method).glob("*.png")) for run in ("one", "two")]
        assert masks[0] and [path.name for path in masks[0]] == [path.name for path in masks[1]]
        same = [read_mask(first) == read_mask(second) for first, second in zip(*masks, strict=True)]
        assert np.mean(same) > 0.99
    again = CliRunner().invoke(main, [*given, "run_name=two"]).output
    assert "reused" in again and "computing" not in again


@pytest.mark.slow
def test_a_training_that_is_killed_in_mid_epoch_ends_with_the_same_weights(tmp_path):
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    command = [sys.executable, str(script)]
    subprocess.run([*command, str(whole), "1", "paper", "1.09"], check=True, cwd=ROOT)
    slowly = {**os.environ, "SECONDS_AN_IMAGE": "0.1"}
    running = subprocess.Popen([*command, str(killed), "1", "paper", "1.09"], cwd=ROOT, env=slowly)
    while not (killed / "checkpoint.pt").exists():  # the first epoch is done, and the second takes 0.8 seconds
        assert running.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    running.kill()
    running.wait()
    assert not (killed / "weights.pt").exists()
    subprocess.run([*command, str(killed), "1", "paper", "1.09"], check=True, cwd=ROOT)
    for name in ("weights.pt", "early.pt", "log.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert len(eval((killed / "seen0.json").read_text())) < 48  # epochs that were done are not done again
