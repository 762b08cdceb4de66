"""Devices: the choice, the images' normalisation, random numbers that leave no trace."""

import threading

import pytest
import torch
from torch import nn

from pmm.errors import InputError
from pmm.networks import devices
from pmm.networks.devices import autocast, choose_device, keep_freed_memory, place, prepare_images, run_network, seeded
from pmm.threads import map_images

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, cuda, mps, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device() == choose_device("auto") == torch.device(chosen)
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused_in_one_line(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=rf"^device = {name}: .*auto or cpu$"):
        choose_device(name)


def test_a_processor_computes_in_float32():
    with autocast(CPU):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32


def test_images_are_normalised_and_the_source_stays():
    images = torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8).repeat(2, 3, 1, 1)
    before = images.clone()
    mean, std = [0.0, 0.5, 0.2], [1.0, 0.5, 0.1]
    out = prepare_images(images, mean, std, CPU)
    assert out.shape == (2, 3, 2, 2) and out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out[1, 0], torch.tensor([[0.0, 1.0], [0.2, 0.4]]))
    torch.testing.assert_close(out[1, 1], torch.tensor([[-1.0, 1.0], [-0.6, -0.2]]))
    torch.testing.assert_close(out[0, 2], torch.tensor([[-2.0, 8.0], [0.0, 2.0]]))
    assert torch.equal(images, before) and mean == [0.0, 0.5, 0.2] and std == [1.0, 0.5, 0.1]


def test_a_model_is_placed_channels_last():
    assert place(nn.Conv2d(4, 4, 3), CPU).weight.is_contiguous(memory_format=torch.channels_last)


def test_seeded_repeats_and_leaves_the_global_state():
    before = torch.get_rng_state()
    draws = []
    for seed in (1, 1, 2):
        with seeded(seed):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_leaves_the_global_state_after_an_exception_too():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(3):
        torch.rand(1)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)


def test_memory_is_tuned_with_glibc_alone(monkeypatch):
    asked = []

    def no_library(name):
        asked.append(name)
        raise OSError(name)

    monkeypatch.setattr(devices.ctypes, "CDLL", no_library)
    monkeypatch.setattr(devices.sys, "platform", "linux")
    keep_freed_memory()  # musl: no libc.so.6
    assert asked == ["libc.so.6"]
    monkeypatch.setattr(devices.sys, "platform", "win32")
    keep_freed_memory()
    assert asked == ["libc.so.6"]  # another system is not asked at all


def test_a_gpu_hears_one_thread_whoever_calls_and_a_processor_each_caller():
    def where(device):
        """Name the thread that runs the network, for each of several images at a time."""
        return set(map_images(lambda _: run_network(device, threading.get_ident), range(8), workers=4))

    gpu = torch.device("cuda")  # a name: nothing runs on it here
    assert len(where(gpu)) == 1 and where(gpu) == where(gpu)
    assert run_network(CPU, threading.get_ident) == threading.get_ident()
    with pytest.raises(ValueError, match="seen by the caller"):
        run_network(gpu, _fail)


def _fail():
    raise ValueError("seen by the caller")
