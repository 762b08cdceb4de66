"""Pretended Under-fitting Strategy (PUS): learn less from the pixels whose pseudo-label is probably wrong.

Once the model fits the pseudo-masks well on average (mean loss below beta), a pixel whose own loss is still
kappa or more is suspected of a wrong label, and its loss is reshaped: clamped, raised to a power, or ignored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pmm.errors import InputError
from pmm.method import IGNORE_INDEX
from pmm.method.smoothing import check_variant
from pmm.processes import average

PUS_KINDS = ("clamp", "pow", "ignore", "none")  # how PUS reshapes the loss; "none" is the plain mean
OFFICIAL_POW_OFFSET = 1e-9  # what the released code adds to the loss before it takes the power


def pus_clamp(loss_map: Tensor, kappa: float, variant: str = "paper") -> Tensor:
    """Cap the per-pixel loss at kappa.

        pus(L) = L * (kappa / L)   where L >= kappa, else L        (eq. 11)

    Args:
        loss_map: floating point of any shape, >= 0.
        kappa: > 0.
        variant: "paper" multiplies by the constant weight kappa / L where L >= kappa, so that such a pixel
            still teaches, with its gradient scaled by kappa / L; "official" takes the minimum of L and kappa,
            whose gradient is zero there.

    Returns:
        Same shape; the values of the two variants are equal, their gradients are not.

    Raises:
        InputError: `loss_map` is not floating point, `kappa` is not positive, or `variant` is unknown.

    Examples:
        >>> loss_map = torch.tensor([0.25, 2.0], requires_grad=True)
        >>> pus_clamp(loss_map, kappa=0.5).tolist()
        [0.25, 0.5]
        >>> pus_clamp(loss_map, kappa=0.5).sum().backward(); loss_map.grad
        tensor([1.0000, 0.2500])
    """
    kappa = _check_kappa(kappa, loss_map)
    if check_variant(variant) == "official":
        return torch.where(loss_map >= kappa, kappa, loss_map)  # so that NaN stays NaN
    # the divisor is never below kappa, so a loss of 0 cannot make NaN
    return loss_map * (kappa / loss_map.clamp(min=kappa)).detach()


def pus_pow(loss_map: Tensor, kappa: float, variant: str = "paper") -> Tensor:
    """Flatten the per-pixel loss by a power.

        pus(L) = L ** kappa        (eq. 12)

    Args:
        loss_map: as in `pus_clamp`.
        kappa: > 0; below 1 it damps losses above 1 and lifts those below.
        variant: "paper" as printed, with value and gradient 0 at L = 0; "official" adds 1e-9 to L first.

    Returns:
        Same shape; errors as in `pus_clamp`.

    Examples:
        >>> pus_pow(torch.tensor([0.0, 0.25, 4.0]), kappa=0.5)
        tensor([0.0000, 0.5000, 2.0000])
    """
    kappa = _check_kappa(kappa, loss_map)
    if check_variant(variant) == "official":
        return (loss_map + OFFICIAL_POW_OFFSET) ** kappa
    nothing = loss_map == 0
    # the slope of L ** kappa is infinite at 0; infinity * 0 would be NaN, so 0 never enters the power
    return torch.where(nothing, 0.0, torch.where(nothing, 1.0, loss_map) ** kappa)


def pus_ignore(loss_map: Tensor, kappa: float) -> Tensor:
    """Drop the pixels whose loss reaches kappa.

        pus(L) = L   where L < kappa, else 0        (eq. 13)

    Arguments, shape and errors as in `pus_clamp`.

    Examples:
        >>> pus_ignore(torch.tensor([0.25, 2.0]), kappa=0.5)
        tensor([0.2500, 0.0000])
    """
    kappa = _check_kappa(kappa, loss_map)
    return torch.where(loss_map >= kappa, 0.0, loss_map)  # so that NaN stays NaN


def cross_entropy_map(logits: Tensor, target: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Softmax cross-entropy of every pixel.

        L = -log softmax(logits)[target]

    Args:
        logits: (N, K, H, W) floating point, one channel per class, the background first.
        target: (N, H, W) integers, class index in 0..K-1 or ignore_index, the label of the pixels without a loss.

    Returns:
        (N, H, W) float32, >= 0; 0 where the target is ignored.

    Raises:
        InputError: the shapes do not fit, or `target` holds anything but class indices and ignore_index.

    Examples:
        >>> logits = torch.zeros(1, 2, 1, 3)  # two classes, undecided
        >>> cross_entropy_map(logits, torch.tensor([[[0, 1, 255]]]))
        tensor([[[0.6931, 0.6931, 0.0000]]])
    """
    labels = _check_target(logits, target, ignore_index)
    return F.cross_entropy(logits.float(), labels, reduction="none", ignore_index=ignore_index)


def one_vs_all_bce_map(logits: Tensor, target: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """One-vs-all binary cross-entropy of every pixel, averaged over the K classes.

        L = mean_k( -log sigmoid(logits_k)  where k is the target,  -log(1 - sigmoid(logits_k))  elsewhere )

    The paper words its loss as one-vs-all and does not say how the classes are combined. The mean keeps the
    loss on a scale that beta and kappa near 0.5 can meet: it is log 2 = 0.69 for an undecided model, whatever
    K. The sum would be K times that, too far above beta for the gate to open when it should.

    Arguments, shape and errors as in `cross_entropy_map`.

    Examples:
        >>> one_vs_all_bce_map(torch.zeros(1, 21, 1, 2), torch.tensor([[[0, 255]]]))
        tensor([[[0.6931, 0.0000]]])
    """
    labels = _check_target(logits, target, ignore_index)
    scores, valid = logits.float(), labels != ignore_index
    own = scores.gather(1, labels.where(valid, 0)[:, None])[:, 0]  # (N, K, H, W) -> (N, H, W)
    # BCE is softplus(z) for the classes a pixel is not, softplus(-z) = softplus(z) - z for the one it is
    return torch.where(valid, (F.softplus(scores).sum(1) - own) / scores.shape[1], 0.0)


PIXEL_LOSSES = {"ce": cross_entropy_map, "bce": one_vs_all_bce_map}


@dataclass(frozen=True)
class UnderfittingState:
    """What PUS did in the last batch: detached zero-dimensional tensors; reading one waits for the device.

    Examples:
        >>> UnderfittingState(torch.tensor(0.4), torch.tensor(0.1), torch.tensor(True)).gate
        'open'
    """

    mean_loss: Tensor  # mean of the untouched loss, the value that the gate compares with beta
    share_over_kappa: Tensor  # share in [0, 1] of the valid pixels whose loss is kappa or more; 0 for kind "none"
    is_open: Tensor  # bool: the mean loss is below beta, so that PUS reshapes the loss

    @property
    def gate(self) -> str:
        """ "open" where PUS reshaped the loss, "closed" where the plain mean was used."""
        return "open" if bool(self.is_open) else "closed"


class PretendedUnderfittingLoss(nn.Module):
    """Segmentation loss with the Pretended Under-fitting Strategy.

        loss = mean(L)        where mean(L) >= beta
               mean(pus(L))   else                         (eq. 10)

    L is the per-pixel loss map.

    Args:
        kind: "clamp" (eq. 11), "pow" (eq. 12), "ignore" (eq. 13), or "none" for the plain mean.
        beta: >= 0, gate on the mean loss; 0.5 on VOC, 0.8 on COCO in the released code. None for kind "none".
        kappa: > 0, where a pixel becomes suspect (for pow: the power); equal to beta in the released code.
            None for kind "none".
        variant: "paper" follows the equations, over the valid pixels only; "official" follows the released
            code, whose gate and mean divide by all pixels, ignored ones included.
        pixel_loss: "ce" (softmax cross-entropy) or "bce" (one-vs-all).
        ignore_index: label of the pixels without a loss.

    Attributes:
        last_state: UnderfittingState of the last forward call, None before the first.

    Raises:
        InputError: an argument is not as described above.

    Examples:
        >>> criterion = PretendedUnderfittingLoss("clamp", beta=0.8, kappa=0.5, variant="paper")
        >>> logits, target = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
        >>> criterion(logits, target), criterion.last_state.gate  # each pixel's loss is log 2, above kappa
        (tensor(0.5000), 'open')
    """

    def __init__(
        self,
        kind: str,
        beta: float | None,
        kappa: float | None,
        variant: str,
        pixel_loss: str = "ce",
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__()
        if kind not in PUS_KINDS:
            raise InputError(f"kind: {kind!r} is unknown; choose one of {', '.join(PUS_KINDS)}")
        if pixel_loss not in PIXEL_LOSSES:
            raise InputError(f"pixel_loss: {pixel_loss!r} is unknown; choose one of {', '.join(PIXEL_LOSSES)}")
        if kind != "none":
            _check_number("beta", beta)
            _check_number("kappa", kappa, positive=True)
        self.kind, self.beta, self.kappa = kind, beta, kappa
        self.variant, self.pixel_loss, self.ignore_index = check_variant(variant), pixel_loss, ignore_index
        self.last_state: UnderfittingState | None = None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch, zero-dimensional float32; 0 with zero gradient where no pixel is valid.

        Arguments and errors as in `cross_entropy_map`.
        """
        loss_map = PIXEL_LOSSES[self.pixel_loss](logits, target, self.ignore_index)  # (N, H, W)
        return self.reduce(loss_map, target != self.ignore_index)

    def reduce(self, loss_map: Tensor, valid: Tensor) -> Tensor:
        """Return the loss of ready pixel losses, as `forward`: gate, strategy and mean (eq. 10).

        Args:
            loss_map: floating point of any shape, >= 0; 0 where it is not valid.
            valid: bool of the same shape, False for the pixels without a loss.
        """
        n_valid = valid.sum()
        # several processes share a batch, and their gradients are averaged: so are pixels and gate
        valid_count = average(n_valid.float()).clamp(min=1)
        count = loss_map.numel() if self.variant == "official" else valid_count
        mean_loss = loss_map.sum() / count  # an ignored pixel's loss is 0
        whole = average(mean_loss.detach())
        is_open, share = self._inspect(loss_map, whole, n_valid)
        self.last_state = UnderfittingState(whole, share, is_open)
        if self.kind == "none":
            return mean_loss
        # a tensor decides, not Python: the gate never makes the device wait
        loss = torch.where(is_open, self._reshape(loss_map).sum() / count, mean_loss)
        return loss * (n_valid > 0)  # official pow of an ignored pixel is not quite 0

    def extra_repr(self) -> str:
        """Describe the settings in the module's print-out."""
        return f"{self.kind}, beta={self.beta}, kappa={self.kappa}, {self.variant}, {self.pixel_loss}"

    def _reshape(self, loss_map: Tensor) -> Tensor:
        if self.kind == "ignore":
            return pus_ignore(loss_map, self.kappa)
        return {"clamp": pus_clamp, "pow": pus_pow}[self.kind](loss_map, self.kappa, self.variant)

    @torch.no_grad()
    def _inspect(self, loss_map: Tensor, mean_loss: Tensor, n_valid: Tensor) -> tuple[Tensor, Tensor]:
        if self.kind == "none":
            return torch.zeros_like(mean_loss, dtype=torch.bool), torch.zeros_like(mean_loss)
        over = loss_map >= self.kappa  # an ignored pixel's loss is 0
        return mean_loss < self.beta, over.sum() / n_valid.clamp(min=1)


def _check_number(name: str, value: float | None, positive: bool = False) -> None:
    if value is None or not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name}: {value} is not a finite number >= 0; the released code uses 0.5 on VOC")
    if positive and value == 0:
        raise InputError(f"{name}: 0 is not positive; the released code uses 0.5 on VOC")


def _check_kappa(kappa: float, loss_map: Tensor) -> float:
    """Return kappa as a number that the type of the losses can hold."""
    _check_number("kappa", kappa, positive=True)
    if not loss_map.is_floating_point():
        raise InputError(f"loss_map: floating point expected, got {loss_map.dtype}")
    held = torch.finfo(loss_map.dtype)
    return min(max(kappa, held.tiny), held.max)


def _check_target(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Check a batch and return the target as int64. Costs one wait for the device."""
    if logits.ndim != 4 or not logits.shape[1] or not logits.is_floating_point():
        raise InputError(f"logits: floating point (N, K, H, W) expected, got {tuple(logits.shape)} {logits.dtype}")
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(target.shape) != expected or target.is_floating_point() or target.dtype == torch.bool:
        raise InputError(f"target: integers {expected} expected, got {tuple(target.shape)} {target.dtype}")
    labels, n_classes = target.long(), logits.shape[1]
    wrong = ((labels < 0) | (labels >= n_classes)) & (labels != ignore_index)
    if wrong.any():
        value = int(labels[wrong][0])
        raise InputError(f"target: label {value} is neither in 0..{n_classes - 1} nor {ignore_index} (ignored)")
    return labels
