"""What a run's folder holds, stage by stage, and why two runs differ. Nothing is made or changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from pmm.errors import InputError, some
from pmm.files import read_json
from pmm.run.experiment import Experiment, make_all
from pmm.run.folder import STAGE_FILE, RunFolder, Stage, damaged_files, stage_mark
from pmm.run.params import Params, load_params

DONE, STALE, BEGUN, DAMAGED, MISSING = "done", "stale", "begun", "damaged", "missing"


class Probe(RunFolder):
    """A run's folder in which every stage counts as finished: it notes what a run would find, and makes nothing."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.found: dict[str, tuple[str, str]] = {}  # stage -> state and why
        self._wanted: dict[str, str] = {}  # fingerprint -> stage

    @contextmanager
    def stage(self, name: str, settings: Mapping[str, Any], inputs: Sequence[Stage | str] = ()) -> Iterator[Stage]:
        """Note the state of a stage."""
        marks = [i if isinstance(i, str) else i.fingerprint for i in inputs]
        mark, folder = stage_mark(name, dict(settings), marks), self.path / name
        record = read_json(folder / STAGE_FILE)
        self.found[name] = self._state(folder, record, mark, dict(settings), marks)
        self._wanted[mark] = name
        yield Stage(name, folder, mark, dict(settings), True, dict(record.get("facts", {})))

    def recorded(self, name: str) -> Stage | None:
        """Return a stage as if it were finished, if it was asked for before."""
        mark = next((mark for mark, stage in self._wanted.items() if stage == name), None)
        return super().recorded(name) if mark is None else Stage(name, self.path / name, mark, {}, True)

    def _state(
        self, folder: Path, record: Mapping[str, Any], mark: str, settings: dict[str, Any], inputs: list[str]
    ) -> tuple[str, str]:
        if not record:
            kept = self._replaced(str(folder.relative_to(self.path)), mark)
            return (MISSING, "kept in replaced/, comes back") if kept.exists() else (MISSING, "")
        if record.get("fingerprint") != mark:
            return STALE, self._why(record, settings, inputs)
        if not record.get("finished"):
            return BEGUN, "goes on where it stopped"
        damaged = damaged_files(folder)
        if damaged:
            return DAMAGED, some([file.name for file in damaged])
        return DONE, f"{record['seconds']:.0f} s" if "seconds" in record else ""

    def _why(self, record: Mapping[str, Any], settings: dict[str, Any], inputs: list[str]) -> str:
        """Say what a stage was made with, and what is asked for now."""
        old = record.get("settings", {})
        reasons = [f"{name} {old.get(name)} -> {settings.get(name)}" for name in changed(old, settings)]
        before = record.get("inputs", [])
        new = [mark for mark in inputs if mark not in before]
        stages = [self._wanted[mark] for mark in new if mark in self._wanted]
        reasons += [f"{stage} is another" for stage in stages]
        if len(stages) < len(new):
            reasons.append("images, labels, ground truth or weights are others")
        return "; ".join(reasons) or "made by another version of this package"


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the names whose values differ."""
    return [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]


def status(path: Path) -> dict[str, tuple[str, str]]:
    """Return the state of each stage of a run, in the order in which it makes them, and why it is so.

    Raises:
        InputError: `path` is no run, or its data set is not there.
    """
    params = _params(path)
    probe = Probe(path)
    try:
        with redirect_stdout(StringIO()):
            make_all(Experiment(params, run=probe))
    except InputError:
        if probe.found.get("dataset", (DONE,))[0] == DONE:  # the rest depends on data that a run composes
            raise
    return probe.found


def differences(first: Path, second: Path) -> dict[str, list[str]]:
    """Say why the results of two runs differ: parameters, code, machine, stages and numbers, each a list of lines.

    Raises:
        InputError: one of them is no run.
    """
    runs, params = [RunFolder(first), RunFolder(second)], [_params(path).model_dump() for path in (first, second)]
    made = [run.manifest() for run in runs]
    where = [dict(each.get("environment", {})) for each in made]
    packages = [each.pop("packages", {}) or {} for each in where]
    code = [{name: each.pop(name, None) for name in ("pmm", "code")} for each in where]
    stages = [each.get("stages", {}) for each in made]
    found = {
        "parameters": _lines(*params),
        "code": _lines(*code),
        "machine": [*_lines(*where), *_lines(*packages)],
        "stages": [_stage_line(name, *(each.get(name) for each in stages)) for name in _other_stages(*stages)],
        "sections of metrics.json": changed(*(run.metrics() for run in runs)),
    }
    return {what: lines for what, lines in found.items() if lines}


def _params(path: Path) -> Params:
    if not (path / "params.yaml").is_file():
        raise InputError(f"{path}: no run, since it has no params.yaml; name a folder such as runs/demo")
    try:
        return load_params(path / "params.yaml")
    except InputError as error:
        raise InputError(f"{error}; if the run is old or damaged, delete this file") from None


def _lines(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {first.get(name)} | {second.get(name)}" for name in changed(first, second)]


def _other_stages(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    marks = [{name: record.get("fingerprint") for name, record in each.items()} for each in (first, second)]
    return changed(*marks)


def _stage_line(name: str, first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> str:
    if first is None or second is None:
        return f"{name}: in the {'second' if first is None else 'first'} alone"
    names = changed(first.get("settings", {}), second.get("settings", {}))
    return f"{name}: {', '.join(names) if names else 'its inputs are others'}"
