"""The data of a run: scenes are composed into the run folder, other sets stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import joblib
import torch
import yaml

from pmm.data import SegmentationData, open_dataset
from pmm.data.scenes import compose_scenes
from pmm.errors import InputError
from pmm.files import write_text
from pmm.networks.devices import choose_device, keep_freed_memory
from pmm.networks.models import image_statistics
from pmm.run.folder import RunFolder, Stage, fingerprint, located, project_root
from pmm.run.params import Params


class DataStages:
    """One run's parameters, folder, device and data; the base of `Experiment`."""

    def __init__(self, params: Params):
        keep_freed_memory()
        torch.backends.cudnn.deterministic = True
        self.params = params
        self.device = choose_device(params.device)
        self.run = RunFolder(project_root() / params.runs_dir / params.run_name)
        self.workers = params.workers or joblib.cpu_count()
        write_text(self.run.path / "params.yaml", yaml.safe_dump(params.model_dump(), sort_keys=False))

    @cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation that the backbone expects of its images."""
        return image_statistics(self.params.backbone)

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
        return self.params.dataset, located(self.params.data_dir)

    @cached_property
    def train_ids(self) -> list[str]:
        """Ids of the training images; those without any label are left out, and counted aloud."""
        ids = self.data.ids(self.params.train_split)
        labelled = [i for i in ids if self.data.labels(i)]
        if len(labelled) < len(ids):
            skipped = len(ids) - len(labelled)
            print(f"{self.params.train_split}: {skipped} of {len(ids)} images have no label and are skipped")
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

    @cached_property
    def _splits(self) -> str:
        """Stand for both splits in a fingerprint: for ids and, outside the composed scenes, labels and images."""
        known: dict[str, Any] = {"ids": self.train_ids, "val": self.val_ids}
        if self.params.dataset != "scenes":
            known |= {"classes": self.data.class_names, "labels": [self.data.labels(i) for i in self.train_ids]}
            known["images"] = _sizes(self.data.image_path(i) for i in self.train_ids + self.val_ids)
        return fingerprint(known)

    @cached_property
    def truth_marks(self) -> list[str]:
        """Stand for the ground truth of both splits in a fingerprint; nothing for the composed scenes."""
        if self.params.dataset == "scenes":
            return []
        sources = (self.data.mask_source(i) for i in self.train_ids + self.val_ids)
        return [fingerprint({"truth": _sizes(sources)})]

    def _finished(self, name: str, make: Callable[[], Stage]) -> Path:
        """Return a stage's folder, making the stage once if it is not known in this session."""
        known = self.__dict__.setdefault("_known", {})
        if name not in known:
            known[name] = make().folder
        return known[name]


def _sizes(paths: Iterable[Path]) -> list[int]:
    """Return each file's bytes, -1 for a missing one: a file that was replaced nearly always differs in size."""
    size = cache(lambda path: path.stat().st_size if path.is_file() else -1)  # COCO names one file for many images
    return [size(path) for path in paths]
