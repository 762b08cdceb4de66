"""Interleaved timing: every contender once a round, so that a busy moment of the machine meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


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
