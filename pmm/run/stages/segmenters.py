"""Segmentation models and cyclic pseudo-masks."""

from __future__ import annotations

from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from tqdm.auto import tqdm

from pmm.data.images import write_mask
from pmm.data.transforms import Augmentation, augment
from pmm.errors import InputError
from pmm.method.crf import SEGMENTATION_CRF, DenseCRF
from pmm.method.losses import PretendedUnderfittingLoss
from pmm.method.pseudo_mask import cyclic_pseudo_mask
from pmm.networks.devices import place, seeded
from pmm.networks.inference import class_probabilities, pixel_loss_map
from pmm.networks.models import create_segmenter, freeze
from pmm.networks.training import (
    EARLY,
    LOG,
    WEIGHTS,
    SegmentationLoss,
    TrainingImages,
    fit,
    load_weights,
    read_log,
)
from pmm.run import mask_files
from pmm.run.folder import Stage, located
from pmm.run.params import Params, check_params
from pmm.run.stages.classifier import training_settings
from pmm.run.stages.masks import MaskStages
from pmm.threads import map_images


class SegmenterStages(MaskStages):
    """Training and use of segmentation models; their predictions as the next pseudo-masks."""

    def segmenter(self, name: str, masks: str | None = None, **changes: Any) -> Stage:
        """Train a segmentation model and measure it on the val split.

        Args:
            name: its folder below `segmenter/`.
            masks: what it learns from, default `params.seg_masks`: a method, `exact` or `cyclic<round>`.
            **changes: parameters that differ from the run's, such as pus="none".
        """
        p = check_params({**self.params.model_dump(), **changes}, f"segmenter {name}")
        masks = masks or p.seg_masks
        settings = p.pick("seed", "backbone", "weights", "seg_*", "pixel_loss", "pus")
        if p.pus != "none":  # plain training does not depend on what PUS would do
            settings |= p.pick("pus_*", "beta", "kappa")
        settings["seg_masks"] = masks
        inputs = [self._mask_stage(masks), self._splits, *self.truth_marks]
        if p.seg_init == "classifier":
            inputs.append(self.classifier())
        with self.run.stage(f"segmenter/{name}", settings, inputs) as stage:
            if not stage.reused:
                model = self._train_segmenter(p, masks, stage.folder, name)
                stage.facts |= {"settings": settings, "val": self._score_val(model)}
        return stage

    def _train_segmenter(self, p: Params, masks: str, folder: Path, name: str) -> nn.Module:
        if len(self.train_ids) < 2:  # batch normalisation has no variance over one image
            raise InputError(f"train_split = {p.train_split}: only 1 image has a label; label at least 2")
        model = self._new_segmenter(p, pretrained=True)
        if p.seg_init == "classifier":
            learned = self.load_classifier().backbone.state_dict()
            model.encoder.model.load_state_dict(learned, strict=False)
        augmentation = Augmentation(tuple(p.seg_crop), tuple(p.seg_scale), colour=0.3)
        load = partial(_masked_image, self, masks)
        pus = PretendedUnderfittingLoss(p.pus, p.beta, p.kappa, p.pus_variant, p.pixel_loss)
        fit(
            model,
            TrainingImages(load, len(self.train_ids), partial(augment, settings=augmentation), p.seed),
            SegmentationLoss(pus, p.pus_warmup, p.seg_background_margin),
            training_settings(p, "seg"),
            folder,
            backbone=model.encoder,
            head=[model.decoder, model.segmentation_head],
            statistics=self.statistics,
            title=f"segmenter {name}",
        )
        return model

    def _new_segmenter(self, p: Params, pretrained: bool) -> nn.Module:
        with seeded(p.seed):
            model = create_segmenter(
                p.seg_architecture,
                p.backbone,
                self.n_classes,
                output_stride=p.seg_output_stride,
                channels=p.seg_decoder_channels,
                rates=p.seg_atrous_rates,
                weights=located(p.weights) if pretrained else None,
            )
        freeze(model.encoder.model, p.seg_frozen_stages)
        return place(model, self.device)

    def load_segmenter(self, name: str, early: bool = False) -> nn.Module:
        """Return a trained segmentation model in evaluation mode.

        Args:
            name: of its folder below `segmenter/`.
            early: as it was after the first quarter of its epochs.

        Raises:
            InputError: it has not been trained.
        """
        record = self.run.recorded(f"segmenter/{name}")
        if record is None:
            raise InputError(f"segmenter = {name}: not trained in {self.run.path}; call experiment.segmenter first")
        p = check_params({**self.params.model_dump(), **record.settings, "seg_masks": self.params.seg_masks}, name)
        return load_weights(self._new_segmenter(p, pretrained=False), record.folder / (EARLY if early else WEIGHTS))

    def _score_val(self, model: nn.Module) -> dict[str, Any]:
        def predict(image_id: str) -> np.ndarray:
            """Predict one val mask."""
            return self._refine(image_id, self._probabilities(model, image_id)).argmax(0).astype(np.uint8)

        return mask_files.score_masks(self.data, self.val_ids, predict, "val")

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

    def loss_map(self, name: str, image_id: str, masks: str, early: bool = False) -> np.ndarray:
        """Compute a trained model's per-pixel loss (H,W) float32 on an image against its training mask."""
        model, mask = self._kept_segmenter(name, early), self.pseudo_mask(masks, image_id)
        p = self.params
        options = {"pixel_loss": p.pixel_loss, "background_margin": p.seg_background_margin}
        return pixel_loss_map(model, self.data.image(image_id), mask, **options, statistics=self.statistics)

    def log(self, stage_name: str) -> dict[str, list[float]]:
        """Read a training's log: epoch, loss, lr and, for segmenters, gate_open and over_kappa."""
        return read_log(self.run.path / stage_name / LOG)

    def _kept_segmenter(self, name: str, early: bool = False) -> nn.Module:
        mark = self.run.recorded(f"segmenter/{name}")
        kept = self.__dict__.setdefault("_segmenters", {})
        key = (name, early, mark.fingerprint if mark else "")
        if key not in kept:
            kept.clear()  # one model in memory at a time is enough
            kept[key] = self.load_segmenter(name, early)
        return kept[key]

    def cyclic_masks(self, round_: int, teacher: str, name: str = "", filtered: bool | None = None) -> Stage:
        """Predict the next round's pseudo-masks with a trained model, section 2.5.

        Args:
            round_: 1 or more; the masks are called `cyclic<round_>`.
            teacher: name of the trained segmenter.
            name: another name of the masks.
            filtered: by the images' labels; None as the run's `cyclic_filter` says.
        """
        p = self.params
        trained = self.run.recorded(f"segmenter/{teacher}")
        if trained is None:
            raise InputError(f"teacher = {teacher}: not trained in {self.run.path}; call experiment.segmenter first")
        settings = p.pick("cyclic_filter", "cyclic_crf", "cyclic_scales", "seg_flip")
        if p.cyclic_crf:
            settings |= p.pick("crf_*")
        filtered = p.cyclic_filter if filtered is None else filtered
        settings["cyclic_filter"] = filtered
        with self.run.stage(f"masks/{name or f'cyclic{round_}'}", settings, [trained]) as stage:
            if not stage.reused:
                self._kept_segmenter(teacher)  # loaded once, before the threads ask for it

                def write(image_id: str) -> None:
                    """Predict and write one training mask, unless it is there."""
                    path = stage.folder / f"{image_id}.png"
                    if not path.exists():
                        write_mask(path, self.cyclic_mask(teacher, image_id, filtered))

                done = map_images(write, self.train_ids)
                deque(tqdm(done, desc=stage.name, total=len(self.train_ids), unit="image"), maxlen=0)
                stage.facts |= self._score(stage.folder)
        return stage

    def cyclic_mask(self, teacher: str, image_id: str, filtered: bool | None = None) -> np.ndarray:
        """Predict one training image's next pseudo-mask (H,W) uint8, filtered by its labels or not."""
        p = self.params
        labels = self.data.labels(image_id) if (p.cyclic_filter if filtered is None else filtered) else None
        crf = DenseCRF(self.data.image(image_id), self.crf_settings(joint=True)) if p.cyclic_crf else None
        probabilities = self._probabilities(self._kept_segmenter(teacher), image_id, p.cyclic_scales)
        return cyclic_pseudo_mask(probabilities, labels, crf)


def _masked_image(stages: SegmenterStages, masks: str, index: int) -> tuple:
    image_id = stages.train_ids[index]
    return stages.data.image(image_id), stages.pseudo_mask(masks, image_id), None
