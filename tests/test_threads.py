"""Threads: limits, order, errors, and what they leave behind."""

import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from pmm.threads import available_threads, limit_threads, map_images, run_parallel


def test_the_limit_holds_inside_the_block_and_in_this_thread_alone(monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "7")
    with limit_threads(1):
        seen = []
        other = threading.Thread(target=lambda: seen.append(available_threads()))
        other.start()
        other.join()
        with limit_threads(2):
            assert available_threads() == 2
        assert available_threads() == 1
    assert available_threads() == 7 and seen == [7]


@pytest.mark.parametrize("value", ["", "none", "0", "-3"])
def test_an_unusable_share_means_every_core(monkeypatch, value):
    monkeypatch.setenv("NUMBA_NUM_THREADS", value)
    assert 1 <= available_threads() <= os.cpu_count()


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_jobs(threads):
    def work(i):
        time.sleep(0.01 * (3 - i))
        return i * i

    assert run_parallel(threads, work, [0, 1, 2, 3]) == [0, 1, 4, 9]
    assert list(map_images(work, [0, 1, 2, 3])) == [0, 1, 4, 9]


def test_an_error_comes_through_and_stops_the_rest():
    done = []

    def work(i):
        if i == 1:
            raise ZeroDivisionError
        time.sleep(0.005)
        done.append(i)

    with pytest.raises(ZeroDivisionError):
        list(map_images(work, range(1000)))
    assert len(done) < 900


def test_images_run_alone_on_their_thread_and_torch_gets_its_cores_back():
    before = torch.get_num_threads()
    seen = list(map_images(lambda _: (available_threads(), torch.get_num_threads()), range(6)))
    assert seen == [(1, 1)] * 6
    assert torch.get_num_threads() == before
    after = []
    thread = threading.Thread(target=lambda: after.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert after == [before]


@pytest.mark.parametrize(("own", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_idle_threads_sleep_unless_the_user_says_otherwise(own, found):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": own} if own else {}
    code = "import os, sys, pmm; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    said = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert said.split() == [found, "False"]
