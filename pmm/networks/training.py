"""One training loop for the classifier and the segmentation model: batches, schedule, checkpoints, log, progress.

Batches depend on the seed and the epoch alone, and each epoch ends with a checkpoint, so an interrupted
training goes on at the next epoch as if nothing had happened.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from pmm.errors import InputError
from pmm.files import whole_file, write_text
from pmm.method import IGNORE_INDEX
from pmm.method.losses import PretendedUnderfittingLoss
from pmm.networks.devices import Statistics, autocast, prepare_images, seeded
from pmm.networks.models import keep_statistics, read_weights
from pmm.processes import average, count, from_first, is_first, rank, share
from pmm.threads import one_thread_each

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "weights.pt"
EARLY = "early.pt"  # weights after a quarter of the epochs: a look back at what the model doubted when it knew little
EARLY_SHARE = 4
LOG = "log.csv"
POLY_POWER = 0.9
RANK_STRIDE = 7_919  # between the seeds of processes, whose dropout must differ

# (model, images, targets, progress 0..1) -> loss, and named values of the step for the log
LossFunction = Callable[[nn.Module, Tensor, Tensor, float], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class TrainingSettings:
    """How a training runs; see `pmm.run.params` for the meaning of the values."""

    epochs: int
    batch_size: int
    lr: float
    head_lr: float
    weight_decay: float
    optimizer: str = "adamw"
    schedule: str = "onecycle"
    seed: int = 0
    loader_workers: int = 0
    micro_batches: int = 1
    keep_epochs: bool = False  # keep the weights after each epoch, as `epoch_file` names them


def epoch_file(epoch: int) -> str:
    """Name the weights after an epoch, 1 the first."""
    return f"epoch{epoch}.pt"


def fit(
    model: nn.Module,
    images: TrainingImages,
    loss_function: LossFunction,
    settings: TrainingSettings,
    folder: Path,
    *,
    backbone: nn.Module,
    statistics: Statistics,
    title: str,
) -> None:
    """Train a model in place; leave `weights.pt`, `early.pt` and `log.csv` in the folder.

    Args:
        model, images, loss_function: what learns, on its device already, from what, and how.
        settings: epochs, batch size, learning rates.
        folder: a `checkpoint.pt` in it is resumed and removed at the end.
        backbone: part of the model that learns at `lr`, all else at `lr * head_lr`; its batch norms keep ImageNet's
            statistics.
        statistics: mean and standard deviation of the model's input.
        title: of the progress bar.

    Several processes share each batch; the first of them writes.

    Raises:
        InputError: the loss is not finite, the checkpoint is broken, or a batch cannot be shared out.
    """
    steps = len(EpochBatches(len(images), settings.batch_size, range(1), settings.seed))
    total = settings.epochs * steps
    learner = Learner(model, backbone, loss_function, settings, statistics, total)
    first, rows = learner.resume(folder / CHECKPOINT)
    epochs = EpochBatches(len(images), settings.batch_size, range(first, settings.epochs), settings.seed)
    batches = load_ahead(images, epochs, settings.loader_workers, pin_memory=learner.device.type == "cuda")
    model.train()
    keep_statistics(backbone)
    learner.check_shares(min(settings.batch_size, len(images)), title)
    with tqdm(total=total, initial=first * steps, desc=title, unit="step", mininterval=1.0) as bar:
        for epoch in range(first, settings.epochs):
            log = []
            for step in range(epoch * steps, (epoch + 1) * steps):
                log.append(learner.step(next(batches), settings.seed * 1_000_003 + step, step / total))
                bar.update()
                if step % 10 == 9:  # reading a value waits for the device
                    bar.set_postfix({name: f"{float(v):.3f}" for name, v in log[-1].items()}, refresh=False)
            rows.append(summarise(epoch + 1, log, learner.scheduler.get_last_lr()[0], title))
            if is_first():
                learner.save(folder / CHECKPOINT, epoch + 1, rows)
            if is_first() and epoch + 1 == max(1, settings.epochs // EARLY_SHARE):
                _save_weights(folder / EARLY, model)
            if is_first() and settings.keep_epochs:
                _save_weights(folder / epoch_file(epoch + 1), model)
    if is_first():
        write_log(folder / LOG, rows)
        _save_weights(folder / WEIGHTS, model)
        (folder / CHECKPOINT).unlink(missing_ok=True)
    from_first(None)  # the files are there
    model.eval()


def _save_weights(path: Path, model: nn.Module) -> None:
    save_tensors(path, {name: value.cpu() for name, value in model.state_dict().items()})


class Learner:
    """All that a training of `total` steps changes, model, optimiser and schedule: one step of it, and its checkpoint.

    The other arguments are as in `fit`.
    """

    def __init__(
        self,
        model: nn.Module,
        backbone: nn.Module,
        loss_function: LossFunction,
        settings: TrainingSettings,
        statistics: Statistics,
        total: int,
    ):
        self.model, self.loss_function, self.statistics = model, loss_function, statistics
        self.optimizer = build_optimizer(model, backbone, settings)
        self.scheduler = build_scheduler(self.optimizer, settings, total)
        self.device = next(model.parameters()).device
        self.parts = settings.micro_batches
        self.network = shared(model) if count() > 1 else model
        narrow = self.device.type == "cuda" and not torch.cuda.is_bf16_supported()  # float16 needs its loss scaled
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=narrow)

    def step(self, batch: tuple[Tensor, Tensor], seed: int, progress: float) -> dict[str, Tensor]:
        """Learn from a batch (N,3,H,W) uint8 and its targets; return loss and named values, on the device.

        Of several processes each gets its share of the batch. It is learned in `micro_batches` parts, one after the
        other; batch norms and the gate of PUS see a part.
        """
        self.optimizer.zero_grad(set_to_none=True)
        seen: list[dict[str, Tensor]] = []
        parts = list(zip(*(tensor.chunk(self.parts) for tensor in batch), strict=True))
        for images, targets in parts:
            inputs = prepare_images(images, *self.statistics, self.device)
            waits = count() > 1 and len(seen) + 1 < len(parts)  # gradients meet once a step
            with self.network.no_sync() if waits else nullcontext():
                with seeded(seed + RANK_STRIDE * rank() + len(seen)), autocast(self.device):
                    loss, values = self.loss_function(self.network, inputs, targets.to(self.device), progress)
                self.scaler.scale(loss / len(parts)).backward()
            seen.append({"loss": loss.detach(), **values})
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        return {name: torch.stack([each[name].float() for each in seen]).mean() for name in seen[0]}

    def check_shares(self, batch_size: int, title: str) -> None:
        """Refuse batches that do not fall into equal shares and parts; a segmenter's batch norms need two images."""
        share, rest = divmod(batch_size, count() * self.parts)
        seen = share * count() if self.device.type == "cuda" else share  # see `shared`
        if rest or (seen < 2 and isinstance(self.loss_function, SegmentationLoss)):
            what = f"{count()} processes and {self.parts} micro_batches"
            what = f"a batch of {batch_size} images cannot be shared by {what}"
            raise InputError(f"{title}: {what}; give a multiple, two images to each")

    def save(self, path: Path, epoch: int, rows: Sequence[Mapping[str, float]]) -> None:
        """Keep everything that the next epoch needs."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "scheduler")}
        save_tensors(path, {**parts, "epoch": epoch, "rows": list(rows)})

    def resume(self, path: Path) -> tuple[int, list[dict[str, float]]]:
        """Take up a checkpoint: the epoch to go on with and the log so far; 0 and nothing where there is none.

        Raises:
            InputError: the checkpoint cannot be read.
        """
        if not path.is_file():
            return 0, []
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            for name in ("model", "optimizer", "scheduler"):
                getattr(self, name).load_state_dict(state[name])
            return int(state["epoch"]), list(state["rows"])
        except Exception:
            raise InputError(f"{path}: broken or of another training; delete it, the training starts again") from None


def shared(model: nn.Module) -> nn.Module:
    """Wrap a model for several processes, whose gradients are averaged; on GPUs batch norms see the whole batch."""
    from accelerate import Accelerator

    device = next(model.parameters()).device
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(model) if device.type == "cuda" else model
    return Accelerator(cpu=device.type == "cpu").prepare_model(synchronised)


def build_optimizer(model: nn.Module, backbone: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Make AdamW or SGD (momentum 0.9), with another rate outside the backbone; frozen parameters are left out."""
    inside = {id(p) for p in backbone.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    rates = {True: settings.lr, False: settings.lr * settings.head_lr}  # is it the backbone's?
    groups = [{"params": [p for p in trained if (id(p) in inside) == own], "lr": lr} for own, lr in rates.items()]
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
    options = {"total_steps": steps + 1, "pct_start": 0.15, "cycle_momentum": False}
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, **options)


def summarise(epoch: int, log: Sequence[Mapping[str, Tensor]], lr: float, title: str) -> dict[str, float]:
    """Average an epoch's steps into one row of the log; InputError where the mean loss is not finite."""
    row = {key: float(average(torch.stack([step[key].float() for step in log]).mean())) for key in log[0]}
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
    """Read `log.csv` into a list for each column; InputError where there is no such log."""
    if not path.is_file():
        raise InputError(f"{path}: no training log; train this model first")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else [])}


def save_tensors(path: Path, content: object) -> None:
    """Save tensors and plain values; the file appears whole or not at all."""
    data = io.BytesIO()  # a path's name would enter the archive; and torch tells of a full disk in words of its own
    torch.save(content, data)
    with whole_file(path) as file:
        file.write(data.getbuffer())


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Load a model's own weights and switch it to evaluation; InputError: missing, broken, or of another model."""
    try:
        model.load_state_dict(read_weights(path))
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()[:120]
        raise InputError(f"{path}: weights of another model ({reason}); delete the folder, train again") from None
    return model.eval()


class TrainingImages(Dataset):
    """Augmented images with their targets, addressed by (epoch, index).

    Args:
        load: index -> (image (H,W,3) uint8, mask (H,W) uint8 or None, target tensor or None). The mask is
            augmented with the image and becomes the target where there is one.
        n: number of images.
        augment: (image, mask, generator) -> picture (3,h,w) uint8 and mask (h,w) uint8 or None.
        seed: with epoch and index it decides every random choice.
    """

    def __init__(self, load: Callable[[int], tuple], n: int, augment: Callable[..., tuple], seed: int):
        self.load, self.n, self.augment, self.seed = load, n, augment, seed

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, where: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = where
        image, mask, target = self.load(index)
        rng = np.random.default_rng([self.seed, epoch, index])
        picture, labels = self.augment(image, mask, rng=rng)
        return picture, target if labels is None else labels


class EpochBatches:
    """Batches of (epoch, index): each epoch its own permutation, the incomplete last batch left out."""

    def __init__(self, n: int, batch_size: int, epochs: range, seed: int):
        self.n, self.batch_size, self.epochs, self.seed = n, min(batch_size, n), epochs, seed

    def __len__(self) -> int:
        return len(self.epochs) * (self.n // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in self.epochs:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.n)
            for first in range(0, self.n - self.batch_size + 1, self.batch_size):
                yield [(epoch, int(i)) for i in share(order[first : first + self.batch_size])]


def load_ahead(
    images: TrainingImages, batches: EpochBatches, workers: int, pin_memory: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches; the next one loads on a thread of its own while the model learns from this one.

    `workers` processes load, 0 leaves it to the thread; `pin_memory` keeps batches where a GPU fetches them fast.
    """
    loaded = iter(DataLoader(images, batch_sampler=batches, num_workers=workers, pin_memory=pin_memory))
    with one_thread_each(1) as thread:
        coming = thread.submit(next, loaded, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, loaded, None)
            yield batch


SHOWN = 0.02  # share of a crop that a class must cover to be called present


def crop_labels(masks: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Read from rough masks which classes the crops of images show.

    Args:
        masks: (N,h,w) uint8 labels, 255 where no image is.
        n_classes: background included.

    Returns:
        Targets (N,C) in {0,1}, 1 for a class with at least `SHOWN` of the crop's pixels, and weights (N,C) in {0,1},
        0 for one with fewer, but some: whether it is there is not said.
    """
    valid = (masks != IGNORE_INDEX).sum((1, 2)).clamp(min=1)
    share = torch.stack([(masks == k).sum((1, 2)) / valid for k in range(1, n_classes)], dim=1)
    return (share >= SHOWN).float(), ((share == 0) | (share >= SHOWN)).float()


def classifier_loss(
    model: nn.Module, images: Tensor, targets: Tensor, progress: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the multi-label loss of a batch; targets are labels (N,C), or rough masks (N,h,w): see `crop_labels`."""
    scores = model(images).float()
    if targets.ndim == 2:
        return F.multilabel_soft_margin_loss(scores, targets), {}
    targets, weights = crop_labels(targets, scores.shape[1] + 1)
    losses = F.binary_cross_entropy_with_logits(scores, targets, weights, reduction="sum")
    return losses / weights.sum().clamp(min=1), {}


def with_background_margin(logits: Tensor, margin: float) -> Tensor:
    """Raise the background's logit during training; prediction goes without.

    Most pixels are background, and a model that has seen few steps answers background wherever it doubts. The
    constant takes that prior upon itself, so that the logits need not learn it: the logit-adjusted loss of Menon
    et al. (ICLR 2021) for one frequent class.

    Args:
        logits: (N,K,H,W), the background first; returned in the same shape.
        margin: in nats; log 4 says that background is 4 times as frequent as it shall count. 0 changes nothing.
    """
    if margin == 0:
        return logits
    prior = logits.new_zeros((logits.shape[1], 1, 1))
    prior[0] = margin
    return logits + prior


class SegmentationLoss:
    """The loss of a segmentation step: plain until a share `warmup` in [0, 1] of the steps is done, then `pus`.

    `pus` is eq. 10, with a gate of its own for each head; for `background_margin` see `with_background_margin`.
    `auxiliary` is the weight of the second head of a model that has one, see `WithAuxiliaryHead`.
    """

    def __init__(
        self,
        pus: PretendedUnderfittingLoss,
        warmup: float = 0.0,
        background_margin: float = 0.0,
        auxiliary: float = 0.0,
    ):
        self.plain = PretendedUnderfittingLoss("none", None, None, pus.variant, pus.pixel_loss, pus.ignore_index)
        self.pus, self.warmup, self.margin, self.auxiliary = pus, warmup, background_margin, auxiliary

    def __call__(
        self, model: nn.Module, images: Tensor, targets: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch and what to log of it; see `LossFunction`."""
        criterion = self.pus if progress >= self.warmup else self.plain
        heads = model(images)
        logits, *second = heads if isinstance(heads, tuple) else (heads,)
        loss = criterion(with_background_margin(logits, self.margin), targets)
        state = criterion.last_state
        for each in second:
            loss = loss + self.auxiliary * criterion(with_background_margin(each, self.margin), targets)
        values = {"mean_loss": state.mean_loss, "gate_open": state.is_open, "over_kappa": state.share_over_kappa}
        return loss, values
