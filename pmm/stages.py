"""The stages of a run, each made once and then reused: scenes, classifier, CAMs, pseudo-masks, models.

    experiment = Experiment(params)
    experiment.pseudo_masks("ppmg")          # makes what it needs first: scenes, classifier, CAMs
    experiment.segmenter("pus")              # learns from them

Every stage method returns its `Stage`, whose `facts` hold what the stage found out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torchmetrics.functional.classification import multilabel_average_precision
from tqdm.auto import tqdm

from pmm import mask_files
from pmm.artifacts import RunFolder, Stage, fingerprint, project_root, write_text
from pmm.cam import load_cams, save_cams
from pmm.cam_inference import multi_scale_cam
from pmm.crf import SEGMENTATION_CRF, CRFSettings, DenseCRF
from pmm.cyclic import cyclic_pseudo_mask
from pmm.data import SegmentationData, open_dataset
from pmm.data.images import write_mask
from pmm.data.scenes import compose_scenes
from pmm.data.transforms import Augmentation
from pmm.devices import choose_device, keep_freed_memory, place, prepare_images, seeded
from pmm.errors import InputError
from pmm.losses import PretendedUnderfittingLoss
from pmm.models import CamClassifier, create_segmenter, freeze, image_statistics, load_imagenet
from pmm.params import Params, check_params
from pmm.segmentation import class_probabilities, pixel_loss_map
from pmm.training import LOG, WEIGHTS, TrainingImages, TrainingSettings, fit, load_weights, read_log

AUGMENTATIONS = {
    "weak": {"scale": (1.0, 1.0), "colour": 0.0, "erase": 0.0},
    "strong": {"scale": (0.6, 1.5), "colour": 0.3, "erase": 0.5},
}
"""What `cls_augment` stands for; crops and mirror images are in both."""


class Experiment:
    """One run: its parameters, its data, its folder, its stages.

    Args:
        params: all parameters.

    Raises:
        InputError: the data set or the device is not there.
    """

    def __init__(self, params: Params):
        keep_freed_memory()
        torch.backends.cudnn.deterministic = True
        self.params = params
        self.device = choose_device(params.device)
        self.run = RunFolder(project_root() / params.runs_dir / params.run_name)
        self.statistics = image_statistics(params.backbone)
        self.workers = params.workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        write_text(self.run.path / "params.yaml", yaml.safe_dump(params.model_dump(), sort_keys=False))

    # ---------------------------------------------------------------- data

    @cached_property
    def dataset_stage(self) -> Stage:
        """The data set as a stage: scenes are composed, others are only named."""
        p = self.params
        if p.dataset == "scenes":
            with self.run.stage("dataset", p.pick("seed", "n_train", "n_val", "scene_*")) as stage:
                if not stage.reused:
                    size = {"width": p.scene_width, "height": p.scene_height}
                    root = stage.folder / "scenes"
                    compose_scenes(root, n_train=p.n_train, n_val=p.n_val, **size, seed=p.seed, n_jobs=self.workers)
            return stage
        with self.run.stage("dataset", p.pick("dataset", "data_dir")) as stage:
            pass
        return stage

    @cached_property
    def data(self) -> SegmentationData:
        """The data set, ready to read."""
        return open_dataset(*self._dataset_location)

    @property
    def _dataset_location(self) -> tuple[str, str]:
        if self.params.dataset == "scenes":
            return "scenes", str(self.dataset_stage.folder / "scenes")
        folder = Path(self.params.data_dir).expanduser()
        return self.params.dataset, str(folder if folder.is_absolute() else project_root() / folder)

    @cached_property
    def train_ids(self) -> list[str]:
        """Ids of the training images; those without any label are left out, and counted aloud."""
        ids = self.data.ids(self.params.train_split)
        labelled = [i for i in ids if self.data.labels(i)]
        if len(labelled) < len(ids):
            print(f"{self.params.train_split}: {len(ids) - len(labelled)} of {len(ids)} images without a label, skipped")
        if not labelled:
            raise InputError(f"train_split = {self.params.train_split}: none of its {len(ids)} images has a label")
        return labelled

    @cached_property
    def val_ids(self) -> list[str]:
        """Ids of the images that measure; none where `val_split` is empty."""
        return self.data.ids(self.params.val_split) if self.params.val_split else []

    @property
    def n_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.data.class_names)

    def describe(self, split: str, crf: str = "no CRF") -> str:
        """Name what a number was measured on: data set, split, images, seed, CRF."""
        name = getattr(self.params, f"{split}_split")
        n = len(self.train_ids if split == "train" else self.val_ids)
        return f"{self.data.name}, {name}, {n} images, seed {self.params.seed}, {crf}"

    # ---------------------------------------------------------------- classifier and CAMs

    def classifier(self) -> Stage:
        """Train the multi-label classifier from image-level labels."""
        p = self.params
        inputs = [self.dataset_stage, fingerprint({"ids": self.train_ids, "val": self.val_ids})]
        with self.run.stage("classifier", p.pick("seed", "backbone", "weights", "cls_*"), inputs) as stage:
            if not stage.reused:
                model = self._new_classifier(pretrained=True)
                load = partial(_labelled_image, self.data, self.train_ids, self.n_classes)
                augmentation = Augmentation(tuple(p.cls_crop), **AUGMENTATIONS[p.cls_augment])
                fit(
                    model,
                    TrainingImages(load, len(self.train_ids), augmentation, p.seed),
                    _classifier_loss,
                    _settings(p, "cls"),
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
            load_imagenet(model.backbone, p.backbone, p.weights)
        freeze(model.backbone, p.cls_frozen_stages)
        return place(model, self.device)

    @torch.inference_mode()
    def _average_precision(self, model: CamClassifier) -> dict[str, Any]:
        """Measure the classifier on the val images' labels, one image at a time."""
        labelled = [i for i in self.val_ids if self.data.labels(i)]
        if not labelled:
            return {}
        scores, targets = [], []
        for image_id in tqdm(labelled, desc="average precision", unit="image"):
            picture = torch.from_numpy(self.data.image(image_id).transpose(2, 0, 1).copy())[None]
            scores.append(model(prepare_images(picture, *self.statistics, self.device)).cpu())
            targets.append(_multi_hot(self.data.labels(image_id), self.n_classes).long()[None])
        n = self.n_classes - 1
        each = multilabel_average_precision(torch.cat(scores), torch.cat(targets), n, average=None)
        seen = torch.cat(targets).any(0)
        named = {name: float(v) for name, v, s in zip(self.data.class_names[1:], each, seen, strict=True) if s}
        return {"val_map": float(np.mean(list(named.values()))), "val_ap": named, "val_images": len(labelled)}

    def cams(self) -> Stage:
        """Compute the multi-scale CAMs of all training images."""
        p = self.params
        with self.run.stage("cams", p.pick("cam_scales", "cam_flip"), [self.classifier()]) as stage:
            if not stage.reused:
                model = self.load_classifier()
                for image_id in tqdm(self.train_ids, desc="CAMs", unit="image"):
                    path = stage.folder / f"{image_id}.npz"
                    if not path.exists():
                        save_cams(path, self.data.labels(image_id), self.compute_cam(model, image_id))
        return stage

    def compute_cam(self, model: CamClassifier, image_id: str, scales: list[float] | None = None) -> np.ndarray:
        """Compute one image's CAM (C,H,W) float32 of the classes present; other scales on request."""
        options = {"scales": scales or self.params.cam_scales, "flip": self.params.cam_flip}
        class_ids = self.data.labels(image_id)
        return multi_scale_cam(model, self.data.image(image_id), class_ids, **options, statistics=self.statistics)

    def cam(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Read one training image's class ids (C,) and CAM (C,H,W) float32."""
        return load_cams(self._finished("cams", self.cams) / f"{image_id}.npz")

    # ---------------------------------------------------------------- pseudo-masks

    def crf_settings(self, joint: bool = False) -> CRFSettings:
        """Return the dense CRF's settings, of PPMG or of the joint CRF."""
        p = self.params
        kernel = p.pick("crf_gauss_sxy", "crf_bilateral_*")
        compat = p.crf_joint_gauss_compat if joint else p.crf_gauss_compat
        settings = {name.removeprefix("crf_"): value for name, value in kernel.items()}
        return CRFSettings(iterations=p.crf_iterations, gauss_compat=compat, **settings)

    def pseudo_masks(self, method: str) -> Stage:
        """Make the pseudo-masks of all training images; score them where exact masks exist.

        Args:
            method: one of `mask_files.METHODS`.
        """
        names = {"threshold": ["cam_threshold"], "crf": ["alpha_crf", "crf_*"]}
        settings = self.params.pick(*names.get(method, ["s", "t", "alpha", "variant", "crf_*"]))
        crf = self.crf_settings(joint=method == "crf")
        make = mask_files.mask_function(method, self.params.model_dump(), crf)
        cams = self.cams()
        with self.run.stage(f"masks/{method}", settings, [cams]) as stage:
            if not stage.reused:
                where = (self.train_ids, self._dataset_location, cams.folder, stage.folder)
                mask_files.write_pseudo_masks(make, *where, workers=self.workers, title=f"{method} masks")
                stage.facts |= self._score(stage.folder)
        return stage

    def pseudo_mask(self, masks: str, image_id: str) -> np.ndarray:
        """Read one training mask (H,W) uint8: of a method, `exact`, or `cyclic<round>`."""
        if masks == "exact":
            return self.data.mask(image_id)
        folder = self._finished(f"masks/{masks}", lambda: self._mask_stage(masks))
        return mask_files.read_pseudo_mask(folder, image_id, self.n_classes)

    def _score(self, folder: Path) -> dict[str, Any]:
        read = partial(mask_files.read_pseudo_mask, folder, n_classes=self.n_classes)
        return mask_files.score_masks(self.data, self.train_ids, read)

    def _mask_stage(self, masks: str) -> Stage:
        if masks == "exact":
            return self.dataset_stage
        if masks in mask_files.METHODS:
            return self.pseudo_masks(masks)
        folder = self.run.path / "masks" / masks
        record = self.run.recorded(f"masks/{masks}")
        if record is None:
            raise InputError(f"masks = {masks}: {folder} holds no finished masks; make them first")
        return record

    # ---------------------------------------------------------------- segmentation models

    def segmenter(self, name: str, masks: str | None = None, **changes: Any) -> Stage:
        """Train a segmentation model and measure it on the val split.

        Args:
            name: its folder below `segmenter/`.
            masks: what it learns from, default `params.seg_masks`: a method, `exact` or `cyclic<round>`.
            **changes: parameters that differ from the run's, such as pus="none".
        """
        p = check_params({**self.params.model_dump(), **changes}, f"segmenter {name}")
        masks = masks or p.seg_masks
        settings = p.pick("seed", "backbone", "weights", "seg_*", "pixel_loss", "pus*", "beta", "kappa")
        settings["seg_masks"] = masks
        inputs = [self._mask_stage(masks), fingerprint({"ids": self.train_ids, "val": self.val_ids})]
        with self.run.stage(f"segmenter/{name}", settings, inputs) as stage:
            if not stage.reused:
                model = self._train_segmenter(p, masks, stage.folder, name)
                stage.facts |= {"settings": settings, "val": self._score_val(model)}
        return stage

    def _train_segmenter(self, p: Params, masks: str, folder: Path, name: str) -> nn.Module:
        model = self._new_segmenter(p, pretrained=True)
        augmentation = Augmentation(tuple(p.seg_crop), tuple(p.seg_scale), colour=0.3)
        load = partial(_masked_image, self, masks)
        fit(
            model,
            TrainingImages(load, len(self.train_ids), augmentation, p.seed),
            SegmentationLoss(p),
            _settings(p, "seg"),
            folder,
            backbone=model.encoder,
            head=[model.decoder, model.segmentation_head],
            statistics=self.statistics,
            title=f"segmenter {name}",
        )
        return model

    def _new_segmenter(self, p: Params, pretrained: bool) -> nn.Module:
        with seeded(p.seed):
            weights = p.weights if pretrained else None
            model = create_segmenter(p.seg_architecture, p.backbone, self.n_classes, p.seg_output_stride, weights)
        freeze(model.encoder.model, p.seg_frozen_stages)
        return place(model, self.device)

    def load_segmenter(self, name: str) -> nn.Module:
        """Return a trained segmentation model in evaluation mode.

        Raises:
            InputError: it has not been trained.
        """
        record = self.run.recorded(f"segmenter/{name}")
        if record is None:
            raise InputError(f"segmenter = {name}: not trained in {self.run.path}; call experiment.segmenter first")
        p = check_params({**self.params.model_dump(), **record.settings, "seg_masks": self.params.seg_masks}, name)
        return load_weights(self._new_segmenter(p, pretrained=False), record.folder / WEIGHTS)

    @torch.inference_mode()
    def _score_val(self, model: nn.Module) -> dict[str, Any]:
        def predict(image_id: str) -> np.ndarray:
            return self._refine(image_id, self._probabilities(model, image_id)).argmax(0).astype(np.uint8)

        return mask_files.score_masks(self.data, tqdm(self.val_ids, desc="val", unit="image"), predict)

    def _probabilities(self, model: nn.Module, image_id: str, scales: list[float] | None = None) -> np.ndarray:
        options = {"scales": scales or self.params.seg_scales, "flip": self.params.seg_flip}
        return class_probabilities(model, self.data.image(image_id), **options, statistics=self.statistics)

    def _refine(self, image_id: str, probabilities: np.ndarray) -> np.ndarray:
        if not self.params.seg_crf:
            return probabilities
        return DenseCRF(self.data.image(image_id), SEGMENTATION_CRF).posterior(probabilities)

    def probabilities(self, name: str, image_id: str) -> np.ndarray:
        """Predict class probabilities (K,H,W) float32 of any image with a trained model."""
        return self._refine(image_id, self._probabilities(self._kept_segmenter(name), image_id))

    def predict(self, name: str, image_id: str) -> np.ndarray:
        """Predict the mask (H,W) uint8 of any image with a trained model."""
        return self.probabilities(name, image_id).argmax(0).astype(np.uint8)

    def loss_map(self, name: str, image_id: str, masks: str) -> np.ndarray:
        """Compute a trained model's per-pixel loss (H,W) float32 on an image against its training mask."""
        model, mask = self._kept_segmenter(name), self.pseudo_mask(masks, image_id)
        options = {"pixel_loss": self.params.pixel_loss, "statistics": self.statistics}
        return pixel_loss_map(model, self.data.image(image_id), mask, **options)

    def log(self, stage_name: str) -> dict[str, list[float]]:
        """Read a training's log: epoch, loss, lr and, for segmenters, gate_open and over_kappa."""
        return read_log(self.run.path / stage_name / LOG)

    def _kept_segmenter(self, name: str) -> nn.Module:
        mark = self.run.recorded(f"segmenter/{name}")
        kept = self.__dict__.setdefault("_segmenters", {})
        key = (name, mark.fingerprint if mark else "")
        if key not in kept:
            kept.clear()  # one model in memory at a time is enough
            kept[key] = self.load_segmenter(name)
        return kept[key]

    # ---------------------------------------------------------------- cyclic pseudo-masks

    def cyclic_masks(self, round_: int, teacher: str) -> Stage:
        """Predict the next round's pseudo-masks with a trained model, section 2.5.

        Args:
            round_: 1 or more; the masks are called `cyclic<round_>`.
            teacher: name of the trained segmenter.
        """
        p = self.params
        trained = self.run.recorded(f"segmenter/{teacher}")
        if trained is None:
            raise InputError(f"teacher = {teacher}: not trained in {self.run.path}; call experiment.segmenter first")
        settings = p.pick("cyclic_filter", "cyclic_crf", "cyclic_scales", "seg_flip")
        if p.cyclic_crf:
            settings |= p.pick("crf_*")
        with self.run.stage(f"masks/cyclic{round_}", settings, [trained]) as stage:
            if not stage.reused:
                for image_id in tqdm(self.train_ids, desc=f"cyclic masks {round_}", unit="image"):
                    path = stage.folder / f"{image_id}.png"
                    if not path.exists():
                        write_mask(path, self.cyclic_mask(teacher, image_id))
                stage.facts |= self._score(stage.folder)
        return stage

    def cyclic_mask(self, teacher: str, image_id: str, filtered: bool | None = None) -> np.ndarray:
        """Predict one training image's next pseudo-mask (H,W) uint8, filtered by its labels or not."""
        p = self.params
        labels = self.data.labels(image_id) if (p.cyclic_filter if filtered is None else filtered) else None
        crf = DenseCRF(self.data.image(image_id), self.crf_settings(joint=True)) if p.cyclic_crf else None
        probabilities = self._probabilities(self._kept_segmenter(teacher), image_id, p.cyclic_scales)
        return cyclic_pseudo_mask(probabilities, labels, crf)

    def _finished(self, name: str, make: Any) -> Path:
        """Return a stage's folder, making the stage once if it is not known in this session."""
        known = self.__dict__.setdefault("_known", {})
        if name not in known:
            known[name] = make().folder
        return known[name]


class SegmentationLoss:
    """The loss of a segmentation step: plain until the warm-up is over, then with PUS."""

    def __init__(self, p: Params):
        options = {"variant": p.pus_variant, "pixel_loss": p.pixel_loss}
        self.plain = PretendedUnderfittingLoss("none", p.beta, p.kappa, **options)
        self.pus = PretendedUnderfittingLoss(p.pus, p.beta, p.kappa, **options)
        self.warmup = p.pus_warmup

    def __call__(
        self, model: nn.Module, images: Tensor, targets: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        criterion = self.pus if progress >= self.warmup else self.plain
        loss = criterion(model(images), targets)
        state = criterion.last_state
        values = {"mean_loss": state.mean_loss, "gate_open": state.is_open, "over_kappa": state.share_over_kappa}
        return loss, values


def _classifier_loss(
    model: nn.Module, images: Tensor, targets: Tensor, progress: float
) -> tuple[Tensor, Mapping[str, Tensor]]:
    return F.multilabel_soft_margin_loss(model(images).float(), targets), {}


def _settings(p: Params, prefix: str) -> TrainingSettings:
    names = ("epochs", "batch_size", "lr", "head_lr", "weight_decay", "optimizer", "schedule")
    values = {name: getattr(p, f"{prefix}_{name}") for name in names}
    return TrainingSettings(**values, seed=p.seed, loader_workers=p.loader_workers)


def _multi_hot(class_ids: tuple[int, ...], n_classes: int) -> Tensor:
    target = torch.zeros(n_classes - 1)
    target[[i - 1 for i in class_ids]] = 1
    return target


def _labelled_image(data: SegmentationData, ids: list[str], n_classes: int, index: int) -> tuple:
    return data.image(ids[index]), None, _multi_hot(data.labels(ids[index]), n_classes)


def _masked_image(experiment: Experiment, masks: str, index: int) -> tuple:
    image_id = experiment.train_ids[index]
    return experiment.data.image(image_id), experiment.pseudo_mask(masks, image_id), None
