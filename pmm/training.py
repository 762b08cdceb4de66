"""One training loop for the classifier and the segmentation model: schedule, checkpoints, log, progress.

Batches depend on the seed and the epoch alone, and each epoch ends with a checkpoint, so an interrupted
training goes on at the next epoch as if nothing had happened.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pmm.artifacts import write_text
from pmm.batches import EpochBatches, TrainingImages, load_ahead
from pmm.devices import autocast, prepare_images, seeded
from pmm.errors import InputError
from pmm.files import whole_file
from pmm.models import keep_statistics, read_weights
from pmm.params import Params

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "weights.pt"
EARLY = "early.pt"
"""The weights after a quarter of the epochs: a look back at what the model doubted when it knew little."""
EARLY_SHARE = 4
LOG = "log.csv"
POLY_POWER = 0.9

LossFunction = Callable[[nn.Module, Tensor, Tensor, float], tuple[Tensor, dict[str, Tensor]]]
"""(model, images, targets, progress 0..1) -> loss, and named values of the step for the log."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a training runs; see `pmm.params` for the meaning of the values."""

    epochs: int
    batch_size: int
    lr: float
    head_lr: float
    weight_decay: float
    optimizer: str = "adamw"
    schedule: str = "onecycle"
    seed: int = 0
    loader_workers: int = 0

    @classmethod
    def of(cls, params: Params, prefix: str) -> TrainingSettings:
        """Take the parameters that begin with `cls_` or `seg_`."""
        names = ("epochs", "batch_size", "lr", "head_lr", "weight_decay", "optimizer", "schedule")
        values = {name: getattr(params, f"{prefix}_{name}") for name in names}
        return cls(**values, seed=params.seed, loader_workers=params.loader_workers)


def fit(
    model: nn.Module,
    images: TrainingImages,
    loss_function: LossFunction,
    settings: TrainingSettings,
    folder: Path,
    *,
    backbone: nn.Module,
    head: Sequence[nn.Module],
    statistics: tuple[list[float], list[float]],
    title: str,
) -> None:
    """Train a model in place; leave `weights.pt`, `early.pt` and `log.csv` in the folder.

    Args:
        model: on its device already.
        images: what it learns from.
        loss_function: see `LossFunction`.
        settings: epochs, batch size, learning rates.
        folder: a `checkpoint.pt` in it is resumed and removed at the end.
        backbone: part of the model whose batch norms keep ImageNet's statistics.
        head: modules that learn at `lr * head_lr`, all others at `lr`.
        statistics: mean and standard deviation of the model's input.
        title: of the progress bar.

    Raises:
        InputError: the loss is not finite, or the checkpoint is broken.
    """
    steps = len(EpochBatches(len(images), settings.batch_size, range(1), settings.seed))
    total = settings.epochs * steps
    optimizer = build_optimizer(model, head, settings)
    scheduler = build_scheduler(optimizer, settings, total)
    first, rows = resume(folder, model, optimizer, scheduler)
    learn = _Step(model, loss_function, optimizer, scheduler, statistics)
    epochs = EpochBatches(len(images), settings.batch_size, range(first, settings.epochs), settings.seed)
    batches = load_ahead(images, epochs, settings.loader_workers, pin_memory=learn.device.type == "cuda")
    model.train()
    keep_statistics(backbone)
    with tqdm(total=total, initial=first * steps, desc=title, unit="step", mininterval=1.0) as bar:
        for epoch in range(first, settings.epochs):
            steps_now = range(epoch * steps, (epoch + 1) * steps)
            log = [_advance(learn, next(batches), settings.seed, step, total, bar) for step in steps_now]
            rows.append(summarise(epoch + 1, log, scheduler.get_last_lr()[0], title))
            save_checkpoint(folder, epoch + 1, model, optimizer, scheduler, rows)
            if epoch + 1 == max(1, settings.epochs // EARLY_SHARE):
                _save_weights(folder / EARLY, model)
    write_log(folder / LOG, rows)
    _save_weights(folder / WEIGHTS, model)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    model.eval()


def _advance(learn: _Step, batch: Any, seed: int, step: int, total: int, bar: tqdm) -> dict[str, Tensor]:
    facts = learn(batch, seed * 1_000_003 + step, step / total)
    bar.update()
    if step % 10 == 9:
        bar.set_postfix({name: f"{float(value):.3f}" for name, value in facts.items()}, refresh=False)
    return facts


def _save_weights(path: Path, model: nn.Module) -> None:
    save_tensors(path, {name: value.cpu() for name, value in model.state_dict().items()})


class _Step:
    """One step of the optimiser: forward in the device's precision, backward, schedule."""

    def __init__(
        self, model: nn.Module, loss_function: LossFunction, optimizer: Any, scheduler: Any, statistics: tuple
    ):
        self.model, self.loss_function = model, loss_function
        self.optimizer, self.scheduler, self.statistics = optimizer, scheduler, statistics
        self.device = next(model.parameters()).device
        narrow = self.device.type == "cuda" and not torch.cuda.is_bf16_supported()  # float16 needs its loss scaled
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=narrow)

    def __call__(self, batch: tuple[Tensor, Tensor], seed: int, progress: float) -> dict[str, Tensor]:
        """Learn from a batch; return its loss and the named values, on the device."""
        inputs = prepare_images(batch[0], *self.statistics, self.device)
        with seeded(seed), autocast(self.device):
            loss, values = self.loss_function(self.model, inputs, batch[1].to(self.device), progress)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        return {"loss": loss.detach(), **values}


def build_optimizer(model: nn.Module, head: Sequence[nn.Module], settings: TrainingSettings) -> torch.optim.Optimizer:
    """Make AdamW or SGD (momentum 0.9) with a larger learning rate for the head; frozen parameters are left out."""
    heads = {id(p) for module in head for p in module.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in heads], "lr": settings.lr},
        {"params": [p for p in trained if id(p) in heads], "lr": settings.lr * settings.head_lr},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        fused = all(p.device.type in ("cpu", "cuda") for p in trained)
        return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=fused)
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=settings.weight_decay)


def build_scheduler(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Make a one-cycle (up for 15 % of the steps, then a cosine to zero) or poly 0.9 schedule."""
    if settings.schedule == "poly":
        return torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=POLY_POWER)
    rates = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=steps + 1, pct_start=0.15, cycle_momentum=False
    )


def summarise(epoch: int, log: Sequence[Mapping[str, Tensor]], lr: float, title: str) -> dict[str, float]:
    """Average an epoch's steps into one row of the log.

    Raises:
        InputError: the mean loss is not finite.
    """
    row = {key: float(torch.stack([step[key].float() for step in log]).mean()) for key in log[0]}
    if not np.isfinite(row["loss"]):
        raise InputError(f"{title}: the loss became {row['loss']} in epoch {epoch}; lower the learning rate")
    return {"epoch": epoch, **row, "lr": lr}


def write_log(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the epochs' rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_log(path: Path) -> dict[str, list[float]]:
    """Read `log.csv` into a list for each column.

    Raises:
        InputError: there is no such log.
    """
    if not path.is_file():
        raise InputError(f"{path}: no training log; train this model first")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else [])}


def save_tensors(path: Path, content: Any) -> None:
    """Save tensors and plain values; the file appears whole or not at all."""
    with whole_file(path) as file:  # a path's name would enter the archive and change its bytes
        torch.save(content, file)


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Load a model's own `weights.pt`, and switch it to evaluation.

    Raises:
        InputError: missing, broken, or of another model.
    """
    try:
        model.load_state_dict(read_weights(path))
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()[:120]
        raise InputError(f"{path}: weights of another model ({reason}); delete the folder, train again") from None
    return model.eval()


def save_checkpoint(folder: Path, epoch: int, model: nn.Module, optimizer: Any, scheduler: Any, rows: list) -> None:
    """Keep everything that the next epoch needs."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    save_tensors(folder / CHECKPOINT, {**state, "epoch": epoch, "rows": rows})


def resume(folder: Path, model: nn.Module, optimizer: Any, scheduler: Any) -> tuple[int, list[dict[str, float]]]:
    """Take up the folder's checkpoint.

    Returns:
        The epoch to go on with and the log so far; 0 and nothing without a checkpoint.

    Raises:
        InputError: the checkpoint cannot be read.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return 0, []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        return int(state["epoch"]), list(state["rows"])
    except Exception:
        raise InputError(f"{path}: broken or of another training; delete it, the training starts again") from None
