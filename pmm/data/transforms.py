"""Random scale, crop, flip and colour of training images, each drawn from a generator that is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pmm.method import IGNORE_INDEX


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image."""

    crop: tuple[int, int]  # height and width of the result, pixels
    scale: tuple[float, float] = (1.0, 1.0)  # smallest and largest random factor
    colour: float = 0.0  # largest relative change of brightness, contrast and saturation; 0 leaves colours alone
    erase: float = 0.0  # largest side of one erased rectangle as a share of the crop; 0 erases nothing


def augment(
    image: np.ndarray, mask: np.ndarray | None, settings: Augmentation, rng: np.random.Generator
) -> tuple[Tensor, Tensor | None]:
    """Scale, crop, mirror and recolour an image, and its mask alike.

    Args:
        image, mask: (H,W,3) uint8; (H,W) uint8 or None.
        settings, rng: what to draw from, and the only source of chance.

    Returns:
        Image (3,h,w) uint8 and mask (h,w) uint8 or None, at the crop's size; what lies outside the
        image is its mean colour and, in the mask, 255.
    """
    from torchvision.transforms.v2 import functional as TF  # seconds to import: only where it works

    picture = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    target = None if mask is None else torch.from_numpy(mask.copy())[None]
    factor = float(np.exp(rng.uniform(*np.log(settings.scale))))
    if factor != 1.0:
        size = [max(1, round(side * factor)) for side in picture.shape[1:]]
        tiny = min(*picture.shape[1:], *size) < 4  # torch's resizing of bytes fails on single rows and columns
        source = picture.float() if tiny else picture
        picture = TF.resize(source, size, antialias=factor < 1).round().clamp(0, 255).to(torch.uint8)
        target = None if target is None else TF.resize(target, size, interpolation=TF.InterpolationMode.NEAREST_EXACT)
    picture, target = random_crop(picture, target, settings.crop, rng)
    if rng.random() < 0.5:
        picture, target = picture.flip(-1), None if target is None else target.flip(-1)
    if settings.colour:
        picture = jitter(picture, settings.colour, rng)
    if settings.erase:
        picture = erase(picture, settings.erase, rng)
    return picture, None if target is None else target[0]


def random_crop(
    picture: Tensor, target: Tensor | None, crop: Sequence[int], rng: np.random.Generator
) -> tuple[Tensor, Tensor | None]:
    """Cut a random window of the crop's size; smaller pictures are placed at random inside it."""
    inside, outside = [slice(None)], [slice(None)]  # windows of the picture and of the canvas, all channels
    for have, want in zip(picture.shape[1:], crop, strict=True):
        first, whole = int(rng.integers(0, abs(have - want) + 1)), slice(None)
        part = slice(first, first + min(have, want))
        inside.append(part if have > want else whole)
        outside.append(whole if have > want else part)
    canvas = picture.float().mean((1, 2)).to(torch.uint8)[:, None, None].repeat(1, *crop)
    canvas[tuple(outside)] = picture[tuple(inside)]
    if target is None:
        return canvas, None
    labels = torch.full((1, *crop), IGNORE_INDEX, dtype=torch.uint8)
    labels[tuple(outside)] = target[tuple(inside)]
    return canvas, labels


def jitter(picture: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Change brightness, contrast and saturation, each by a factor in [1 - strength, 1 + strength]."""
    from torchvision.transforms.v2 import functional as TF

    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3)
    picture = TF.adjust_brightness(picture, brightness)
    return TF.adjust_saturation(TF.adjust_contrast(picture, contrast), saturation)


def erase(picture: Tensor, largest: float, rng: np.random.Generator) -> Tensor:
    """Fill one random rectangle with the picture's mean colour, in every second picture."""
    if rng.random() < 0.5:
        return picture
    height, width = picture.shape[1:]
    h, w = (max(1, int(side * rng.uniform(0.1, largest))) for side in (height, width))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    erased = picture.clone()
    erased[:, top : top + h, left : left + w] = picture.float().mean((1, 2)).to(torch.uint8)[:, None, None]
    return erased
