"""Several processes at work on one run, one a GPU, as `accelerate launch` starts them; alone, all of this does nothing.

All of them go through the same code. The first alone decides what is reused, and writes what is one file; images are
shared out, and a training step's images are, too. They must see the same disk.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from pmm.errors import MissingDependency

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # while the first process works alone


def join(device: str = "auto") -> None:
    """Meet the other processes, if a launcher has started several; call it before torch trains anything.

    All but the first are silent from then on, and each takes its share of the machine's cores.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return
    try:
        from accelerate import PartialState
    except ImportError:
        raise MissingDependency("accelerate is not installed; several GPUs need it: pip install accelerate") from None
    local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    os.environ.setdefault("NUMBA_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // local)))
    PartialState(cpu=device == "cpu", timeout=PATIENCE)
    if not is_first():
        os.environ["TQDM_DISABLE"] = "1"
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def count() -> int:
    """Return how many processes there are."""
    distributed = _group()
    return distributed.get_world_size() if distributed else 1


def rank() -> int:
    """Return the number of this process, 0 for the first."""
    distributed = _group()
    return distributed.get_rank() if distributed else 0


def is_first() -> bool:
    """Whether this process writes what is one file."""
    return rank() == 0


def share(items: Sequence[T]) -> Sequence[T]:
    """Return this process's part of items that all processes know."""
    return items[rank() :: count()] if count() > 1 else items


def from_first(value: T) -> T:
    """Return the value that the first process gave; the others' does not matter. A meeting point, too."""
    if count() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def average(value: Tensor) -> Tensor:
    """Return the mean over the processes of a tensor, without gradient; alone the tensor itself."""
    if count() == 1:
        return value
    total = value.detach().clone()
    _group().all_reduce(total)
    return total / count()


def _group():
    """torch.distributed where processes have met, else None; torch is not loaded for it."""
    torch = sys.modules.get("torch")
    distributed = torch.distributed if torch is not None else None
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None
