"""A photograph of one's own: read, made upright and small, and given a CAM by ImageNet's classes."""

from __future__ import annotations

import tempfile
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from pmm.data.images import read_image
from pmm.errors import InputError
from pmm.explore.sample import Sample
from pmm.networks.inference import multi_scale_cam, scaled_batch
from pmm.networks.models import EMBEDDED_BACKBONE, CamClassifier, embedded_imagenet_state, image_statistics

LONGEST_SIDE = 500
"""Larger pictures are made smaller: the size of VOC's images."""
SHORTEST_SIDE = 32
CANDIDATES = 5
"""Classes to choose from: those with the highest scores."""
SCALES = (0.5, 1.0, 1.5)


def read_upload(content: bytes, name: str) -> tuple[np.ndarray, str]:
    """Decode an uploaded file: upright as its EXIF tag says, transparency on white, at most 500 pixels long.

    Args:
        content: the file's bytes.
        name: the file's name, for messages.

    Returns:
        (H, W, 3) uint8 RGB and a note, empty where nothing had to be changed.

    Raises:
        InputError: it is no image, or too small to look at.
    """
    pixels = _decode(bytes(content), name or "upload")
    height, width = pixels.shape[:2]
    if min(height, width) < SHORTEST_SIDE:
        raise InputError(f"{name}: found {width} x {height} pixels; give at least {SHORTEST_SIDE} on the shorter side")
    if max(height, width) <= LONGEST_SIDE:
        return pixels, ""
    factor = LONGEST_SIDE / max(height, width)
    size = (round(width * factor), round(height * factor))
    if min(size) < SHORTEST_SIDE:
        raise InputError(f"{name}: {width} x {height} pixels are too long and thin; cut the picture first")
    smaller = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))
    return smaller, f"{name}: made smaller, from {width} x {height} to {size[0]} x {size[1]} pixels"


def _decode(content: bytes, name: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a large photograph is welcome, it is made smaller
        path = Path(folder) / "upload"
        path.write_bytes(content)
        try:
            return read_image(path)
        except InputError as error:
            reason = str(error).replace(str(path), name)
            raise InputError(f"{reason}; give a JPEG, PNG or WebP file") from None


def from_photograph(content: bytes, name: str, first_id: int = 1) -> Sample:
    """Turn an uploaded photograph into a sample: its CAM comes from ImageNet's classes.

    The embedded EfficientNet-Lite0 names the five likeliest of its 1000 classes; its last layer, laid over the
    feature map as a 1x1 convolution, is their CAM. `Sample.only` picks among them.

    Args:
        content: the file's bytes.
        name: the file's name.
        first_id: mask value of the likeliest class; take one that no class of the run has, so that its colour
            is its own.

    Returns:
        A sample without ground truth; its classes are ordered by score.

    Raises:
        InputError: the file is no usable image.
        MissingDependency: the embedded weights are not installed.
    """
    image, note = read_upload(content, name)
    ranked = _likeliest(image)
    model = imagenet_classifier()[0]
    statistics = image_statistics(EMBEDDED_BACKBONE)
    ids = [index + 1 for index in ranked]
    cam = multi_scale_cam(model, image, ids, scales=SCALES, flip=True, statistics=statistics)
    class_ids = tuple(range(first_id, first_id + len(ranked)))
    return Sample(name, image, cam, class_ids, tuple(_class_name(i) for i in ranked), note=note)


@lru_cache(maxsize=1)
def imagenet_classifier() -> tuple[CamClassifier, torch.Tensor]:
    """Return the embedded network with its 1000-way classifier as a 1x1 convolution, and the classifier's bias."""
    state = embedded_imagenet_state()
    model = CamClassifier(EMBEDDED_BACKBONE, len(state["classifier.bias"]))
    model.backbone.load_state_dict({k: v for k, v in state.items() if not k.startswith("classifier.")})
    model.head.weight = nn.Parameter(state["classifier.weight"][:, :, None, None])
    return model.eval(), state["classifier.bias"]


@torch.inference_mode()
def _likeliest(image: np.ndarray) -> list[int]:
    """Return the indices of the five classes with the highest scores, at the scale of ImageNet's training."""
    model, bias = imagenet_classifier()
    picture = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    scale = min(1.0, 240 / min(image.shape[:2]))
    batch = scaled_batch(picture, scale, True, image_statistics(EMBEDDED_BACKBONE), torch.device("cpu"))
    return (model(batch).mean(0) + bias).topk(CANDIDATES).indices.tolist()


@lru_cache(maxsize=1)
def _imagenet_names():
    from timm.data import ImageNetInfo

    return ImageNetInfo()


def _class_name(index: int) -> str:
    return _imagenet_names().index_to_description(index).split(",")[0]
