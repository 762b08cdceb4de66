"""Run the numbered notebooks end to end from one parameter set: papermill, one fresh kernel each.

The executed copies, with all figures and tables, land in `runs/<run_name>/notebooks/`; seconds and peak
memory of every notebook go into `manifest.json`; `report.html` is written last. Finished stages are reused,
so a run that was interrupted goes on where it stopped when it is started again.

Starting Python and importing torch takes seconds, and a notebook rarely keeps every core busy. So while one notebook
runs, the next one's kernel starts and executes that notebook's import statements, and imports what its trainings
will need; nothing of it is left in the notebook's namespace. papermill, nbformat and nbconvert take seconds, too: they
are imported after the first kernel has been started.
"""

from __future__ import annotations

import ast
import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import zmq
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from tqdm import tqdm

from pmm.errors import InputError, MissingDependency
from pmm.files import write_text
from pmm.networks import LATE_IMPORTS
from pmm.run.folder import RunFolder, alone_in, project_root
from pmm.run.params import Params, open_run, run_path

if TYPE_CHECKING:
    from papermill.exceptions import PapermillExecutionError

    from pmm.run.pages import Page

USER_ERRORS = (InputError.__name__, MissingDependency.__name__)
NO_PLACE = (errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EFBIG, errno.EDQUOT)  # where a file cannot be written
SAMPLE_SECONDS = 0.5


class WholeCopies:
    """How papermill writes the executed copy after each cell: whole, so that a killed run leaves none cut short."""

    @staticmethod
    def write(text: str, path: str) -> None:
        """Replace a file."""
        write_text(Path(path), text)

    @staticmethod
    def pretty_path(path: str) -> str:
        """Return the path as papermill's messages show it."""
        return path


class NotebookError(RuntimeError):
    """A notebook stopped for a reason that is not the user's input; `traceback` is the kernel's text."""

    def __init__(self, message: str, traceback: str = ""):
        super().__init__(message)
        self.traceback = traceback


def find_notebooks(only: Sequence[str] | None = None, folder: Path | None = None) -> list[Path]:
    """List the numbered notebooks in the order in which they run.

    Args:
        only: those wanted, by number, name or path: "04", "4", "04_pseudo_masks"; defaults to all.
        folder: where they are; the project's `notebooks/` unless told.

    Raises:
        InputError: the folder has no numbered notebook, or a wanted one is not there.
    """
    folder = folder or project_root() / "notebooks"
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise InputError(f"{folder}: no notebook such as 01_data.ipynb here; run pmm inside the project")
    if only is None:
        return found
    chosen = set()
    for wanted in only:
        stem = Path(wanted).name.removesuffix(".ipynb")
        matching = [path for path in found if path.stem == stem or path.stem.split("_")[0] == stem.zfill(2)]
        if not matching:
            raise InputError(f"{wanted}: no such notebook; there are {', '.join(p.stem for p in found)}")
        chosen.update(matching)
    return sorted(chosen)


def injected_parameters(params: Params) -> dict[str, Any]:
    """Return what a notebook must be told: the run's name and all that differs from the defaults."""
    defaults = Params().model_dump()
    changed = {name: value for name, value in params.model_dump().items() if value != defaults[name]}
    return {"run_name": params.run_name, **changed}


def run_notebooks(
    params: Params,
    notebooks: Sequence[str] | None = None,
    *,
    folder: Path | None = None,
    verbose: bool = False,
    report: bool = True,
) -> RunFolder:
    """Execute notebooks in order and write the report.

    Args:
        params: checked parameters of the run.
        notebooks: those wanted, as `find_notebooks` takes them; None runs all, without the second if `cam_dir` is set.
        folder: folder of the notebooks; the project's unless told.
        verbose: copy what the notebooks print to the terminal.
        report: write `report.html` at the end.

    Returns:
        The run's folder.

    Raises:
        InputError: no such notebook, another process is at work in the run's folder, or it belongs to other data; or a
            notebook met bad input or a full or closed folder: the message is the notebook's own line then.
        NotebookError: a notebook failed otherwise; the message names notebook, cell and executed copy.
    """
    chosen = find_notebooks(notebooks, folder)
    if params.cam_dir and notebooks is None:
        chosen = [path for path in chosen if not path.stem.startswith("02")]
        print(f"02: left out, it is about the classifier; the CAMs come from {params.cam_dir}", flush=True)
    with alone_in(run_path(params)):
        run = open_run(params)
        pages: dict[str, Future[Page]] = {}
        with ThreadPoolExecutor(1) as beside:  # a notebook becomes a page while the next one runs
            for executed in _run_each(chosen, run, injected_parameters(params), verbose):
                if report:
                    pages[executed.stem] = beside.submit(_export, executed)
        if report:
            from pmm.run.report import write_report

            print(f"report: {write_report(run, {name: page.result() for name, page in pages.items()})}", flush=True)
    return run


def _export(executed: Path) -> Page:
    from pmm.run.pages import export_page

    return export_page(executed)


def _run_each(chosen: Sequence[Path], run: RunFolder, parameters: dict[str, Any], verbose: bool) -> Iterator[Path]:
    """Execute and record notebooks one by one; yield each executed copy."""
    folder = (run.path / "notebooks").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with kernels_ahead([notebook.resolve() for notebook in chosen], run.path.resolve() / KERNEL_HOME) as kernels:
        cells = {notebook.resolve(): _count_code_cells(notebook) for notebook in chosen}
        for position, (notebook, kernel) in enumerate(kernels, start=1):
            title = f"[{position}/{len(chosen)}] {notebook.stem}"
            started = time.perf_counter()
            with _Watch(title, cells[notebook], kernel, verbose) as watch:
                _execute(notebook, folder / notebook.name, parameters, kernel, watch)
            facts = {"seconds": round(time.perf_counter() - started, 1), "peak_memory_mib": watch.peak_mib}
            print(f"{title}: done in {facts['seconds']:.0f} s, peak memory {watch.peak_mib} MiB", flush=True)
            manifest = run.manifest()
            manifest["notebooks"] = {**manifest.get("notebooks", {}), notebook.stem: facts}
            write_text(run.path / "manifest.json", json.dumps(manifest, indent=1))
            yield folder / notebook.name


def _count_code_cells(notebook: Path) -> int:
    import nbformat

    try:
        document = nbformat.read(notebook, as_version=4)
    except Exception as error:  # nbformat raises many kinds, none of them useful to a reader
        kind = type(error).__name__
        raise InputError(f"{notebook}: no readable notebook ({kind}); restore the file") from None
    return 1 + sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in document.cells)


def _execute(notebook: Path, output: Path, parameters: dict[str, Any], kernel: RunningPython, watch: _Watch) -> None:
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from papermill.iorw import papermill_io

    papermill_io.register(str(output), WholeCopies)
    logging.getLogger("papermill").disabled = True  # it warns of names that a notebook does not use

    def escape(path: Path) -> str:
        """Keep papermill from filling in {names} that it finds in a path."""
        return str(path).replace("{", "{{").replace("}", "}}")

    try:
        papermill.execute_notebook(
            escape(notebook),
            escape(output),
            parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            cwd=notebook.parent,
            stdout_file=watch,
            stderr_file=watch,
            km=kernel,
            store_widget_state=False,  # a page without a kernel shows the widgets' pictures instead
            on_cell_executed=watch.cell_done,
        )
    except PapermillExecutionError as error:
        raise _translate(error, notebook, output) from None
    except (RuntimeError, TimeoutError) as error:  # nbclient's DeadKernelError is a RuntimeError
        raise NotebookError(
            f"{notebook.name}, cell In [{_last_started_cell(output)}]: the kernel stopped "
            f"({type(error).__name__}), often for want of memory; lower the batch sizes or crops; "
            f"executed copy: {output}"
        ) from None


def _translate(error: PapermillExecutionError, notebook: Path, output: Path) -> Exception:
    if error.ename == "KeyboardInterrupt":
        return KeyboardInterrupt()
    if error.ename in USER_ERRORS:
        return InputError(" ".join(error.evalue.split()))
    number = re.match(r"\[Errno (\d+)\] ", error.evalue)
    if number and int(number[1]) in NO_PLACE:
        return InputError(f"{error.evalue[number.end() :]}; check the rights and the space; executed copy: {output}")
    what = " ".join(f"{error.ename}: {error.evalue}".split())
    message = f"{notebook.name}, cell In [{error.exec_count}]: {what}; executed copy: {output}"
    return NotebookError(message, "\n".join(error.traceback))


def _last_started_cell(output: Path) -> int:
    import nbformat

    with suppress(Exception):  # the copy may be half-written after a crash
        cells = [cell for cell in nbformat.read(output, as_version=4).cells if cell.cell_type == "code"]
        return sum(bool(cell.metadata.get("papermill", {}).get("start_time")) for cell in cells)
    return 1


class _Watch:
    """A bar of one notebook's cells that takes the kernel's text like a file; samples the kernel's memory meanwhile."""

    def __init__(self, title: str, cells: int, kernel: RunningPython, verbose: bool):
        self.peak_mib = 0
        self._kernel, self._verbose = kernel, verbose
        self._unfinished_line = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._bar = tqdm(total=cells, desc=title, unit="cell", leave=False, disable=None, dynamic_ncols=True)
        if self._bar.disable:
            print(f"{title}: running", flush=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._bar.close()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak_mib = max(self.peak_mib, round(self._kernel.memory() / 2**20))
            if not self._bar.disable:  # so that the clock goes on during a long cell
                self._bar.refresh()

    def write(self, text: str) -> None:
        """Take a piece of text; whole lines are shown, in full or as the bar's postfix."""
        *lines, self._unfinished_line = (self._unfinished_line + text).split("\n")
        for line in lines:
            line = line.rpartition("\r")[2]
            if self._verbose:
                self._bar.write(f"    {line}", file=sys.stdout)
            elif line.strip():
                self._bar.set_postfix_str(line.strip()[:40], refresh=True)

    def flush(self) -> None:
        """Do nothing; `write` shows every whole line at once."""

    def cell_done(self, **_: object) -> None:
        """Advance by one cell."""
        self._bar.update()


# --- kernels

NO_HISTORY = "--HistoryManager.enabled=False"  # what a batch executes is in its notebooks
KERNEL_HOME = ".kernels"  # in the run's folder, while it runs: else kernels write to the user's home and to /tmp


class RunningPython(AsyncKernelManager):
    """Starts kernels with the running interpreter, whatever kernels and start-up files of IPython the user has.

    Args:
        home: folder for what a kernel writes beside the notebook's own files: connection, IPython's profile, caches.
    """

    def __init__(self, home: Path, **settings: Any):
        super().__init__(connection_file=str(home / f"{uuid.uuid4().hex}.json"), **settings)
        self._own = {"IPYTHONDIR": str(home / "ipython"), "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor")}
        if self.has_trait("transport_encryption") and zmq.has("curve"):
            self.transport_encryption = "auto"  # newer kernels warn of a plain connection

    @property
    def kernel_spec(self) -> KernelSpec:
        """Return a specification made here; nothing is looked up on disk."""
        return KernelSpec(**get_kernel_dict())

    async def start_kernel(self, **settings: Any) -> None:
        """Start a kernel; its own log is dropped, what the notebook prints comes over the wire."""
        own = {"stderr": subprocess.DEVNULL, "env": {**os.environ, **self._own}}
        await super().start_kernel(**{**own, **settings})

    def memory(self) -> int:
        """Return the resident memory of the kernel and its children in bytes; 0 when it has ended."""
        used, started = 0, getattr(self.provisioner, "process", None)
        with suppress(psutil.Error):
            process = psutil.Process(started.pid) if started else None
            for one in [process, *process.children(recursive=True)] if process else []:
                with suppress(psutil.Error):
                    used += one.memory_info().rss
        return used


def import_statements(notebook: Path) -> str:
    """Return the top-level import statements of a notebook's code cells, one a line, and those of its trainings.

    Args:
        notebook: file of the notebook; a damaged one has none, cells that are no plain Python are passed over.
    """
    found, called = [], set()
    with suppress(OSError, ValueError, KeyError, TypeError):
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            with suppress(SyntaxError):
                tree = ast.parse("".join(cell["source"]) if cell["cell_type"] == "code" else "")
                found += [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
                called |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    late = [f"import {', '.join(names)}" for stage, names in LATE_IMPORTS.items() if stage in called]
    return "\n".join(found + late)


@contextmanager
def kernels_ahead(notebooks: Sequence[Path], home: Path) -> Iterator[Iterator[tuple[Path, RunningPython]]]:
    """Give each notebook its kernel in turn; the next one's is always on its way.

    A kernel ends when the next notebook is asked for, and all that are left when the block ends.

    Args:
        notebooks: files of the notebooks, in order; a kernel works in its notebook's folder.
        home: folder for what kernels write for themselves; it is gone when the block ends, and what a killed run left
            there is gone before.
    """
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    alive: list[RunningPython] = []

    def start(position: int) -> None:
        """Start the kernel of one notebook, if there is one at that position; it imports before it answers."""
        for notebook in notebooks[position : position + 1]:
            alive.append(RunningPython(home))
            warm_up = f"--IPKernelApp.exec_lines=exec({import_statements(notebook)!r}, {{}})"
            run_sync(alive[-1].start_kernel)(cwd=str(notebook.parent), extra_arguments=[warm_up, NO_HISTORY])

    def in_turn() -> Iterator[tuple[Path, RunningPython]]:
        """Hand out each notebook with its kernel, and start the next."""
        for position, notebook in enumerate(notebooks):
            start(position + 1)
            yield notebook, alive[0]
            _stop(alive.pop(0))

    try:
        start(0)
        yield in_turn()
    finally:
        for kernel in alive:
            _stop(kernel)
        shutil.rmtree(home, ignore_errors=True)


def _stop(kernel: RunningPython) -> None:
    run_sync(kernel.shutdown_kernel)(now=True)
