"""Interleaved timing: every contender once a round, so that a busy moment of the machine meets all alike."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

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


def peak_mib(work: str, *arguments: str) -> dict[str, float]:
    """Run `bench.py --memory WORK` in a process of its own; MiB before and at the peak of the work."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, str(HERE / "bench.py"), "--memory", work, *arguments]
    before, peak = subprocess.check_output(command, text=True, env=environment).split()[-2:]
    return {"before": float(before), "peak": float(peak), "work": round(float(peak) - float(before), 1)}


def own_peak_mib() -> float:
    """Return the largest resident memory of this process so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
