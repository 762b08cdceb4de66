"""The classifier, trained from image-level labels, and its class activation maps."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from pmm.data import SegmentationData
from pmm.data.cam_files import load_cams, save_cams
from pmm.data.images import image_size
from pmm.data.transforms import Augmentation, augment
from pmm.networks.devices import place, prepare_images, seeded
from pmm.networks.inference import cam_batch_size, cams_in_batches, equal_sizes, multi_scale_cam
from pmm.networks.models import CamClassifier, freeze, load_imagenet
from pmm.networks.training import WEIGHTS, TrainingImages, TrainingSettings, fit, load_weights
from pmm.run.folder import Stage, located
from pmm.run.params import Params
from pmm.run.stages.data import DataStages
from pmm.threads import map_images

AUGMENTATIONS = {
    "weak": {"scale": (1.0, 1.0), "colour": 0.0, "erase": 0.0},
    "strong": {"scale": (0.6, 1.5), "colour": 0.3, "erase": 0.5},
}
"""What `cls_augment` stands for; crops and mirror images are in both."""


class ClassifierStages(DataStages):
    """Classifier and CAMs."""

    def classifier(self) -> Stage:
        """Train the multi-label classifier from image-level labels."""
        p = self.params
        inputs = [self.dataset_stage, self._splits]
        with self.run.stage("classifier", p.pick("seed", "backbone", "weights", "cls_*"), inputs) as stage:
            if not stage.reused:
                model = self._new_classifier(pretrained=True)
                load = partial(_labelled_image, self.data, self.train_ids, self.n_classes)
                augmentation = Augmentation(tuple(p.cls_crop), **AUGMENTATIONS[p.cls_augment])
                fit(
                    model,
                    TrainingImages(load, len(self.train_ids), partial(augment, settings=augmentation), p.seed),
                    _classifier_loss,
                    training_settings(p, "cls"),
                    stage.folder,
                    backbone=model.backbone,
                    head=[model.head],
                    statistics=self.statistics,
                    title="classifier",
                )
                stage.facts |= {"images": len(self.train_ids), **self._average_precision(model)}
        return stage

    def load_classifier(self) -> CamClassifier:
        """Return the trained classifier in evaluation mode."""
        return load_weights(self._new_classifier(pretrained=False), self.classifier().folder / WEIGHTS)

    def _new_classifier(self, pretrained: bool) -> CamClassifier:
        p = self.params
        with seeded(p.seed):
            model = CamClassifier(p.backbone, self.n_classes - 1, p.cls_output_stride)
        if pretrained:
            load_imagenet(model.backbone, p.backbone, located(p.weights))
        freeze(model.backbone, p.cls_frozen_stages)
        return place(model, self.device)

    def _average_precision(self, model: CamClassifier) -> dict[str, Any]:
        """Measure the classifier on the val images' labels, one image at a time."""
        from torchmetrics.functional.classification import multilabel_average_precision  # seconds to import

        labelled = [i for i in self.val_ids if self.data.labels(i)]
        if not labelled:
            return {}

        @torch.inference_mode()
        def score(image_id: str) -> Tensor:
            """Score one image's classes, (1, C)."""
            picture = torch.from_numpy(self.data.image(image_id).transpose(2, 0, 1).copy())[None]
            return model(prepare_images(picture, *self.statistics, self.device)).cpu()

        bar = tqdm(map_images(score, labelled), desc="average precision", total=len(labelled), unit="image")
        scores, targets = list(bar), [_multi_hot(self.data.labels(i), self.n_classes).long()[None] for i in labelled]
        n = self.n_classes - 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a class that no val image shows: left out below
            each = multilabel_average_precision(torch.cat(scores), torch.cat(targets), n, average=None)
        seen = torch.cat(targets).any(0)
        named = {name: float(v) for name, v, s in zip(self.data.class_names[1:], each, seen, strict=True) if s}
        return {"val_map": float(np.mean(list(named.values()))), "val_ap": named, "val_images": len(labelled)}

    def cams(self) -> Stage:
        """Compute the multi-scale CAMs of all training images."""
        p = self.params
        with self.run.stage("cams", p.pick("cam_scales", "cam_flip"), [self.classifier()]) as stage:
            if not stage.reused:
                missing = [i for i in self.train_ids if not (stage.folder / f"{i}.npz").exists()]
                done = self._write_cams(stage.folder, missing)
                deque(
                    tqdm(done, "CAMs", len(self.train_ids), unit="image", initial=len(self.train_ids) - len(missing)),
                    maxlen=0,
                )
                self._warn_of_empty_cams(stage)
        return stage

    def _write_cams(self, folder: Path, image_ids: list[str]) -> Iterator[Any]:
        """Compute and write CAMs, yielding as each is there: an image a thread, or images of one size in a pass."""
        p, model = self.params, self.load_classifier()

        def save(image_id: str, class_ids: Sequence[int], cam: np.ndarray) -> None:
            """Write one image's CAM."""
            save_cams(folder / f"{image_id}.npz", class_ids, cam)

        size = cam_batch_size(p.cam_batch_size, self.device)
        if size == 1:
            return map_images(lambda i: save(i, self.data.labels(i), self.compute_cam(model, i)), image_ids)
        sizes = list(map_images(lambda i: image_size(self.data.image_path(i)), image_ids))
        options = {"scales": p.cam_scales, "flip": p.cam_flip, "statistics": self.statistics}
        batches = equal_sizes(image_ids, sizes, size)
        return cams_in_batches(model, batches, lambda i: (self.data.image(i), self.data.labels(i)), save, **options)

    def _warn_of_empty_cams(self, stage: Stage) -> None:
        empty = sum(not load_cams(stage.folder / f"{i}.npz")[1].any() for i in self.train_ids)
        stage.facts |= {"images": len(self.train_ids), "empty": empty}
        if empty:
            print(f"cams: {empty} of {len(self.train_ids)} images have an all-zero CAM; their masks will be background")

    def compute_cam(self, model: CamClassifier, image_id: str, scales: list[float] | None = None) -> np.ndarray:
        """Compute one image's CAM (C,H,W) float32 of the classes present; other scales on request."""
        options = {"scales": scales or self.params.cam_scales, "flip": self.params.cam_flip}
        class_ids = self.data.labels(image_id)
        return multi_scale_cam(model, self.data.image(image_id), class_ids, **options, statistics=self.statistics)

    def cam(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Read one training image's class ids (C,) and CAM (C,H,W) float32."""
        return load_cams(self._finished("cams", self.cams) / f"{image_id}.npz")


def _classifier_loss(
    model: nn.Module, images: Tensor, targets: Tensor, progress: float
) -> tuple[Tensor, Mapping[str, Tensor]]:
    return F.multilabel_soft_margin_loss(model(images).float(), targets), {}


def _multi_hot(class_ids: tuple[int, ...], n_classes: int) -> Tensor:
    target = torch.zeros(n_classes - 1)
    target[[i - 1 for i in class_ids]] = 1
    return target


def _labelled_image(data: SegmentationData, ids: list[str], n_classes: int, index: int) -> tuple:
    return data.image(ids[index]), None, _multi_hot(data.labels(ids[index]), n_classes)


def training_settings(params: Params, prefix: str) -> TrainingSettings:
    """Take the parameters that begin with `cls_` or `seg_`."""
    names = ("epochs", "batch_size", "lr", "head_lr", "weight_decay", "optimizer", "schedule")
    values = {name: getattr(params, f"{prefix}_{name}") for name in names}
    return TrainingSettings(**values, seed=params.seed, loader_workers=params.loader_workers)
