"""Threads for work that lets go of Python's lock: compiled functions, torch, image files."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import joblib

T = TypeVar("T")
R = TypeVar("R")

_here = threading.local()


def available_threads() -> int:
    """Return how many threads one piece of work may use: what `limit_threads` says, else one a core.

    joblib tells its worker processes their share in NUMBA_NUM_THREADS.
    """
    share = os.environ.get("NUMBA_NUM_THREADS", "")
    cores = int(share) if share.isdigit() and int(share) > 0 else joblib.cpu_count()
    return getattr(_here, "limit", cores)


@contextmanager
def limit_threads(limit: int) -> Iterator[None]:
    """Let work that this thread starts inside the block use so many threads: it is one of several already."""
    before = getattr(_here, "limit", None)
    _here.limit = limit
    try:
        yield
    finally:
        if before is None:
            del _here.limit
        else:
            _here.limit = before


def run_parallel(threads: int, function: Callable[[T], R], jobs: Sequence[T]) -> list[R]:
    """Call a function on each job, on several threads, and return the results in order."""
    if threads == 1 or len(jobs) < 2:
        return [function(job) for job in jobs]
    return list(_pool(os.getpid(), threads).map(function, jobs))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Keep one pool for each process: a forked child has none of its parent's threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"pmm-{process}")


@contextmanager
def one_thread_each(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Give a pool whose threads use one thread of torch each; what has not begun when the block ends is dropped.

    torch's number of threads is set anew afterwards: starting the workers had lowered it here, too.
    """
    import torch  # not needed by the processes that only make masks

    cores = torch.get_num_threads()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(cores)


def map_images(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Call a function on each item, several at a time, and yield the results in order.

    An image a thread keeps a processor's cores busier than one image on all of them, hides the reading and writing
    of files, and gives the same bits on any number of cores.
    """

    def alone(item: T) -> R:
        """Keep to one thread: the others work on other items."""
        with limit_threads(1):
            return function(item)

    with one_thread_each(available_threads()) as pool:
        yield from pool.map(alone, items)
