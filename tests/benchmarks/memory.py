"""Memory of many masks and what takes it, each way in a program of its own that somebody else watches.

python tests/benchmarks/memory.py recipe|ours IMAGES WORKERS    makes masks
python tests/benchmarks/memory.py steps recipe|ours             prints what one thread takes, step by step
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import psutil
from recipe import blobs, one_thread, our_mask, photograph, recipe_mask

SIZE = (500, 375)
WORKERS = (2, 4, 8)
MIB = 2**20


def memory(n_images: int) -> dict[str, Any]:
    """(f) Peak memory on several numbers of workers, parent and workers together, and the steps of one thread."""
    rows = []
    for workers in WORKERS:
        found = {who: job_memory(who, n_images, workers) for who in ("recipe", "ours")}
        rows.append({"workers": workers, **found, "ratio": round(found["ours"]["peak"] / found["recipe"]["peak"], 2)})
    return {"jobs": rows, "steps": {who: _steps_of(who) for who in ("recipe", "ours")}}


def job_memory(work: str, n_images: int, workers: int) -> dict[str, float]:
    """Run this file, watch it and its children: MiB at rest, before it makes masks, and at its peak."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(_command(work, n_images, workers), env=_environment(), **pipes) as job:
        job.stdout.readline()
        rest = peak = sum(tree_memory(job.pid)) / MIB
        job.stdin.write("\n")
        job.stdin.flush()
        while job.poll() is None:
            peak = max(peak, sum(tree_memory(job.pid)) / MIB)
            time.sleep(0.05)
    return {"rest": round(rest, 1), "peak": round(peak, 1)}


def tree_memory(pid: int) -> tuple[int, int]:
    """Return the bytes of a process and its children: its own, and the pages of files, those of a file once.

    Unlike proportional set sizes it does not depend on what other programs have mapped. Linux only.
    """
    own, files = 0, Counter()
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            for mapped in process.memory_maps(grouped=True):
                own += mapped.anonymous
                files[mapped.path] = max(files[mapped.path], mapped.rss - mapped.anonymous)
    except psutil.Error:
        pass  # it has just ended
    return own, sum(files.values())


def _steps_of(work: str) -> list[dict[str, Any]]:
    for _ in range(2):  # the first one may have to compile
        text = subprocess.run(_command("steps", work), env=_environment(), check=True, capture_output=True, text=True)
    return json.loads(text.stdout)


def _command(*arguments: Any) -> list[str]:
    return [sys.executable, str(Path(__file__)), *map(str, arguments)]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def make_masks(work: str, n_images: int, workers: int) -> None:
    """Make masks on some workers, as in part b, for somebody who watches the memory."""
    jobs = ((photograph(i % 5, *SIZE), blobs(i, 1 + i % 3, *SIZE)) for i in range(n_images))
    print("ready", flush=True)
    sys.stdin.readline()
    if work == "recipe":
        joblib.Parallel(n_jobs=workers)(joblib.delayed(recipe_mask)(*job) for job in jobs)
    else:
        each = (joblib.delayed(one_thread)(partial(our_mask, *job)) for job in jobs)
        joblib.Parallel(n_jobs=workers, prefer="threads")(each)


def steps(work: str) -> Iterator[tuple[str, float]]:
    """Yield what has been done and the bytes of the largest peak in it, 0 where the end of the step counts."""
    image, cams = photograph(0, *SIZE), [blobs(0, c, *SIZE) for c in (1, 2, 3)]
    yield "Python, numpy, Pillow, joblib, pmm and the inputs", 0
    if work == "recipe":
        import pydensecrf.densecrf  # noqa: F401

        yield "pydensecrf", 0
    else:
        yield from _numba_steps()
    for cam in cams:
        one_thread(partial({"recipe": recipe_mask, "ours": our_mask}[work], image, cam))
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    yield "masks of one worker, at their peak", int(status["VmHWM"].split()[0]) * 1024  # ru_maxrss would be inherited


def _numba_steps() -> Iterator[tuple[str, float]]:
    import llvmlite.binding  # noqa: F401

    yield "LLVM, which numba links with", 0
    import numba  # noqa: F401

    yield "numba", 0
    from pmm.method import lattice

    lattice._find(np.full(16, -1, np.int32), np.empty((8, 2), np.int64), 1, 2)
    yield "the first function from numba's cache: numba's tables, LLVM's linker", 0
    for n_classes in (1, 3):
        our_mask(photograph(0, 16, 16), blobs(0, n_classes, 16, 16))
    yield "all other functions of the lattice", 0


def print_steps(work: str) -> None:
    """Print the MiB that each step adds, and how many of them are pages of files, as JSON."""
    rows, before = [], (0, 0)
    for step, peak in steps(work):
        own, files = tree_memory(os.getpid())
        own = peak - files if peak else own
        rows.append({"step": step, "MiB": round((own + files - sum(before)) / MIB, 1)})
        rows[-1]["files, MiB"] = round((files - before[1]) / MIB, 1)
        before = own, files
    print(json.dumps(rows))


if __name__ == "__main__":
    if sys.argv[1] == "steps":
        print_steps(sys.argv[2])
    else:
        make_masks(sys.argv[1], *map(int, sys.argv[2:]))
