"""What the segmentation model does with one image: class probabilities, masks, per-pixel loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pmm.cam_inference import scaled_batch, unflip
from pmm.devices import autocast
from pmm.losses import PIXEL_LOSSES, PretendedUnderfittingLoss
from pmm.params import Params

DIVISOR = 32
"""Image sides are padded to a multiple of this, as the decoders need."""


def padded_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Run the model on images (N,3,H,W) of any size, padded by reflection at the right and the bottom."""
    height, width = images.shape[2:]
    pad = (-width % DIVISOR, -height % DIVISOR)
    mode = "reflect" if pad[0] < width and pad[1] < height else "replicate"
    padded = F.pad(images, (0, pad[0], 0, pad[1]), mode=mode).contiguous(memory_format=torch.channels_last)
    return model(padded)[:, :, :height, :width].float()


@torch.inference_mode()
def class_probabilities(
    model: nn.Module,
    image: np.ndarray,
    *,
    scales: Sequence[float],
    flip: bool,
    statistics: tuple[list[float], list[float]],
) -> np.ndarray:
    """Average the softmax over scales and mirror images.

    Args:
        model: in evaluation mode, on its device.
        image: (H,W,3) uint8.
        scales: factors on height and width.
        flip: add the mirror image.
        statistics: mean and standard deviation of the model's input.

    Returns:
        (K,H,W) float32, sums to 1 over the classes.
    """
    device = next(model.parameters()).device
    picture = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    total: Tensor | float = 0.0
    with autocast(device):
        for scale in scales:
            logits = unflip(padded_logits(model, scaled_batch(picture, scale, flip, statistics, device)), flip)
            logits = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
            total = total + logits.softmax(1).mean(0)
    return (total / len(scales)).cpu().numpy()


@torch.inference_mode()
def pixel_loss_map(
    model: nn.Module,
    image: np.ndarray,
    mask: np.ndarray,
    *,
    pixel_loss: str,
    background_margin: float,
    statistics: tuple[list[float], list[float]],
) -> np.ndarray:
    """Compute the per-pixel loss L of eq. 10 of one whole image against a mask.

    Args:
        model: in evaluation mode, on its device.
        image: (H,W,3) uint8.
        mask: (H,W) uint8 labels, 255 is ignored.
        pixel_loss: `ce` or `bce`.
        background_margin: as in training, see `with_background_margin`.
        statistics: mean and standard deviation of the model's input.

    Returns:
        (H,W) float32, 0 where ignored.
    """
    device = next(model.parameters()).device
    picture = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    logits = padded_logits(model, scaled_batch(picture, 1, False, statistics, device))
    logits = with_background_margin(logits, background_margin)
    target = torch.from_numpy(mask.astype(np.int64))[None].to(device)
    return PIXEL_LOSSES[pixel_loss](logits, target, 255)[0].cpu().numpy()


def with_background_margin(logits: Tensor, margin: float) -> Tensor:
    """Raise the background's logit during training; prediction goes without.

    Most pixels are background, and a model that has seen few steps answers background wherever it doubts. The
    constant takes that prior upon itself, so that the logits need not learn it: the logit-adjusted loss of Menon
    et al. (ICLR 2021) for one frequent class.

    Args:
        logits: (N,K,H,W), the background first.
        margin: in nats; log 4 says that background is 4 times as frequent as it shall count. 0 changes nothing.

    Returns:
        (N,K,H,W).
    """
    if margin == 0:
        return logits
    prior = logits.new_zeros(logits.shape[1])
    prior[0] = margin
    return logits + prior[:, None, None]


class SegmentationLoss:
    """The loss of a segmentation step: plain until the warm-up is over, then with PUS."""

    def __init__(self, p: Params):
        options = {"variant": p.pus_variant, "pixel_loss": p.pixel_loss}
        self.plain = PretendedUnderfittingLoss("none", p.beta, p.kappa, **options)
        self.pus = PretendedUnderfittingLoss(p.pus, p.beta, p.kappa, **options)
        self.warmup, self.margin = p.pus_warmup, p.seg_background_margin

    def __call__(
        self, model: nn.Module, images: Tensor, targets: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch and what to log of it; see `training.LossFunction`."""
        criterion = self.pus if progress >= self.warmup else self.plain
        loss = criterion(with_background_margin(model(images), self.margin), targets)
        state = criterion.last_state
        values = {"mean_loss": state.mean_loss, "gate_open": state.is_open, "over_kappa": state.share_over_kappa}
        return loss, values
