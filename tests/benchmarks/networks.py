"""Benchmarks of the networks: CAMs and training steps, their batches and their precision."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import interleave, ratios, spread
from recipe import photograph
from torch.nn.functional import interpolate

from pmm.data.cams import save_cams
from pmm.data.images import read_image, write_jpeg
from pmm.data.transforms import Augmentation, augment
from pmm.method.cam import normalize_cam
from pmm.method.losses import PretendedUnderfittingLoss
from pmm.method.pseudo_mask import threshold_pseudo_mask
from pmm.networks import inference as cam_inference
from pmm.networks.devices import keep_freed_memory, place, prepare_images
from pmm.networks.engine import accelerate
from pmm.networks.inference import cams_in_batches, multi_scale_cam, scaled_batch
from pmm.networks.models import (
    EMBEDDED_BACKBONE,
    CamClassifier,
    create_segmenter,
    freeze,
    image_statistics,
    keep_statistics,
    load_imagenet,
)
from pmm.networks.training import SegmentationLoss
from pmm.run.folder import project_root
from pmm.run.params import Params, load_params
from pmm.threads import map_images

CPU = torch.device("cpu")
IDS = (1, 2)
BATCH = 4
N_CLASSES = 10
BFLOAT16 = torch.autocast("cpu", dtype=torch.bfloat16)


def cam_rate(quick: bool) -> dict[str, Any]:
    """(d) CAMs at four scales with flips: an image a thread against a loop, against batches, and in bfloat16."""
    model = _classifier()
    loop = _loop_of_cams(256, 192, 2 if quick else 12, model)
    sizes = [(256, 192, BATCH if quick else 2 * BATCH), (500, 375, BATCH)]
    batches = [_batches_of_cams(*size, model, 1 if quick else 3) for size in sizes]
    return {**loop, "batches": batches, "bfloat16": _bfloat16_cam(model, quick)}


def engine_rate(quick: bool) -> dict[str, Any]:
    """(j) The whole chain of CAMs, from JPEG to .npz: PyTorch against ONNX Runtime, at four scales with flips and as
    params/voc2012_animals.yaml has them.
    """
    keep_freed_memory()
    model, animals = _classifier(), load_params(project_root() / "params" / "voc2012_animals.yaml")
    start = time.perf_counter()
    fast = accelerate(model, "onnxruntime")
    converted = round(time.perf_counter() - start, 1)
    own = accelerate(_classifier(animals.cam_output_stride or animals.cls_output_stride), "onnxruntime")
    n = 4 if quick else 12
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.jpg" for i in range(n)]
        for i, file in enumerate(files):
            write_jpeg(file, photograph(i, *[(400, 300), (300, 400), (400, 267), (400, 286)][i % 4]))

        def chain(network: torch.nn.Module, p: Params, file: Path) -> np.ndarray:
            cam = multi_scale_cam(network, read_image(file), IDS, **_cam_options(p))
            save_cams(file.with_suffix(".npz"), IDS, cam)
            return cam

        works = {
            name: lambda chosen=chosen: list(map_images(partial(chain, *chosen), files))
            for name, chosen in {
                "torch": (model, Params()), "onnxruntime": (fast, Params()), "animals": (own, animals)
            }.items()
        }  # fmt: skip
        seconds = interleave(works, 1 if quick else 5)
        expected, found = works["torch"](), works["onnxruntime"]()
    rates = {f"{name}, images/s": round(n / float(np.median(v)), 2) for name, v in seconds.items()}
    pairs = list(zip(expected, found, strict=True))
    masks = [[threshold_pseudo_mask(cam, IDS, 0.5) for cam in pair] for pair in pairs]
    return {
        **rates,
        "ratio": ratios(seconds, "torch", "onnxruntime"),
        "animals, ratio": ratios(seconds, "torch", "animals"),
        "animals, scales": animals.cam_scales,
        "largest difference": max(float(np.abs(a - b).max()) for a, b in pairs),
        "pixels that agree": float(np.mean([(a == b).mean() for a, b in masks])),
        "seconds to convert": converted,
    }


def _classifier(output_stride: int = 0) -> CamClassifier:
    """Build the demo's classifier with ImageNet's weights and a head of seed 0; 0 is the demo's stride."""
    torch.manual_seed(0)
    model = CamClassifier(EMBEDDED_BACKBONE, N_CLASSES - 1, output_stride or Params().cls_output_stride)
    load_imagenet(model.backbone, EMBEDDED_BACKBONE)
    return place(model.eval(), CPU)


def _cam_options(p: Params | None = None) -> dict[str, Any]:
    p = p or Params()
    return {"scales": p.cam_scales, "flip": p.cam_flip, "statistics": image_statistics(EMBEDDED_BACKBONE)}


def _loop_of_cams(width: int, height: int, n_images: int, model: CamClassifier) -> dict[str, Any]:
    """Compare with a plain loop over scales and flips, one pass each, on all cores and in torch's own layout."""
    images = [photograph(i, width, height) for i in range(n_images)]
    plain = CamClassifier(EMBEDDED_BACKBONE, N_CLASSES - 1, Params().cls_output_stride).eval()
    plain.load_state_dict(model.state_dict())
    ours = partial(multi_scale_cam, model, class_ids=IDS, **_cam_options())
    works = {
        "loop": lambda: [_plain_cam(plain, image) for image in images],
        "ours": lambda: list(map_images(ours, images)),
    }
    seconds = interleave(works, 3)
    rates = {f"{name}, images/s": round(n_images / float(np.median(v)), 2) for name, v in seconds.items()}
    difference = float(np.abs(_plain_cam(plain, images[0]) - ours(images[0])).max())
    return {**rates, "ratio": ratios(seconds, "loop", "ours"), "largest difference": difference}


@torch.no_grad()
def _plain_cam(model: CamClassifier, image: np.ndarray) -> np.ndarray:
    options, total = _cam_options(), 0
    picture = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    for scale in options["scales"]:
        for flip in (False, True):
            batch = scaled_batch(picture.flip(-1) if flip else picture, scale, False, options["statistics"], CPU)
            maps = model.maps(batch.contiguous())[:, [i - 1 for i in IDS]].clamp(min=0)
            total = total + interpolate(maps.flip(-1) if flip else maps, image.shape[:2], mode="bilinear")[0]
    return normalize_cam(total.numpy())


def _batches_of_cams(width: int, height: int, n_images: int, model: CamClassifier, rounds: int) -> dict[str, Any]:
    """Compare an image a thread with passes of several images on all cores."""
    images = [photograph(i, width, height) for i in range(n_images)]
    alone = partial(multi_scale_cam, model, class_ids=IDS, **_cam_options())
    found: dict[int, np.ndarray] = {}

    def in_batches() -> None:
        batches = [range(first, min(first + BATCH, n_images)) for first in range(0, n_images, BATCH)]
        saved = cams_in_batches(
            model, batches, lambda i: (images[i], IDS), lambda i, _, cam: found.update({i: cam}), **_cam_options()
        )
        list(saved)

    seconds = interleave({"thread": lambda: list(map_images(alone, images)), "batch": in_batches}, rounds)
    difference = max(float(np.abs(cam - found[i]).max()) for i, cam in enumerate(map_images(alone, images)))
    rates = {f"{name}, images/s": round(n_images / float(np.median(v)), 2) for name, v in seconds.items()}
    size = {"size": f"{width}x{height}", "batch": BATCH}
    return {**size, **rates, "ratio": ratios(seconds, "thread", "batch"), "largest difference": difference}


def _bfloat16_cam(model: CamClassifier, quick: bool) -> dict[str, Any]:
    """Compare one image's CAM in float32 with bfloat16, whatever `autocast` takes."""
    options = _cam_options() | ({"scales": [0.5]} if quick else {})
    cam = partial(multi_scale_cam, model, photograph(0, 256, 192), IDS, **options)
    exact, plain = cam(), _seconds(cam)
    kept, cam_inference.autocast = cam_inference.autocast, lambda _: BFLOAT16
    try:
        start = time.perf_counter()
        half = cam()  # once: it takes longer than any warming up
        slow = time.perf_counter() - start
    finally:
        cam_inference.autocast = kept
    difference = float(np.abs(half - exact).max())
    return {"time over float32": round(slow / plain, 1), "largest difference": difference}


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def training_rate(quick: bool) -> dict[str, Any]:
    """(e) A training step with cross-entropy and with PUS, how long its batch takes to load, and bfloat16."""
    keep_freed_memory()
    p = Params()
    model, (inputs, targets), load = _segmenter(p), *_batches(p)
    kinds = {"ce": "none", "clamp": "clamp", "pow": "pow", "ignore": "ignore"}
    losses = {
        name: SegmentationLoss(PretendedUnderfittingLoss(kind, 100.0, 0.5, "paper")) for name, kind in kinds.items()
    }

    def step(loss: SegmentationLoss) -> None:
        loss(model, inputs, targets, 1.0)[0].backward()
        model.zero_grad(set_to_none=True)

    contenders = {kind: partial(step, loss) for kind, loss in losses.items()}
    seconds = interleave({**contenders, "load": load}, 1 if quick else 15)
    with BFLOAT16:
        half = _seconds(contenders["ce"])
    rates = {f"{kind}, images/s": round(len(inputs) / float(np.median(seconds[kind])), 2) for kind in contenders}
    return {
        **rates,
        "cost of PUS, %": _cost_of_losses(losses, inputs, targets, float(np.median(seconds["ce"]))),
        "loading, % of a step": spread(100 * seconds["load"] / seconds["ce"], 1),
        "bfloat16 over float32": round(half / float(np.median(seconds["ce"])), 1),
    }


def _segmenter(p: Params) -> torch.nn.Module:
    sizes = {"channels": p.seg_decoder_channels, "rates": p.seg_atrous_rates}
    model = place(create_segmenter(p.seg_architecture, EMBEDDED_BACKBONE, N_CLASSES, **sizes), CPU).train()
    keep_statistics(model.encoder)
    freeze(model.encoder.model, p.seg_frozen_stages)
    return model


def _batches(p: Params) -> tuple[tuple[torch.Tensor, torch.Tensor], Callable[[], Any]]:
    """Return one batch, ready for the model, and the function that loads another."""
    settings, rng = Augmentation(tuple(p.seg_crop), tuple(p.seg_scale), colour=0.3), np.random.default_rng(0)
    images = [photograph(i, 256, 192) for i in range(p.seg_batch_size)]
    masks = [rng.integers(0, N_CLASSES, (192, 256), dtype=np.uint8) for _ in images]

    def load() -> tuple[torch.Tensor, torch.Tensor]:
        pairs = [augment(image, mask, settings, rng) for image, mask in zip(images, masks, strict=True)]
        return torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])

    pictures, targets = load()
    return (prepare_images(pictures, *image_statistics(EMBEDDED_BACKBONE), CPU), targets), load


def _cost_of_losses(
    losses: dict[str, SegmentationLoss], inputs: torch.Tensor, targets: torch.Tensor, step_seconds: float
) -> dict[str, dict[str, float]]:
    """Time the losses alone, in per cent of a step: a step is too long to tell by its own spread what one costs."""
    leaf = torch.randn(len(inputs), N_CLASSES, *inputs.shape[2:], requires_grad=True)

    def alone(loss: SegmentationLoss) -> None:
        loss(lambda _: leaf, inputs, targets, 1.0)[0].backward()
        leaf.grad = None

    seconds = interleave({kind: partial(alone, loss) for kind, loss in losses.items()}, 20)
    return {kind: spread(100 * (seconds[kind] - seconds["ce"]) / step_seconds, 2) for kind in losses if kind != "ce"}
