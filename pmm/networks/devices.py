"""The machine below: which device, how precise, how memory is handed out."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pmm.errors import InputError
from pmm.processes import count

Statistics = tuple[list[float], list[float]]  # mean and deviation of a model's input, a channel each, pixels in [0,1]
T = TypeVar("T")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def choose_device(name: str = "auto") -> torch.device:
    """Return the named device, InputError where it is not there; `auto` takes a GPU where there is one."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    if not available[name]:
        raise InputError(f"device = {name}: this machine has none that torch can use; take auto or cpu")
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" and count() > 1 else torch.device(name)


def autocast(device: torch.device) -> torch.autocast:
    """Return the mixed-precision context: bfloat16 or float16 on a GPU, nothing on a processor."""
    half = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast(device.type, dtype=half if device.type == "cuda" else None, enabled=device.type == "cuda")


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to the device in the memory order that its convolutions like best."""
    return model.to(device=device, memory_format=torch.channels_last)


def run_network(device: torch.device, function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a function that runs a network on one image; on a GPU in a thread that is the same for all who call.

    cuDNN plans anew for each thread and each size of its input, and photographs have many sizes: with a thread a core,
    200 photographs took minutes.
    """
    if device.type != "cuda":
        return function(*args, **options)
    return _gpu_thread().submit(function, *args, **options).result()


@cache
def _gpu_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="pmm-gpu")


def prepare_images(images: Tensor, mean: list[float], std: list[float], device: torch.device) -> Tensor:
    """Turn images (N,3,H,W) uint8 into normalised float32 on the device, channels last."""
    return normalized(images, mean, std, device).contiguous(memory_format=torch.channels_last)


def normalized(images: Tensor, mean: list[float], std: list[float], device: torch.device) -> Tensor:
    """Turn images (N,3,H,W) uint8 into normalised float32 on the device; plane by plane is quickest on a processor."""
    shift = torch.tensor(mean, device=device).mul_(255)[:, None, None]
    images = images.to(device, non_blocking=True).float().sub_(shift)
    return images.div_(torch.tensor(std, device=device).mul_(255)[:, None, None])


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks: each training step asks for the same ones again.

    By default every block above 32 MiB goes back to the system and is cleared page by page at the next
    request, which was measured at a third of a training step's time. Other systems are left alone.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # not glibc: slower, not wrong
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers from a seed inside the block, and leave the global state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
