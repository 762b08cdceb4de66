"""Threads for work that releases the GIL: compiled functions, torch, image files."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Any, TypeVar

import joblib

from pmm.errors import InputError, MissingDependency

AHEAD = 32  # items a core of a cluster has before it
T, R = TypeVar("T"), TypeVar("R")
_here = threading.local()


def available_threads() -> int:
    """Return how many threads one piece of work may use: what `limit_threads` says, else one a core.

    joblib tells its worker processes their share in NUMBA_NUM_THREADS. A process that `multiprocessing` started without
    such a word is one of several, and takes one thread.
    """
    if limit := getattr(_here, "limit", None):
        return limit
    share = os.environ.get("NUMBA_NUM_THREADS", "")
    if share.isdigit() and int(share) > 0:
        return int(share)
    return 1 if multiprocessing.parent_process() else joblib.cpu_count()


@contextmanager
def limit_threads(limit: int) -> Iterator[None]:
    """Let work that this thread starts inside the block use so many threads: it is one of several already."""
    before, _here.limit = getattr(_here, "limit", None), limit
    try:
        yield
    finally:
        _here.limit = before


def run_parallel(threads: int, function: Callable[[T], R], jobs: Sequence[T]) -> list[R]:
    """Call a function on each job, on this thread and others, and return the results in order."""
    if threads == 1 or len(jobs) < 2:
        return [function(job) for job in jobs]
    results: list[Any] = [None] * len(jobs)
    left = iter(list(enumerate(jobs)))

    def work() -> None:
        """Take jobs while there are any; this thread begins at once, the others when they have woken up."""
        for i, job in left:
            results[i] = function(job)

    others = [_pool(os.getpid(), threads).submit(work) for _ in range(min(threads, len(jobs)) - 1)]
    try:
        work()
    finally:
        wait(others)
    for other in others:
        other.result()
    return results


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Keep one pool for each process: a forked child has none of its parent's threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"pmm-{process}")


@contextmanager
def one_thread_each(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Give a pool whose threads use one thread of torch each; what has not begun when the block ends is dropped."""
    import torch  # not needed by the processes that only make masks

    with _torch_threads_kept(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def map_images(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int = 0,
    processes: bool = False,
    scheduler: str = "",
) -> Iterator[R]:
    """Call a function on each item, several at a time (joblib, or Dask), and yield the results in order.

    An image a thread keeps a processor's cores busier than one image on all of them, hides the reading and writing
    of files, and gives the same bits on any number of cores.

    Args:
        function, items: called from several threads, each of which uses one thread of torch and of the lattice alone.
        workers: calls at a time; 0 takes `available_threads()`.
        processes: use processes, for a function that does not release the GIL; it must be picklable then.
        scheduler: address of a Dask cluster, tcp://host:port, whose workers make the calls; they see the same disk. A
            worker that dies is replaced by the others. The function, with all that it holds, goes to each worker once;
            it and the items must be picklable. Empty: this machine.

    Raises:
        InputError: the scheduler does not answer, has no worker, or is lost; an item ends each worker that takes it.
        MissingDependency: there is a scheduler, and distributed is not installed.
    """
    if scheduler:
        yield from _map_on_cluster(scheduler, function, items)
        return
    prefer = "processes" if processes else "threads"
    pool = joblib.Parallel(workers or available_threads(), prefer=prefer, return_as="generator")
    with _torch_threads_kept():
        yield from pool(joblib.delayed(_alone)(function, item) for item in items)


def _map_on_cluster(scheduler: str, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Keep some calls ahead of the one whose result is next.

    The function is the result of a task, not scattered data (which joblib's Dask backend makes of it): Dask thins out
    the copies of either after seconds; when a worker dies with the last one, a task is done again, and data is lost.
    """
    try:
        from distributed import Client, KilledWorker
        from distributed.comm import CommClosedError
    except ImportError:
        hint = "it is not installed; pip install distributed"
        raise MissingDependency(f"scheduler = {scheduler}: needs Dask's distributed, {hint}") from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what is lost is said below, in one line
    try:
        client = Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        hint = "start it with: dask scheduler, and workers with: dask worker ADDRESS"
        raise InputError(f"scheduler = {scheduler}: does not answer ({type(error).__name__}); {hint}") from None
    with client:
        cores = sum(client.ncores().values())
        if not cores:
            raise InputError(f"scheduler = {scheduler}: has no worker; start one with: dask worker {scheduler}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Dask on the size of a network
            held = client.submit(_itself, function, pure=False)
        ahead: deque[tuple[T, Any]] = deque()
        left = iter(items)
        while True:
            for item in islice(left, AHEAD * cores - len(ahead)):
                ahead.append((item, client.submit(_alone, held, item, pure=False)))
            if not ahead:
                return
            item, future = ahead.popleft()
            try:
                result = future.result()
            except KilledWorker as error:
                died = f"{error.allowed_failures + 1} workers died in turn, at {item!r:.80} or at an item near it"
                raise InputError(f"scheduler = {scheduler}: {died}; their logs say why (memory?)") from None
            except (CancelledError, CommClosedError):
                hint = "start it again with its workers, then the same command: what is finished is kept"
                raise InputError(f"scheduler = {scheduler}: was lost in mid-work; {hint}") from None
            yield result


def _itself(function: Callable[[T], R]) -> Callable[[T], R]:
    """Return a function: a task that holds it on the cluster."""
    return function


def _alone(function: Callable[[T], R], item: T) -> R:
    """Keep to one thread: the others work on other items."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    with limit_threads(1):
        return function(item)


@contextmanager
def _torch_threads_kept() -> Iterator[None]:
    """Set torch's number of threads anew after the block: threads that start later take the number set last."""
    torch = sys.modules.get("torch")
    cores = torch.get_num_threads() if torch is not None else 0
    try:
        yield
    finally:
        if torch is not None:
            torch.set_num_threads(cores)
