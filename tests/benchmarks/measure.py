"""Interleaved timing: every contender once a round, so that a busy moment of the machine meets all alike."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

HERE = Path(__file__).parent


def interleave(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Time each contender once a round, after one round that does not count; seconds by name."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name, work in contenders.items():
            start = time.perf_counter()
            work()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def spread(values: np.ndarray, digits: int = 3) -> dict[str, float]:
    """Return median and quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"median": round(float(middle), digits), "q1": round(float(low), digits), "q3": round(float(high), digits)}


def ratios(seconds: Mapping[str, np.ndarray], reference: str, ours: str) -> dict[str, float]:
    """Return how many times faster ours is: median and quartiles of the rounds' ratios."""
    return spread(seconds[reference] / seconds[ours], 2)


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """Fit seconds = a * size^b, and return b."""
    return round(float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]), 2)


def job_memory(work: str, n_images: int, workers: int) -> dict[str, float]:
    """Run `bench.py --memory WORK N WORKERS`, watch it and its children: MiB, shared pages counted once."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, str(HERE / "bench.py"), "--memory", work, str(n_images), str(workers)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **pipes) as job:
        job.stdout.readline()
        rest = peak = _tree_mib(job.pid)
        job.stdin.write("\n")
        job.stdin.flush()
        while job.poll() is None:
            peak = max(peak, _tree_mib(job.pid))
            time.sleep(0.05)
    return {"rest": rest, "peak": peak}


def _tree_mib(pid: int) -> float:
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            full = process.memory_full_info()
            total += getattr(full, "pss", full.uss)
    except psutil.Error:
        pass  # it has just ended
    return round(total / 2**20, 1)
