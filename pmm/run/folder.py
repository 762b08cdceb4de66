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
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

import pmm
from pmm.errors import InputError, some
from pmm.files import read_json, without_nan, write_text
from pmm.processes import count, from_first, is_first
from pmm.threads import map_images

TICK = 100_000_000  # nanoseconds by which the times of files may lag behind the clock
STAGE_FILE, FILES_FILE = ".stage.json", ".files.json"  # what a stage is, and what it wrote
SCHEMA = 2  # of manifest.json
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
    try:
        return str(project_root() / Path(path).expanduser()) if path else ""
    except RuntimeError:
        raise InputError(f"{path}: the home of no user that is known; write the whole path") from None


def fingerprint(content: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for a JSON-like mapping."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def stage_mark(name: str, settings: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """Return the fingerprint of a stage: what it is, what it was told, what it reads, and the package's version."""
    return fingerprint({"stage": name, "settings": settings, "inputs": inputs, "version": pmm.__version__})


def file_mark(path: Path) -> str:
    """Return 16 hexadecimal digits that stand for a file's content; none for a missing one, whose use complains."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


class FileMarks:
    """Marks of files' content, kept in a JSON file: only what changed its size or its times is read again.

    Args:
        path: of the JSON file; a damaged one counts as empty.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._known = read_json(path)
        except InputError:
            self._known = {}

    def of(self, files: Iterable[Path]) -> list[str]:
        """Return a mark for each file, "" for one that is not there; the same file may come often."""
        files = list(files)
        states = {file: _state(file) for file in dict.fromkeys(files)}
        unknown = [file for file, state in states.items() if self._known.get(str(file), [None, ""])[:-1] != state]
        marks = map_images(file_mark, unknown)
        bar = tqdm(
            marks, desc="reading files", total=len(unknown), unit="file", leave=False, disable=len(unknown) < 1000
        )
        self._known |= {str(file): [*states[file], mark] for file, mark in zip(unknown, bar, strict=True)}
        if unknown and is_first():
            write_text(self.path, json.dumps(self._known))
        return [self._known[str(file)][-1] for file in files]


def _state(file: Path) -> list[int]:
    """Return size and times, which differ where the content does; nothing of a file that is not there."""
    try:
        found = file.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


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
        "torch threads": torch.get_num_threads(),
        "code": code_state(),
    }


@cache
def code_state() -> dict[str, Any] | None:
    """Return the git commit of the package's code and whether it has been changed since; None outside a checkout."""
    home = Path(pmm.__file__).parents[1]
    if not (home / ".git").exists():
        return None
    try:
        asked = partial(subprocess.run, cwd=home, capture_output=True, text=True, check=True, timeout=10)
        commit = asked(["git", "rev-parse", "HEAD"]).stdout.strip()
        dirty = bool(asked(["git", "status", "--porcelain", "--", "pmm", "notebooks"]).stdout.strip())
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": dirty}


def processor_name() -> str:
    """Return the processor's model name, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory() -> int | None:
    """Return the most memory that this process has had so far, in MiB; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), None)


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


def own_files(folder: Path) -> list[Path]:
    """Return the files that a stage wrote: those of stages below its folder, and records, are not among them."""
    files = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not (path / STAGE_FILE).exists():
            files += own_files(path)
        elif path.is_file() and not path.name.startswith("."):
            files.append(path)
    return files


def damaged_files(folder: Path) -> list[Path]:
    """Return the files of a finished stage that are missing or have another content than when it ended.

    Only files that changed since the record was written are read.
    """
    record = folder / FILES_FILE
    try:
        written = read_json(record)
    except InputError:
        return []
    since = record.stat().st_mtime_ns - TICK if written else 0
    states = {folder / name: _state(folder / name) for name in written}
    doubtful = [file for file, state in states.items() if state and max(state[1:]) > since]
    marks = dict(zip(doubtful, map_images(file_mark, doubtful), strict=True))
    damaged = [
        file for (file, state), mark in zip(states.items(), written.values(), strict=True)
        if not state or marks.get(file, mark) != mark
    ]  # fmt: skip
    if doubtful and not damaged:
        os.utime(record)  # a run that was copied is read once
    return damaged


class RunFolder:
    """The folder of one run and the record of its stages."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._announced: set[str] = set()

    @cached_property
    def marks(self) -> FileMarks:
        """Marks of the data set's files, for fingerprints."""
        return FileMarks(self.path / ".marks.json")

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
        mark = stage_mark(name, settings, inputs)
        folder = self.path / name
        record = self._record(folder)
        if record.get("fingerprint") != mark:
            self._make_room(name, record)
            record = self._bring_back(name, mark)
        if record.get("finished") and mark not in self._announced:
            record = self._without_damage(name, record)
        if not record:
            record = {"fingerprint": mark, "settings": settings, "inputs": inputs, "finished": False}
            write_text(folder / STAGE_FILE, json.dumps(record, indent=1))
        return Stage(name, folder, mark, settings, bool(record["finished"]), record.get("facts", {}))

    def _record(self, folder: Path) -> dict[str, Any]:
        """Read what a folder's stage is; a damaged record is that of a stage that nobody knows."""
        try:
            return read_json(folder / STAGE_FILE)
        except InputError as error:
            print(f"{error}; its stage is made again", flush=True)
            return {}

    def _without_damage(self, name: str, record: dict[str, Any]) -> dict[str, Any]:
        """Delete what is not as the stage wrote it, and say so; such a stage is not finished."""
        folder = self.path / name
        damaged = damaged_files(folder)
        if damaged:
            shown = some([str(file.relative_to(folder)) for file in damaged])
            print(f"{name}: {len(damaged)} files are damaged or missing ({shown}); made again", flush=True)
            for file in damaged:
                file.unlink(missing_ok=True)
            record = {**record, "finished": False}
            write_text(folder / STAGE_FILE, json.dumps(record, indent=1))
        return record

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
        record |= {"peak MiB": peak_memory(), "processes": count()}
        files = own_files(stage.folder)
        written = dict(
            zip((str(f.relative_to(stage.folder)) for f in files), map_images(file_mark, files), strict=True)
        )
        write_text(stage.folder / FILES_FILE, json.dumps(written))
        write_text(stage.folder / STAGE_FILE, json.dumps(record, indent=1))
        self._enter(stage.name, record)

    def _enter(self, name: str, record: Mapping[str, Any]) -> None:
        manifest = self.manifest()
        manifest |= {
            "schema": SCHEMA,
            "command": shlex.join(["pmm", "run", str(self.path / "params.yaml")]),
            "environment": environment(),
        }
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
        if not {"fingerprint", "settings", "facts"} <= record.keys():
            raise InputError(f"{folder / STAGE_FILE}: damaged; delete this folder, the run makes its stage again")
        return Stage(name, folder, record["fingerprint"], record["settings"], True, record["facts"])

    def manifest(self) -> dict[str, Any]:
        """Return manifest.json.

        schema: 2, the version of this description; command: repeats the run; environment: see `environment`; stages:
        for each its fingerprint, settings (its parameters, with the seed), inputs (fingerprints of stages and of data),
        finished, facts, seconds, peak MiB of the process up to its end, and processes, how many shared the work;
        notebooks: for each its seconds and peak_memory_mib. All parameters are in params.yaml beside it.
        """
        return read_json(self.path / "manifest.json")

    def metrics(self) -> dict[str, Any]:
        """Return metrics.json: every number of the tables."""
        return read_json(self.path / "metrics.json")

    def record_metrics(self, section: str, values: Mapping[str, Any]) -> None:
        """Replace one section of metrics.json; times and paths do not belong there."""
        metrics = {**self.metrics(), section: without_nan(dict(values))}
        write_text(self.path / "metrics.json", json.dumps(metrics, indent=1, sort_keys=True))
