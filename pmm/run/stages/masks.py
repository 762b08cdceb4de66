"""Pseudo-masks of the training images, by every method."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pmm.data.images import write_mask
from pmm.errors import InputError
from pmm.method.crf import CRFSettings
from pmm.method.noise import flip_regions
from pmm.run import mask_files
from pmm.run.folder import Stage
from pmm.run.stages.classifier import ClassifierStages


class MaskStages(ClassifierStages):
    """Pseudo-masks from CAMs, and any training mask by its name."""

    def crf_settings(self, joint: bool = False) -> CRFSettings:
        """Return the dense CRF's settings, of PPMG or of the joint CRF."""
        p = self.params
        kernel = p.pick("crf_gauss_sxy", "crf_bilateral_*")
        compat = p.crf_joint_gauss_compat if joint else p.crf_gauss_compat
        settings = {name.removeprefix("crf_"): value for name, value in kernel.items()} | {"engine": p.crf_engine}
        return CRFSettings(iterations=p.crf_iterations, gauss_compat=compat, **settings)

    def pseudo_masks(self, method: str) -> Stage:
        """Make the pseudo-masks of all training images; score them where exact masks exist.

        Args:
            method: one of `mask_files.METHODS`.
        """
        names = {"threshold": ["cam_threshold"], "crf": ["alpha_crf", "crf_*"]}
        settings = self.params.pick(*names.get(method, ["t", "alpha", "variant", "crf_*"]))
        if method == "ppmg":
            settings |= self.params.pick("s")
        crf = self.crf_settings(joint=method == "crf")
        make = mask_files.mask_function(method, self.params.model_dump(), crf)
        cams = self.cams()
        with self.run.stage(f"masks/{method}", settings, [cams, *self.truth_marks]) as stage:
            if not stage.reused:
                where = (self.train_ids, self.data, cams.folder, stage.folder)
                mask_files.write_pseudo_masks(
                    make, *where, workers=self.workers, title=f"{method} masks", engine=crf.engine
                )
                stage.facts |= self._score(stage.folder)
        return stage

    def noisy_masks(self) -> Stage:
        """Spoil the exact masks of all training images by a known share, for the ablations only.

        Raises:
            InputError: a training image has no exact mask.
        """
        p = self.params
        settings = p.pick("ablation_noise", "seed")
        with self.run.stage("masks/noisy", settings, [self.dataset_stage, self._splits, *self.truth_marks]) as stage:
            for image_id in [] if stage.reused else self.train_ids:
                if not self.data.has_mask(image_id):
                    raise InputError(f"masks = noisy: {image_id} has no exact mask that could be spoiled")
                labels = self.data.mask(image_id), self.data.labels(image_id)
                write_mask(stage.folder / f"{image_id}.png", flip_regions(*labels, p.ablation_noise, p.seed, image_id))
            if not stage.reused:
                stage.facts |= self._score(stage.folder)
        return stage

    def pseudo_mask(self, masks: str, image_id: str) -> np.ndarray:
        """Read one training mask (H,W) uint8: of a method, `exact`, `noisy`, or `cyclic<round>`."""
        if masks == "exact":
            return self.data.mask(image_id)
        folder = self._finished(f"masks/{masks}", lambda: self._mask_stage(masks))
        return mask_files.read_pseudo_mask(folder, image_id, self.n_classes)

    def _score(self, folder: Path) -> dict[str, Any]:
        read = partial(mask_files.read_pseudo_mask, folder, n_classes=self.n_classes)
        return mask_files.score_masks(self.data, self.train_ids, read, f"score {folder.name}")

    def _mask_stage(self, masks: str) -> Stage:
        if masks == "exact":
            return self.dataset_stage
        if masks == "noisy":
            return self.noisy_masks()
        if masks in mask_files.METHODS:
            return self.pseudo_masks(masks)
        folder = self.run.path / "masks" / masks
        record = self.run.recorded(f"masks/{masks}")
        if record is None:
            raise InputError(f"masks = {masks}: {folder} holds no finished masks; make them first")
        return record
