"""The run folder: atomic writes, fingerprints, what was made from what.

    runs/<run_name>/  params.yaml  manifest.json  metrics.json  report.html
      dataset/  classifier/  cams/  masks/<method>/  segmenter/<name>/  figures/  notebooks/

A stage writes into one folder. Its fingerprint is a hash of its parameters, its inputs' fingerprints and
the package's version; an unchanged fingerprint means that the folder can be reused as it is. A finished stage
that other settings replace moves to `replaced/`, and comes back when its settings do.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import pmm
from pmm.errors import InputError
from pmm.files import read_json, without_nan, write_text
from pmm.processes import from_first, is_first

STAGE_FILE = ".stage.json"
RECORDED_PACKAGES = ("torch", "torchvision", "timm", "segmentation-models-pytorch", "numpy", "numba", "onnxruntime")


def project_root() -> Path:
    """Return the folder that holds `notebooks/` and `params/`: above the working directory, else the package's."""
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    return here


def located(path: str) -> str:
    """Return a path that counts from the project's root, as all paths of a run do; nothing stays nothing."""
    return str(project_root() / Path(path).expanduser()) if path else ""


def fingerprint(content: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for a JSON-like mapping."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def file_mark(path: Path) -> str:
    """Return 16 hexadecimal digits that stand for a file's content; none for a missing one, whose use complains."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


@contextmanager
def alone_in(path: Path) -> Iterator[None]:
    """Keep a run's folder for this process inside the block; the system frees it when the process dies, however.

    Raises:
        InputError: another process has it.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(f"{path}: another `pmm run` is at work here; wait for it, or give another run_name") from None
    try:
        yield
    finally:
        lock.release()


def environment() -> dict[str, Any]:
    """Describe what the numbers depend on beside parameters: versions, processor, accelerator."""
    import torch

    packages = {}
    for name in RECORDED_PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "pmm": pmm.__version__,
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(terse=True),
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def processor_name() -> str:
    """Return the processor's model name, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@dataclass
class Stage:
    """One step's folder. `reused` says that it already holds the finished result of the same inputs."""

    name: str
    folder: Path
    fingerprint: str
    settings: dict[str, Any]
    reused: bool
    facts: dict[str, Any] = field(default_factory=dict)
    """What the step found out: counts, scores. Kept with the stage, so a reused stage still knows it."""


class RunFolder:
    """The folder of one run and the record of its stages."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._announced: set[str] = set()

    @contextmanager
    def stage(self, name: str, settings: Mapping[str, Any], inputs: Sequence[Stage | str] = ()) -> Iterator[Stage]:
        """Enter a stage; leaving it without an exception marks it finished.

        An interrupted stage keeps its files, so that its body can go on where it stopped. A folder made with
        other settings makes room: finished it moves to `replaced/`, unfinished it is emptied. The body must do
        nothing where `stage.reused` is true. Several processes enter together, and the first decides and records.

        Args:
            name: folder below the run, such as `masks/ppmg`.
            settings: the parameters that decide the result.
            inputs: stages (or fingerprints) that this one reads.
        """
        marks = [i if isinstance(i, str) else i.fingerprint for i in inputs]
        stage = from_first(self._open(name, dict(settings), marks) if is_first() else None)
        if stage.fingerprint not in self._announced:
            print(f"{name}: {'reused' if stage.reused else 'computing'} ({stage.fingerprint})", flush=True)
        self._announced.add(stage.fingerprint)
        started = time.perf_counter()
        yield stage
        if not stage.reused:
            stage.facts = from_first(stage.facts)
            if is_first():
                self._close(stage, time.perf_counter() - started)
            from_first(None)  # none reads the stage before it is closed

    def _open(self, name: str, settings: dict[str, Any], inputs: list[str]) -> Stage:
        mark = fingerprint({"stage": name, "settings": settings, "inputs": inputs, "version": pmm.__version__})
        folder = self.path / name
        record = read_json(folder / STAGE_FILE)
        if record.get("fingerprint") != mark:
            self._make_room(name, record)
            record = self._bring_back(name, mark)
        if not record:
            record = {"fingerprint": mark, "settings": settings, "inputs": inputs, "finished": False}
            write_text(folder / STAGE_FILE, json.dumps(record, indent=1))
        return Stage(name, folder, mark, settings, bool(record["finished"]), record.get("facts", {}))

    def _make_room(self, name: str, record: Mapping[str, Any]) -> None:
        """Clear a stage's folder; what is finished there may be a night's work, so it is kept."""
        folder = self.path / name
        if record.get("finished"):
            kept = self._replaced(name, record["fingerprint"])
            shutil.rmtree(kept, ignore_errors=True)
            kept.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(kept)
            print(f"{name}: settings changed; what the old ones made is kept in {kept}", flush=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)

    def _bring_back(self, name: str, mark: str) -> dict[str, Any]:
        """Put a replaced stage back into its place and return its record; an empty one if there is none."""
        kept, folder = self._replaced(name, mark), self.path / name
        record = read_json(kept / STAGE_FILE)
        if record:
            folder.parent.mkdir(parents=True, exist_ok=True)
            kept.rename(folder)
            self._enter(name, record)
        return record

    def _replaced(self, name: str, mark: str) -> Path:
        return self.path / "replaced" / f"{name.replace('/', '_')}_{mark}"

    def _close(self, stage: Stage, seconds: float) -> None:
        record = read_json(stage.folder / STAGE_FILE)
        record |= {"finished": True, "facts": without_nan(stage.facts), "seconds": round(seconds, 1)}
        write_text(stage.folder / STAGE_FILE, json.dumps(record, indent=1))
        self._enter(stage.name, record)

    def _enter(self, name: str, record: Mapping[str, Any]) -> None:
        manifest = self.manifest()
        manifest["environment"] = environment()
        manifest.setdefault("stages", {})[name] = dict(record)
        write_text(self.path / "manifest.json", json.dumps(manifest, indent=1))

    def begun(self, name: str) -> dict[str, Any]:
        """Return what is known of the stage in a folder, finished or not: settings, inputs, finished; else nothing."""
        return read_json(self.path / name / STAGE_FILE)

    def recorded(self, name: str) -> Stage | None:
        """Return a finished stage by its folder's name, or None."""
        folder = self.path / name
        record = read_json(folder / STAGE_FILE)
        if not record.get("finished"):
            return None
        return Stage(name, folder, record["fingerprint"], record["settings"], True, record["facts"])

    def manifest(self) -> dict[str, Any]:
        """Return manifest.json: environment, and for each stage its settings, inputs and seconds."""
        return read_json(self.path / "manifest.json")

    def metrics(self) -> dict[str, Any]:
        """Return metrics.json: every number of the tables."""
        return read_json(self.path / "metrics.json")

    def record_metrics(self, section: str, values: Mapping[str, Any]) -> None:
        """Replace one section of metrics.json; times and paths do not belong there."""
        metrics = {**self.metrics(), section: without_nan(dict(values))}
        write_text(self.path / "metrics.json", json.dumps(metrics, indent=1, sort_keys=True))
