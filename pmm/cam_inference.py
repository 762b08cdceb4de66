"""CAMs of whole images: several scales, each with its mirror image, summed, only the classes present."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pmm.cam import normalize_cam
from pmm.devices import autocast, prepare_images
from pmm.models import CamClassifier


@torch.inference_mode()
def multi_scale_cam(
    model: CamClassifier,
    image: np.ndarray,
    class_ids: Sequence[int],
    *,
    scales: Sequence[float],
    flip: bool,
    statistics: tuple[list[float], list[float]],
) -> np.ndarray:
    """Sum the rectified class maps over scales and mirror images, then normalise each (eq. 1).

    Args:
        model: in evaluation mode, on its device.
        image: (H,W,3) uint8.
        class_ids: (C,) mask values 1..n of the classes present; the model's channel is one less.
        scales: factors on height and width.
        flip: add the mirrored image's maps, mirrored back.
        statistics: mean and standard deviation of the model's input.

    Returns:
        (C,H,W) float32 in [0,1].
    """
    if not len(class_ids):
        return np.zeros((0, *image.shape[:2]), dtype=np.float32)
    device = next(model.parameters()).device
    picture = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    channels = torch.as_tensor([i - 1 for i in class_ids], device=device)
    total = torch.zeros(len(class_ids), *image.shape[:2], device=device)
    with autocast(device):
        for scale in scales:
            maps = model.maps(scaled_batch(picture, scale, flip, statistics, device))[:, channels].float()
            maps = unflip(maps, flip).clamp(min=0)
            total += F.interpolate(maps, image.shape[:2], mode="bilinear", align_corners=False).sum(0)
    return normalize_cam(total.cpu().numpy())


def scaled_batch(
    picture: Tensor, scale: float, flip: bool, statistics: tuple[list[float], list[float]], device: torch.device
) -> Tensor:
    """Resize (1,3,H,W) uint8 and add its mirror image: (1 or 2,3,h,w) float32, normalised."""
    if scale != 1:
        size = [max(32, round(side * scale)) for side in picture.shape[2:]]
        resized = F.interpolate(picture.float(), size, mode="bilinear", align_corners=False, antialias=scale < 1)
        picture = resized.round_().clamp_(0, 255)
    batch = torch.cat([picture, picture.flip(-1)]) if flip else picture
    return prepare_images(batch, *statistics, device)


def unflip(maps: Tensor, flip: bool) -> Tensor:
    """Mirror the second of two maps back."""
    return torch.stack([maps[0], maps[1].flip(-1)]) if flip else maps
