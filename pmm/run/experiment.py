"""The stages of a run, each made once and then reused: data, classifier, CAMs, pseudo-masks, segmentation models.

    experiment = Experiment(params)
    experiment.pseudo_masks("ppmg")          # makes what it needs first: scenes, classifier, CAMs
    experiment.segmenter("first")            # learns from them; the name is that of its folder

Here stands what depends on what; `pmm.run.compute` computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pmm.data import SegmentationData, open_dataset
from pmm.data.cams import find_cam_files, load_cams
from pmm.data.scenes import compose_scenes
from pmm.data.transforms import Augmentation
from pmm.errors import InputError
from pmm.method.crf import SEGMENTATION_CRF, CRFSettings, DenseCRF
from pmm.method.losses import PretendedUnderfittingLoss
from pmm.method.pseudo_mask import crf_pseudo_mask, cyclic_pseudo_mask
from pmm.networks.devices import Statistics, choose_device, keep_freed_memory, place, run_network, seeded
from pmm.networks.engine import accelerate, choose_engine
from pmm.networks.inference import class_probabilities, multi_scale_cam, pixel_loss_map
from pmm.networks.models import CamClassifier, create_segmenter, freeze, image_statistics, load_imagenet
from pmm.networks.training import (
    EARLY,
    LOG,
    WEIGHTS,
    SegmentationLoss,
    TrainingSettings,
    epoch_file,
    load_weights,
    read_log,
)
from pmm.processes import is_first, join
from pmm.run import compute
from pmm.run.folder import RunFolder, Stage, alone_in, file_mark, fingerprint, located
from pmm.run.params import Params, check_params, open_run, run_path
from pmm.threads import available_threads

PREDICTION = ("seg_scales", "seg_flip", "seg_window", "seg_crf")
"""How a trained segmentation model predicts; a change evaluates it anew and trains nothing."""


class Experiment:
    """One run: its parameters, its data, its folder, its stages.

    Every method that makes a stage returns its `Stage`, whose `facts` hold what was found out.

    Args:
        params: all parameters.
        judges_alone: make CAMs of `judge_ids` alone, enough for a study that trains no model on masks.
        run: the run's folder, where it is another than `params` says.

    Raises:
        InputError: the data set or the device is not there, or the run's folder belongs to other data.
    """

    def __init__(self, params: Params, judges_alone: bool = False, run: RunFolder | None = None):
        keep_freed_memory()  # before the first training allocates; harmless where nothing trains
        torch.backends.cudnn.deterministic = True
        self.params, self.judges_alone = params, judges_alone
        self.device = choose_device(params.device)
        self.run = run or open_run(params)
        self.workers = params.workers or available_threads()
        self.where = {"workers": self.workers, "scheduler": params.scheduler}  # for `map_images`
        self._folders: dict[str, Path] = {}
        self._listed: dict[str, list[str]] = {}
        self._kept: tuple[tuple[str, str, str], nn.Module, Params] | None = None

    @cached_property
    def engine(self) -> str:
        """What computes CAMs and predictions of many images, see `choose_engine`."""
        return choose_engine(self.params.inference, self.device)

    def _with_engine(self, name: str, settings: dict[str, Any], inputs: Iterable[Stage]) -> dict[str, Any]:
        """Add the engine to a stage's settings, unless it is PyTorch; with `auto`, what was begun keeps its own.

        So one stage never mixes two engines' files, and a run on which trainings build is not made anew because a
        package came or went.
        """
        begun, marks = self.run.begun(name), [stage.fingerprint for stage in inputs]
        before = begun.get("settings", {})
        own = before.get("inference", "torch")
        same = begun.get("inputs") == marks and before == settings | ({} if own == "torch" else {"inference": own})
        if self.params.inference == "auto" and same and (begun["finished"] or own in ("torch", self.engine)):
            return before
        return settings if self.engine == "torch" else {**settings, "inference": self.engine}

    # --- the data

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and standard deviation that the backbone expects of its images."""
        return image_statistics(self.params.backbone)

    @cached_property
    def dataset_stage(self) -> Stage:
        """The data set as a stage: scenes are composed, others are only named."""
        p = self.params
        scenes = p.dataset == "scenes"
        settings = p.pick("seed", "n_train", "n_val", "scene_*") if scenes else p.pick("dataset", "data_dir")
        with self.run.stage("dataset", settings) as stage:
            if scenes and not stage.reused and is_first():
                size = {"width": p.scene_width, "height": p.scene_height}
                numbers = {"n_train": p.n_train, "n_val": p.n_val, "seed": p.seed, "n_jobs": self.workers}
                compose_scenes(stage.folder / "scenes", **numbers, **size)
        return stage

    @cached_property
    def data(self) -> SegmentationData:
        """The data set, ready to read."""
        p = self.params
        root = self.dataset_stage.folder / "scenes" if p.dataset == "scenes" else located(p.data_dir)
        return open_dataset(p.dataset, root, classes=p.classes, require_any=p.require_any, name=p.data_name)

    @cached_property
    def train_ids(self) -> list[str]:
        """Ids of the training images; those without any label are left out, and counted aloud."""
        split = self.params.train_split
        ids = self._ids(split)
        labelled = [i for i in ids if self.data.labels(i)]
        if not labelled:
            raise InputError(f"train_split = {split}: none of its {len(ids)} images has a label")
        if len(labelled) < len(ids):
            print(f"{split}: {len(ids) - len(labelled)} of {len(ids)} images have no label and are skipped")
        return labelled

    @cached_property
    def val_ids(self) -> list[str]:
        """Ids of the images that evaluate models; none where `val_split` is empty."""
        return self._ids(self.params.val_split) if self.params.val_split else []

    @cached_property
    def judge_ids(self) -> list[str]:
        """Ids of the training images that judge pseudo-masks: with ground truth and, if given, in `judge_split`.

        May be empty where `judge_split` is. Those of it without ground truth are left out, and counted aloud.
        """
        split, has_mask = self.params.judge_split, self.data.has_mask
        if not split:
            return [i for i in self.train_ids if has_mask(i)]
        in_split = set(self._ids(split))
        ids = [i for i in self.train_ids if i in in_split]
        if not ids:
            train = self.params.train_split
            raise InputError(f"judge_split = {split}: none of its {len(in_split)} images is in train_split = {train}")
        judged = [i for i in ids if has_mask(i)]
        if not judged:
            first = self.data.mask_source(ids[0])
            raise InputError(f"judge_split = {split}: none of its {len(ids)} images has a mask; add {first} and others")
        if len(judged) < len(ids):
            print(f"{split}: {len(ids) - len(judged)} of {len(ids)} images have no mask and judge nothing")
        return judged

    def _ids(self, split: str) -> list[str]:
        """Ids of a split; what the classes of interest leave out is said once."""
        if split not in self._listed:
            self._listed[split] = self.data.ids(split)
            if note := self.data.left_out_note(split):
                print(note)
        return self._listed[split]

    @property
    def n_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.data.class_names)

    def describe(self, split: str, crf: str = "no CRF") -> str:
        """Name what a number was measured on ("train", "judge" or "val"): data set, split, images, seed, CRF."""
        ids = {"train": "train_ids", "judge": "judge_ids", "val": "val_ids"}[split]
        name, n = self.params.split_name(split), len(getattr(self, ids))
        return f"{self.data.name}, {name}, {n} images, seed {self.params.seed}, {crf}"

    @cached_property
    def _splits(self) -> str:
        """What a stage's fingerprint holds of both splits: ids and, outside the composed scenes, labels and images."""
        known: dict[str, Any] = {"ids": self.train_ids, "val": self.val_ids}
        p = self.params
        if p.dataset != "scenes" or p.classes or p.require_any:
            known |= {"classes": self.data.class_names, "labels": [self.data.labels(i) for i in self.train_ids]}
        if p.dataset != "scenes":
            known["images"] = self.run.marks.of(self.data.image_path(i) for i in self.train_ids + self.val_ids)
        return fingerprint(known)

    @cached_property
    def truth_marks(self) -> list[str]:
        """Stand for the ground truth that evaluates in a fingerprint; nothing for composed scenes that all judge."""
        if not self.params.judge_split:
            return self._train_truth_marks
        truth = self.run.marks.of(self.data.mask_source(i) for i in self.judge_ids + self.val_ids)
        return [fingerprint({"judge": self.judge_ids, "truth": truth})]

    @cached_property
    def _train_truth_marks(self) -> list[str]:
        """Stand for the ground truth of both splits, where it is trained on; nothing for the composed scenes."""
        if self.params.dataset == "scenes":
            return []
        sources = (self.data.mask_source(i) for i in self.train_ids + self.val_ids)
        return [fingerprint({"truth": self.run.marks.of(sources)})]

    @cached_property
    def _weight_marks(self) -> list[str]:
        """Stand for the content of the local ImageNet weights in a fingerprint; nothing where there are none."""
        return [file_mark(Path(located(self.params.weights)))] if self.params.weights else []

    @property
    def inputs_mark(self) -> str:
        """Stand for what decides a run's results beside its parameters: labels, images, ground truth, local weights."""
        return fingerprint({"splits": self._splits, "truth": self.truth_marks, "weights": self._weight_marks})

    # --- the classifier and its CAMs

    def classifier(self) -> Stage:
        """Train the multi-label classifier whose maps are the CAMs, from image-level labels alone."""
        return self.multi_crop_classifier() if self.params.multicrop_epochs else self.first_classifier()

    def first_classifier(self) -> Stage:
        """Train a classifier on crops that have the labels of their images."""
        p = self.params
        inputs = [self.dataset_stage, self._splits, *self._weight_marks]
        with self.run.stage("classifier", p.pick("seed", "backbone", "cls_*", *_parts(p)), inputs) as stage:
            if not stage.reused:
                augmentation = Augmentation(tuple(p.cls_crop), **compute.AUGMENTATIONS[p.cls_augment])
                model = self.new_classifier(pretrained=True)
                self._train_classifier(stage, model, training_settings(p, "cls"), augmentation)
        return stage

    def multi_crop_classifier(self) -> Stage:
        """Train the first classifier on, now on crops that have the labels of what its rough masks show in them."""
        p, first, rough = self.params, self.first_classifier(), self.rough_masks()
        settings = p.pick("multicrop_epochs", "multicrop_scale")  # all others are the first classifier's
        with self.run.stage("classifier_multicrop", settings, [first, rough]) as stage:
            if not stage.reused:
                model = self._load_classifier(first, p.cls_output_stride)
                own = compute.AUGMENTATIONS[p.cls_augment] | {"scale": tuple(p.multicrop_scale), "erase": 0.0}
                longer = replace(training_settings(p, "cls"), epochs=p.multicrop_epochs)
                read = partial(compute.read_pseudo_mask, rough.folder, n_classes=self.n_classes)
                self._train_classifier(stage, model, longer, Augmentation(tuple(p.cls_crop), **own), read)
        return stage

    def rough_masks(self) -> Stage:
        """Make the masks that label crops, of all training images: joint CRF on the first classifier's CAMs."""
        p, first = self.params, self.first_classifier()
        settings = p.pick("multicrop_alpha", "multicrop_cam_scales", "cam_flip", "cam_output_stride", "crf_*")
        settings = self._with_engine("masks/rough", settings, [first])
        with self.run.stage("masks/rough", settings, [first, *self.truth_marks]) as stage:
            if not stage.reused:
                model = self._load_classifier(first, p.cam_output_stride)
                make = partial(self._rough_mask, accelerate(model, settings.get("inference", "torch")))
                compute.write_predicted_masks(make, self.train_ids, stage.folder, self.data.class_names, **self.where)
                stage.facts |= self._evaluate(stage)
        return stage

    def _rough_mask(self, model: CamClassifier, image_id: str) -> np.ndarray:
        p, image, class_ids = self.params, self.data.image(image_id), self.data.labels(image_id)
        options = self._cam_options(p.multicrop_cam_scales)
        cam = run_network(self.device, multi_scale_cam, model, image, class_ids, **options)
        return crf_pseudo_mask(image, cam, class_ids, alpha=p.multicrop_alpha, crf=self.crf_settings(joint=True))

    def _train_classifier(
        self,
        stage: Stage,
        model: CamClassifier,
        settings: TrainingSettings,
        augmentation: Augmentation,
        rough_mask: Callable[[str], np.ndarray] | None = None,
    ) -> None:
        where = (stage.folder, self.statistics)
        compute.train_classifier(model, self.data, self.train_ids, settings, augmentation, *where, rough_mask)
        found = compute.average_precision(model, self.data, self.val_ids, self.statistics, **self.where)
        stage.facts |= {"images": len(self.train_ids), **found}

    def new_classifier(self, pretrained: bool, output_stride: int = 0) -> CamClassifier:
        """Build the classifier on the run's device, with ImageNet's weights or with none.

        `output_stride` is that of the training unless told; the weights are the same for all.
        """
        p = self.params
        with seeded(p.seed):
            model = CamClassifier(p.backbone, self.n_classes - 1, output_stride or p.cls_output_stride)
        if pretrained:
            load_imagenet(model.backbone, p.backbone, located(p.weights))
        freeze(model.backbone, p.cls_frozen_stages)
        return place(model, self.device)

    def load_classifier(self) -> CamClassifier:
        """Return the trained classifier in evaluation mode, with the output stride of the CAMs."""
        return self._load_classifier(self.classifier(), self.params.cam_output_stride)

    def _load_classifier(self, stage: Stage, output_stride: int) -> CamClassifier:
        return load_weights(self.new_classifier(False, output_stride), stage.folder / WEIGHTS)

    def cams(self) -> Stage:
        """Compute the multi-scale CAMs of all training images, or of `judge_ids` alone: see `Experiment`.

        Where `cam_dir` names a folder, take them from there: no classifier is trained then.
        """
        p, alone = self.params, self.judges_alone
        name, ids = ("cams_judged", self.judge_ids) if alone else ("cams", self.train_ids)
        if p.cam_dir:
            return self._foreign_cams(name, ids)
        inputs = [self.classifier()]
        settings = p.pick("cam_scales", "cam_flip", "cam_output_stride")
        settings = self._with_engine(name, settings | ({"ids": fingerprint({"ids": ids})} if alone else {}), inputs)
        with self.run.stage(name, settings, inputs) as stage:
            if not stage.reused:
                model = accelerate(self.load_classifier(), settings.get("inference", "torch"))
                options = {"batch_size": p.cam_batch_size, **self._cam_options(p.cam_scales), **self.where}
                empty = compute.write_cams(model, self.data, ids, stage.folder, **options)
                stage.facts |= {"images": len(ids), "empty": empty}
                if empty:
                    print(f"{name}: {empty} of {len(ids)} images have an all-zero CAM; their masks will be background")
        return stage

    def _foreign_cams(self, name: str, ids: Sequence[str]) -> Stage:
        files = find_cam_files(Path(located(self.params.cam_dir)), ids)
        marks = [fingerprint({"ids": ids, "files": dict(zip(ids, self.run.marks.of(files), strict=True))})]
        with self.run.stage(name, self.params.pick("cam_dir"), [self.dataset_stage, self._splits, *marks]) as stage:
            if not stage.reused:
                stage.facts |= {"images": len(ids), "empty": compute.take_cams(files, self.data, ids, stage.folder)}
        return stage

    def compute_cam(self, model: CamClassifier, image_id: str, scales: list[float] | None = None) -> np.ndarray:
        """Compute one image's CAM (C,H,W) float32 of the classes present; other scales on request."""
        options = self._cam_options(scales or self.params.cam_scales)
        return multi_scale_cam(model, self.data.image(image_id), self.data.labels(image_id), **options)

    def _cam_options(self, scales: list[float]) -> dict[str, Any]:
        return {"scales": scales, "flip": self.params.cam_flip, "statistics": self.statistics}

    def cam(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Read one training image's class ids (C,) and CAM (C,H,W) float32."""
        if "cams" not in self._folders:
            self._folders["cams"] = self.cams().folder
        return load_cams(self._folders["cams"] / f"{image_id}.npz")

    # --- masks of the training images

    def crf_settings(self, joint: bool = False) -> CRFSettings:
        """Return the dense CRF's settings, of PPMG or of the joint CRF."""
        return compute.crf_settings(self.params.model_dump(), joint)

    def pseudo_masks(self, method: str) -> Stage:
        """Make the pseudo-masks of all training images; evaluate those of `judge_ids`.

        Args:
            method: one of `compute.METHODS`.
        """
        p, crf = self.params, self.crf_settings(joint=method == "crf")
        make = compute.mask_function(method, p.model_dump(), crf)
        settings = p.pick(*compute.USED[method], *["crf_*"] * (method != "threshold"))
        cams = self.cams()
        with self.run.stage(f"masks/{method}", settings, [cams, *self.truth_marks]) as stage:
            if not stage.reused:
                compute.write_pseudo_masks(make, self.data, self.train_ids, cams.folder, stage.folder, **self.where)
                stage.facts |= self._evaluate(stage)
        return stage

    def noisy_masks(self) -> Stage:
        """Spoil the ground truth of all training images by a known share, for the ablations only.

        Raises:
            InputError: a training image has no ground truth.
        """
        p = self.params
        inputs = [self.dataset_stage, self._splits, *dict.fromkeys(self._train_truth_marks + self.truth_marks)]
        with self.run.stage("masks/noisy", p.pick("ablation_noise", "seed"), inputs) as stage:
            if not stage.reused:
                compute.write_noisy_masks(self.data, self.train_ids, p.ablation_noise, p.seed, stage.folder)
                stage.facts |= self._evaluate(stage)
        return stage

    def cyclic_masks(self, round_: int, teacher: str, name: str = "", filtered: bool | None = None) -> Stage:
        """Predict the next round's pseudo-masks with a trained model, section 2.5.

        Args:
            round_: 1 or more; the masks are called `cyclic<round_>`.
            teacher: name of the trained segmenter.
            name: another name of the masks; `round_` does not matter then.
            filtered: by the images' labels; defaults to the run's `cyclic_filter`.
        """
        p, trained = self.params, self._trained(teacher, "teacher")
        filtered = p.cyclic_filter if filtered is None else filtered
        inputs = [trained, *self._chosen_epoch(teacher)]
        settings = p.pick(
            "cyclic_filter", "cyclic_crf", "cyclic_scales", "seg_flip", "seg_window", *["crf_*"] * p.cyclic_crf
        )
        settings["cyclic_filter"] = filtered
        stage_name = f"masks/{name or f'cyclic{round_}'}"
        settings = self._with_engine(stage_name, settings, inputs)
        with self.run.stage(stage_name, settings, inputs) as stage:
            if not stage.reused:
                model = accelerate(self._teacher(teacher), settings.get("inference", "torch"))
                predict = partial(self.cyclic_mask, teacher, filtered=filtered, model=model)
                compute.write_predicted_masks(
                    predict, self.train_ids, stage.folder, self.data.class_names, **self.where
                )
                stage.facts |= self._evaluate(stage)
        return stage

    def cyclic_mask(
        self, teacher: str, image_id: str, filtered: bool | None = None, model: nn.Module | None = None
    ) -> np.ndarray:
        """Predict one training image's next pseudo-mask (H,W) uint8, filtered by its labels or not.

        `model` is the teacher as an engine runs it; by default PyTorch does.
        """
        p, image = self.params, self.data.image(image_id)
        labels = self.data.labels(image_id) if (p.cyclic_filter if filtered is None else filtered) else None
        crf = DenseCRF(image, self.crf_settings(joint=True)) if p.cyclic_crf else None
        options = {"scales": p.cyclic_scales, "flip": p.seg_flip, "window": p.seg_window, "statistics": self.statistics}
        model = model or self._teacher(teacher)
        probabilities = run_network(self.device, class_probabilities, model, image, **options)
        return cyclic_pseudo_mask(probabilities, labels, crf)

    def _teacher(self, name: str) -> nn.Module:
        """Return the model that predicts masks: as it was at the end, or after its best epoch."""
        chosen = self._chosen_epoch(name)
        return self._segmenter_of(name, epoch_file(chosen[0].facts["epoch"]) if chosen else WEIGHTS)[0]

    def _chosen_epoch(self, name: str) -> list[Stage]:
        """Evaluate all epochs of a model on val where `cyclic_teacher` asks; facts: the best epoch, mIoU of each."""
        if self.params.cyclic_teacher == "last":
            return []
        trained, p = self._trained(name, "teacher"), self.params
        settings = p.pick("cyclic_scales", "seg_flip", "seg_window")
        with self.run.stage(f"{trained.name}/teacher", settings, [trained, *self.truth_marks]) as stage:
            if not stage.reused:
                own = check_params({**p.model_dump(), "seg_scales": p.cyclic_scales, "seg_crf": False}, trained.name)
                scores = []
                for epoch in range(1, p.seg_epochs + 1):
                    predict = partial(self._val_masks, self.load_segmenter(name, epoch_file(epoch)), own)
                    found = compute.evaluate_each(
                        self.data, self.val_ids, predict, f"val, epoch {epoch}", 1, **self.where
                    )
                    scores.append(found[0].get("miou", 0.0))
                stage.facts |= {"epoch": int(np.argmax(scores)) + 1, "miou": scores}
        return [stage]

    @property
    def teacher_note(self) -> str:
        """Say who chose the epoch that predicts the next masks, where pixel labels did."""
        best = "the epoch with the best mIoU on val: pixel labels chose it, as in the released code"
        return "" if self.params.cyclic_teacher == "last" else f" Each teacher is {best}."

    def pseudo_mask(self, masks: str, image_id: str) -> np.ndarray:
        """Read one training mask (H,W) uint8: of a method, `ground_truth`, `noisy`, or `cyclic<round>`."""
        if masks == "ground_truth":
            return self.data.mask(image_id)
        if masks not in self._folders:
            self._folders[masks] = self._mask_stage(masks).folder
        return compute.read_pseudo_mask(self._folders[masks], image_id, self.n_classes)

    def _mask_stage(self, masks: str) -> Stage:
        if masks == "ground_truth":
            return self.dataset_stage
        if masks == "noisy":
            return self.noisy_masks()
        if masks in compute.METHODS:
            return self.pseudo_masks(masks)
        record = self.run.recorded(f"masks/{masks}")
        if record is None:
            folder = self.run.path / "masks" / masks
            raise InputError(f"masks = {masks}: {folder} holds no finished masks; make them first")
        return record

    def _evaluate(self, stage: Stage) -> dict[str, Any]:
        read = partial(compute.read_pseudo_mask, stage.folder, n_classes=self.n_classes)
        return compute.evaluate_masks(self.data, self.judge_ids, read, f"score {stage.folder.name}", **self.where)

    # --- segmentation models

    def segmenter(self, name: str, masks: str | None = None, **changes: Any) -> Stage:
        """Train a segmentation model and evaluate it on the val split: its facts have "val", see `evaluate_masks`.

        With `seg_crf` "val" also holds "with_crf", the same of the predictions that a dense CRF refined.

        Args:
            name: its folder below `segmenter/`.
            masks: what it learns from, see `pseudo_mask`; defaults to `params.seg_masks`.
            **changes: parameters that differ from the run's, such as pus="none"; they hold for training, for the
                evaluation, and whenever the model is used later.
        """
        p = check_params({**self.params.model_dump(), **changes}, f"segmenter {name}")
        masks = masks or p.seg_masks
        settings = p.pick("seed", "backbone", "seg_*", "pixel_loss", "pus", *_parts(p), *_epochs(p))
        if p.pus != "none":  # plain training does not depend on what PUS would do
            settings |= p.pick("pus_*", "beta", "kappa")
        settings = {key: value for key, value in settings.items() if key not in PREDICTION} | {"seg_masks": masks}
        inputs = [self._mask_stage(masks), self._splits, *self._weight_marks]
        if masks == "ground_truth":
            inputs += self._train_truth_marks
        if p.seg_init == "classifier":
            inputs.append(self.classifier())
        with self.run.stage(f"segmenter/{name}", settings, inputs) as stage:
            if not stage.reused:
                self._train_segmenter(p, masks, stage.folder, name)
        stage.facts |= self._evaluated(stage, name, p).facts
        return stage

    def _evaluated(self, trained: Stage, name: str, p: Params) -> Stage:
        """Evaluate a trained model on the val split, without the dense CRF and, where `seg_crf` asks, with it."""
        with self.run.stage(f"{trained.name}/val", p.pick(*PREDICTION), [trained, *self.truth_marks]) as stage:
            if not stage.reused and self.val_ids:
                model = self.load_segmenter(name)
                predict = partial(self._val_masks, accelerate(model, self.engine), p)
                asked = (f"val {name}", 1 + p.seg_crf)
                plain, *refined = compute.evaluate_each(self.data, self.val_ids, predict, *asked, **self.where)
                stage.facts |= {"val": plain, "inference": self.engine}
                if refined and plain:
                    plain["with_crf"] = refined[0]
        return stage

    def _train_segmenter(self, p: Params, masks: str, folder: Path, name: str) -> None:
        if len(self.train_ids) < 2:  # batch normalisation has no variance over one image
            raise InputError(f"train_split = {p.train_split}: only 1 image has a label; label at least 2")
        model = self.new_segmenter(p, pretrained=True)
        if p.seg_init == "classifier":
            learned = self.load_classifier().backbone.state_dict()
            model.encoder.model.load_state_dict(learned, strict=False)  # an encoder has no last layers
        pus = PretendedUnderfittingLoss(p.pus, p.beta, p.kappa, p.pus_variant, p.pixel_loss)
        loss = SegmentationLoss(pus, p.pus_warmup, p.seg_background_margin, p.seg_auxiliary)
        augmentation = Augmentation(tuple(p.seg_crop), tuple(p.seg_scale), colour=0.3)
        read = partial(self.pseudo_mask, masks)
        how = (loss, training_settings(p, "seg"), augmentation, folder, self.statistics, f"segmenter {name}")
        compute.train_segmenter(model, self.data, self.train_ids, read, *how)

    def new_segmenter(self, p: Params, pretrained: bool) -> nn.Module:
        """Build the segmentation model of some parameters on the run's device."""
        with seeded(p.seed):
            model = create_segmenter(
                p.seg_architecture,
                p.backbone,
                self.n_classes,
                output_stride=p.seg_output_stride,
                channels=p.seg_decoder_channels,
                rates=p.seg_atrous_rates,
                auxiliary=p.seg_auxiliary > 0,
                weights=located(p.weights) if pretrained else None,
            )
        freeze(model.encoder.model, p.seg_frozen_stages)
        return place(model, self.device)

    def load_segmenter(self, name: str, weights: str = WEIGHTS) -> nn.Module:
        """Return a trained segmentation model in evaluation mode.

        Args:
            name: of its folder below `segmenter/`.
            weights: file in its folder: at the end, or `EARLY`, or after an epoch.

        Raises:
            InputError: it has not been trained.
        """
        record = self._trained(name, "segmenter")
        model = self.new_segmenter(self._own_params(record), pretrained=False)
        return load_weights(model, record.folder / weights)

    def _trained(self, name: str, what: str) -> Stage:
        record = self.run.recorded(f"segmenter/{name}")
        if record is None:
            raise InputError(f"{what} = {name}: not trained in {self.run.path}; call experiment.segmenter first")
        return record

    def _own_params(self, record: Stage) -> Params:
        """Parameters of a trained model: the run's, but for what it was trained and evaluated with."""
        evaluated = self.run.begun(f"{record.name}/val").get("settings", {})
        own = {**self.params.model_dump(), **record.settings, **evaluated, "seg_masks": self.params.seg_masks}
        return check_params(own, record.name)

    def _segmenter_of(self, name: str, weights: str = WEIGHTS) -> tuple[nn.Module, Params]:
        """Return a trained model with its parameters; the last one asked for stays in memory."""
        record = self._trained(name, "segmenter")
        key = (name, weights, record.fingerprint)
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # one model in memory at a time is enough
            self._kept = (key, self.load_segmenter(name, weights), self._own_params(record))
        return self._kept[1:]

    def probabilities(self, name: str, image_id: str) -> np.ndarray:
        """Predict class probabilities (K,H,W) float32 of any image with a trained model."""
        return self._probabilities(*self._segmenter_of(name), image_id)

    def _probabilities(self, model: nn.Module, p: Params, image_id: str, crf: bool = True) -> np.ndarray:
        image = self.data.image(image_id)
        options = {"scales": p.seg_scales, "flip": p.seg_flip, "window": p.seg_window, "statistics": self.statistics}
        found = run_network(self.device, class_probabilities, model, image, **options)
        return self._refined(image, found, p) if crf and p.seg_crf else found

    def _refined(self, image: np.ndarray, probabilities: np.ndarray, p: Params) -> np.ndarray:
        return DenseCRF(image, SEGMENTATION_CRF).posterior(probabilities)

    def _val_masks(self, model: nn.Module, p: Params, image_id: str) -> list[np.ndarray]:
        """Predict the masks that are evaluated: without the CRF and, where `seg_crf` asks, with it."""
        found = [self._probabilities(model, p, image_id, crf=False)]
        found += [self._refined(self.data.image(image_id), found[0], p)] if p.seg_crf else []
        return [each.argmax(0).astype(np.uint8) for each in found]

    def predict(self, name: str, image_id: str) -> np.ndarray:
        """Predict the mask (H,W) uint8 of any image with a trained model."""
        return self._predict(*self._segmenter_of(name), image_id)

    def _predict(self, model: nn.Module, p: Params, image_id: str) -> np.ndarray:
        return self._probabilities(model, p, image_id).argmax(0).astype(np.uint8)

    def loss_map(self, name: str, image_id: str, masks: str, early: bool = False) -> np.ndarray:
        """Compute a trained model's own per-pixel loss (H,W) float32 on an image against a training mask."""
        (model, p), mask = self._segmenter_of(name, EARLY if early else WEIGHTS), self.pseudo_mask(masks, image_id)
        options = {"pixel_loss": p.pixel_loss, "background_margin": p.seg_background_margin}
        return pixel_loss_map(model, self.data.image(image_id), mask, **options, statistics=self.statistics)

    def log(self, stage_name: str) -> dict[str, list[float]]:
        """Read a stage's log, say of "segmenter/pus": epoch, loss, lr; there mean_loss, gate_open, over_kappa, too."""
        return read_log(self.run.path / stage_name / LOG)


def train(params: Params) -> None:
    """Make all that notebooks 02 to 06 make, without them; several processes share the work.

    A whole run reuses it. Call it in each process, as `accelerate launch -m pmm train` or accelerate's
    `notebook_launcher` do.

    Raises:
        InputError: as the stages.
    """
    join(params.device)
    with alone_in(run_path(params)) if is_first() else nullcontext():
        make_all(Experiment(params))


def make_all(experiment: Experiment) -> None:
    """Enter every stage that notebooks 02 to 06 enter, in their order."""
    p = experiment.params
    for method in compute.METHODS:
        experiment.pseudo_masks(method)
    experiment.segmenter("ce", pus="none")
    experiment.segmenter("pus")
    if all(experiment.data.has_mask(i) for i in experiment.train_ids):
        experiment.segmenter("ground_truth", masks="ground_truth", pus="none")
    teacher = "pus"
    for k in range(1, p.cyclic_rounds + 1):
        experiment.cyclic_masks(k, teacher)
        teacher = f"round{k}"
        experiment.segmenter(teacher, masks=f"cyclic{k}", pus="none")


def _parts(params: Params) -> list[str]:
    """Name the parameter that changes a training only where it does."""
    return ["micro_batches"] * (params.micro_batches > 1)


def _epochs(params: Params) -> list[str]:
    """Name the parameter that keeps every epoch's weights only where it does."""
    return ["cyclic_teacher"] * (params.cyclic_teacher != "last")


def training_settings(params: Params, prefix: str) -> TrainingSettings:
    """Take the parameters that begin with `cls_` or `seg_`."""
    names = ("epochs", "batch_size", "lr", "head_lr", "weight_decay", "optimizer", "schedule")
    values = {name: getattr(params, f"{prefix}_{name}") for name in names}
    own = params.pick("seed", "loader_workers", "micro_batches")
    kept = {"keep_epochs": prefix == "seg" and params.cyclic_teacher != "last"}
    return TrainingSettings(**values, **own, **kept)
