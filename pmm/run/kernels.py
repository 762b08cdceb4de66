"""Kernels for the runner: the running interpreter's, one for each notebook, started before its turn comes.

Starting Python and importing torch takes seconds, and a notebook rarely keeps every core busy. So while one
notebook runs, the next one's kernel starts and executes that notebook's import statements, and imports what its
stages will need. Nothing of it is left in the notebook's namespace.
"""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import zmq
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync

STAGE_IMPORTS = {
    "classifier": "timm, torchmetrics, torchvision.transforms.v2",
    "segmenter": "segmentation_models_pytorch, torchvision.transforms.v2",
}
"""What a stage of `pmm.run.experiment.Experiment` imports when it computes, seconds in all."""


class RunningPython(AsyncKernelManager):
    """Starts kernels with the running interpreter, whatever kernels the user has installed."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        if self.has_trait("transport_encryption") and zmq.has("curve"):
            self.transport_encryption = "auto"  # newer kernels warn of a plain connection

    @property
    def kernel_spec(self) -> KernelSpec:
        """Return a specification made here; nothing is looked up on disk."""
        return KernelSpec(**get_kernel_dict())

    async def start_kernel(self, **settings: Any) -> None:
        """Start a kernel; its own log is dropped, what the notebook prints comes over the wire."""
        await super().start_kernel(**{"stderr": subprocess.DEVNULL, **settings})

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
    """Return the top-level import statements of a notebook's code cells, one a line, and those of its stages.

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
    return "\n".join(found + [f"import {names}" for stage, names in STAGE_IMPORTS.items() if stage in called])


def start_kernel(folder: Path, imports: str = "") -> RunningPython:
    """Start a kernel that works in `folder`, and return at once; it executes `imports` before it answers."""
    manager = RunningPython()
    warm_up = f"--IPKernelApp.exec_lines=exec({imports!r}, {{}})"
    run_sync(manager.start_kernel)(cwd=str(folder), extra_arguments=[warm_up] if imports else [])
    return manager


def stop_kernel(manager: RunningPython) -> None:
    """End a kernel, whatever it does, and free what it held."""
    run_sync(manager.shutdown_kernel)(now=True)


@contextmanager
def kernels_ahead(notebooks: Sequence[Path]) -> Iterator[Iterator[tuple[Path, RunningPython]]]:
    """Give each notebook its kernel in turn; the next one's is always on its way.

    A kernel ends when the next notebook is asked for, and all that are left when the block ends.

    Args:
        notebooks: files of the notebooks, in order; a kernel works in its notebook's folder.
    """
    alive: list[RunningPython] = []

    def start(position: int) -> None:
        """Start the kernel of one notebook, if there is one at that position."""
        for notebook in notebooks[position : position + 1]:
            alive.append(start_kernel(notebook.parent, import_statements(notebook)))

    def in_turn() -> Iterator[tuple[Path, RunningPython]]:
        """Hand out each notebook with its kernel, and start the next."""
        for position, notebook in enumerate(notebooks):
            start(position + 1)
            yield notebook, alive[0]
            stop_kernel(alive.pop(0))

    try:
        start(0)
        yield in_turn()
    finally:
        for manager in alive:
            stop_kernel(manager)
