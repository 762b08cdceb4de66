"""What the trained networks say of whole images, over several scales and mirror images.

The classifier gives class activation maps; the segmentation model gives class probabilities and per-pixel losses.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from itertools import product, zip_longest
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pmm.method import IGNORE_INDEX
from pmm.method.cam import normalize_cam
from pmm.method.losses import PIXEL_LOSSES
from pmm.networks.devices import Statistics, autocast, normalized, prepare_images
from pmm.networks.models import CamClassifier
from pmm.networks.training import with_background_margin
from pmm.threads import available_threads, one_thread_each

GPU_BATCH = 16  # images of one size in a pass, unless told; on a processor an image a thread is faster: docs/speed.md
DIVISOR = 32  # image sides are padded to a multiple of it, as the decoders need

K = TypeVar("K")
S = TypeVar("S", bound=Hashable)


@torch.inference_mode()
def multi_scale_cam(
    model: CamClassifier,
    image: np.ndarray,
    class_ids: Sequence[int],
    *,
    scales: Sequence[float],
    flip: bool,
    statistics: Statistics,
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
    (total,) = _summed_maps(model, [scaled_pictures(image, scales)], [class_ids], image.shape[:2], flip, statistics)
    return normalize_cam(total)


def cam_batch_size(asked: int, device: torch.device) -> int:
    """Return how many images of one size share a pass: what is asked for; for 0, `GPU_BATCH`, on a processor 1."""
    return asked or (1 if device.type == "cpu" else GPU_BATCH)


def equal_sizes(keys: Sequence[K], sizes: Sequence[S], batch_size: int) -> list[list[K]]:
    """Cut the keys of images into batches of at most `batch_size` >= 1 images of equal size.

    Batches hold every key once, in order, and are ordered by their first keys.
    """
    batches: list[list[K]] = []
    open_batch: dict[S, list[K]] = {}
    for key, size in zip(keys, sizes, strict=True):
        if len(open_batch.get(size, ())) % batch_size == 0:  # none yet, or full
            batches.append([])
            open_batch[size] = batches[-1]
        open_batch[size].append(key)
    return batches


def cams_in_batches(
    model: CamClassifier,
    batches: Sequence[Sequence[K]],
    load: Callable[[K], tuple[np.ndarray, Sequence[int]]],
    save: Callable[[K, Sequence[int], np.ndarray], None],
    *,
    scales: Sequence[float],
    flip: bool,
    statistics: Statistics,
) -> Iterator[K]:
    """Compute CAMs, a pass a scale for a whole batch; threads load the next batch and save the last one meanwhile.

    Args:
        batches: keys of images of one size, see `equal_sizes`.
        load: key -> (image (H,W,3) uint8, class_ids); called from several threads.
        save: called with key, class_ids and CAM (C,H,W) float32 in [0,1], from several threads.
        model, scales, flip, statistics: as in `multi_scale_cam`, whose CAMs these are, up to rounding.

    Yields:
        The keys, in order, each when its CAM is saved.

    Raises:
        Exception: what `load` or `save` raises; later batches are not begun; the one under way may be lost.
    """

    def prepare(key: K) -> tuple[list[Tensor], Sequence[int], tuple[int, int]]:
        """Load one image at all its scales."""
        image, class_ids = load(key)
        return scaled_pictures(image, scales), class_ids, image.shape[:2]

    def finish(key: K, class_ids: Sequence[int], total: np.ndarray) -> K:
        """Normalise and save one image's CAM."""
        save(key, class_ids, normalize_cam(total))
        return key

    loading: list[Future] = []
    saving: list[Future[K]] = []
    with one_thread_each(available_threads()) as pool:
        for batch, following in zip_longest([(), *batches], batches, fillvalue=()):
            loaded = [future.result() for future in loading]
            loading = [pool.submit(prepare, key) for key in following]
            if loaded:
                pictures, ids, sizes = zip(*loaded, strict=True)
                totals = _summed_maps(model, pictures, ids, sizes[0], flip, statistics)
                yield from (future.result() for future in saving)
                saving = [pool.submit(finish, *each) for each in zip(batch, ids, totals, strict=True)]
        yield from (future.result() for future in saving)


@torch.inference_mode()
def _summed_maps(
    model: CamClassifier,
    pictures: Sequence[Sequence[Tensor]],
    class_ids: Sequence[Sequence[int]],
    size: tuple[int, int],
    flip: bool,
    statistics: Statistics,
) -> list[np.ndarray]:
    """Sum the maps of images of one size, each given at all scales: for each image (C,H,W) float32 >= 0."""
    device = next(model.parameters()).device
    channels = [torch.as_tensor([i - 1 for i in ids], dtype=torch.long, device=device) for ids in class_ids]
    totals = [torch.zeros(len(ids), *size, device=device) for ids in class_ids]
    with autocast(device):
        for at_scale in zip(*pictures, strict=True):
            maps = model.maps(in_layout(model, mirrored_batch(torch.cat(at_scale), flip, statistics, device)))
            for i, (total, wanted) in enumerate(zip(totals, channels, strict=True)):
                if len(wanted):
                    own = unflip(maps[i :: len(totals)][:, wanted].float(), flip).clamp(min=0)
                    total += F.interpolate(own, size, mode="bilinear", align_corners=False).sum(0)
    return [total.cpu().numpy() for total in totals]


def scaled_pictures(image: np.ndarray, scales: Sequence[float]) -> list[Tensor]:
    """Resize (H,W,3) uint8 to each scale, at least 32 pixels a side: (1,3,h,w), whole numbers in [0,255]."""
    picture = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    return [_resized(picture, scale) for scale in scales]


def scaled_batch(picture: Tensor, scale: float, flip: bool, statistics: Statistics, device: torch.device) -> Tensor:
    """Resize (1,3,H,W) uint8 and add its mirror image: (1 or 2,3,h,w) float32, normalised."""
    return mirrored_batch(_resized(picture, scale), flip, statistics, device)


def mirrored_batch(pictures: Tensor, flip: bool, statistics: Statistics, device: torch.device) -> Tensor:
    """Add the mirror images of (N,3,h,w) behind them: (N or 2N,3,h,w) float32, normalised, on the device."""
    images = normalized(pictures, *statistics, device)
    return torch.cat([images, images.flip(-1)]) if flip else images


def in_layout(model: nn.Module, images: Tensor) -> Tensor:
    """Return images in the memory order that a network likes best: channels last, unless it says another."""
    return images.contiguous(memory_format=getattr(model, "memory_format", torch.channels_last))


def unflip(maps: Tensor, flip: bool) -> Tensor:
    """Mirror the second of two maps back."""
    return torch.stack([maps[0], maps[1].flip(-1)]) if flip else maps


def _resized(picture: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return picture
    size = [max(32, round(side * scale)) for side in picture.shape[2:]]
    resized = F.interpolate(picture.float(), size, mode="bilinear", align_corners=False, antialias=scale < 1)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def padded_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Run the model on images (N,3,H,W) of any size, padded by reflection at the right and the bottom."""
    height, width = images.shape[2:]
    pad = (-width % DIVISOR, -height % DIVISOR)
    mode = "reflect" if pad[0] < width and pad[1] < height else "replicate"
    padded = F.pad(images, (0, pad[0], 0, pad[1]), mode=mode)
    return model(in_layout(model, padded))[:, :, :height, :width].float()


def windowed_logits(model: nn.Module, images: Tensor, side: int) -> Tensor:
    """Average the logits of square windows that overlap by a third or more; 0: one window, the whole image.

    A model sees the sizes that it was trained on, and a GPU needs memory for one window.
    """
    if not side or max(images.shape[2:]) <= side:
        return padded_logits(model, images)
    height, width = images.shape[2:]
    total, count = None, images.new_zeros(height, width)
    for top, left in product(window_starts(height, side), window_starts(width, side)):
        place = (..., slice(top, top + side), slice(left, left + side))
        logits = padded_logits(model, images[place])
        total = logits.new_zeros((*logits.shape[:2], height, width)) if total is None else total
        total[place] += logits
        count[place[1:]] += 1
    return total / count


def window_starts(length: int, side: int) -> list[int]:
    """Cut a length into windows, two thirds of a side or less apart, the last one at the end.

    Examples:
        >>> window_starts(900, 512), window_starts(400, 512)
        ([0, 194, 388], [0])
    """
    n = -(-max(length - side, 0) // (side * 2 // 3 or 1)) + 1
    return [i * (length - side) // (n - 1) for i in range(n)] if n > 1 else [0]


@torch.inference_mode()
def class_probabilities(
    model: nn.Module,
    image: np.ndarray,
    *,
    scales: Sequence[float],
    flip: bool,
    statistics: Statistics,
    window: int = 0,
) -> np.ndarray:
    """Average the softmax over scales and mirror images.

    Args:
        model, image, scales, flip, statistics: as in `multi_scale_cam`.
        window: side of the windows that a larger image is cut into, see `windowed_logits`; 0: none.

    Returns:
        (K,H,W) float32, sums to 1 over the classes.
    """
    device = next(model.parameters()).device
    total: Tensor | float = 0.0
    with autocast(device):
        for picture in scaled_pictures(image, scales):
            logits = unflip(windowed_logits(model, mirrored_batch(picture, flip, statistics, device), window), flip)
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
    statistics: Statistics,
) -> np.ndarray:
    """Compute the per-pixel loss L of eq. 10 of one whole image against a mask.

    Args:
        model, image, statistics: as in `multi_scale_cam`.
        mask: (H,W) uint8 labels, 255 is ignored.
        pixel_loss: `ce` or `bce`.
        background_margin: as in training, see `with_background_margin`.

    Returns:
        (H,W) float32, 0 where ignored.
    """
    device = next(model.parameters()).device
    (picture,) = scaled_pictures(image, [1])
    logits = padded_logits(model, prepare_images(picture, *statistics, device))
    target = torch.from_numpy(mask.astype(np.int64))[None].to(device)
    losses = PIXEL_LOSSES[pixel_loss](with_background_margin(logits, background_margin), target, IGNORE_INDEX)
    return losses[0].cpu().numpy()
