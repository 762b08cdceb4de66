"""What can be checked before a run: packages, weights, and every image, label and mask of the data set.

Each check returns a sentence, or raises InputError with the reason; `pmm check` prints one line for each.
`pmm data check` looks at the data set alone, and lists what is wrong.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import numpy as np
import psutil
from packaging.requirements import Requirement
from tqdm import tqdm

from pmm.data import ChosenClasses, SegmentationData, choose_classes, open_dataset
from pmm.errors import InputError, MissingDependency
from pmm.method import IGNORE_INDEX
from pmm.run.folder import located, project_root
from pmm.run.params import Params, run_path
from pmm.threads import available_threads, map_images

Check = Callable[[], str]
ROLES = ("train_split", "judge_split", "val_split")  # the parameters that name a split


def all_checks(params: Params) -> Iterator[tuple[str, Check]]:
    """Yield (name, check), what answers at once before what reads the data, downloads last.

    Those of the splits need the data set; the caller runs each check before it asks for the next.
    """
    yield "run folder", lambda: check_folder(run_path(params))
    yield "device", partial(check_device, params)
    yield "dense CRF", check_crf
    if params.dataset == "scenes":
        yield "data", partial(check_scenes, params)
    else:
        opened: list[SegmentationData] = []
        yield "data", partial(_open, params, opened)
        for data in opened:
            for role in ROLES:
                if split := getattr(params, role):
                    yield f"split {split}", partial(check_split, data, split, role)
            if params.cam_dir:
                yield "CAMs", partial(check_cams, params, data)
    yield "backbone", partial(check_backbone, params)
    yield "segmentation model", partial(check_segmenter, params)


def health() -> Iterator[tuple[str, Check]]:
    """Yield what an installation needs, without parameters: name and function, as `all_checks`."""
    yield "Python", platform.python_version
    for requirement in requires("pmm") or []:
        name = re.split(r"[<>=!~; \[]", requirement)[0]
        yield name, partial(_check_package, requirement)
    yield "dense CRF", check_crf
    yield "network", partial(check_backbone, Params())
    yield "device", partial(check_device, Params())
    yield "cores and memory", _check_machine
    yield "kernel", _check_kernel
    yield "folder of the runs", _check_runs


def _check_package(requirement: str) -> str:
    wanted = Requirement(requirement)
    optional = wanted.marker is not None and "extra" in str(wanted.marker)
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        if optional:
            return "not installed; " + f"optional ({str(wanted.marker).partition('==')[2].strip()})"
        raise InputError(f"not installed; pip install '{wanted.name}{wanted.specifier}'") from None
    if not wanted.specifier.contains(found, prereleases=True):
        raise InputError(f"found {found}; pip install '{wanted.name}{wanted.specifier}'")
    return found


def _check_machine() -> str:
    memory = psutil.virtual_memory()
    if memory.available < 2 << 30:
        raise InputError(f"{memory.available >> 20} MiB of memory are free; close other programs")
    return f"{available_threads()} cores, {memory.available / 2**30:.1f} GiB of memory free"


def _check_kernel() -> str:
    """Start the kernel that runs the notebooks, and hear from it."""
    from jupyter_client.manager import start_new_kernel

    try:
        manager, client = start_new_kernel(kernel_name="python3", startup_timeout=60, stderr=subprocess.DEVNULL)
    except Exception as error:  # a dozen types
        raise InputError(f"does not start ({error}); pip install --force-reinstall ipykernel") from None
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    return "starts"


def _check_runs() -> str:
    folder = project_root() / Params().runs_dir
    folder.mkdir(parents=True, exist_ok=True)
    check_folder(folder)
    free = shutil.disk_usage(folder).free
    if free < 1 << 30:
        raise InputError(f"{folder}: {free >> 20} MiB are free; the demo wants 1 GiB, delete runs/*/replaced")
    return f"{folder}, {free / 2**30:.0f} GiB free"


def check_folder(path: Path) -> str:
    """Check that a folder can be written to; one that was not there is not there afterwards."""
    missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            return str(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written to ({error.strerror}); change runs_dir or run_name") from None
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def check_device(params: Params) -> str:
    """Check that the device and the engine of the inference are there."""
    from pmm.networks.devices import choose_device
    from pmm.networks.engine import choose_engine

    device = choose_device(params.device)
    return f"{device}, inference by {choose_engine(params.inference, device)}"


def check_crf() -> str:
    """Check that the dense CRF refines a small image."""
    from pmm.method.crf import DenseCRF

    probabilities = np.full((2, 16, 16), 0.5, dtype=np.float32)
    DenseCRF(np.zeros((16, 16, 3), dtype=np.uint8)).posterior(probabilities)
    return "works"


def check_cams(params: Params, data: SegmentationData) -> str:
    """Check that every training image has a CAM in `cam_dir`, of its classes and readable."""
    from pmm.data.cams import find_cam_files, read_cams_of

    ids = [i for i in data.ids(params.train_split) if data.labels(i)]
    files = dict(zip(ids, find_cam_files(Path(located(params.cam_dir)), ids), strict=True))
    read = map_images(lambda i: read_cams_of(data, i, files[i]), ids)
    bar = tqdm(read, total=len(ids), desc="CAMs", leave=False, disable=None, unit="image")
    return f"{sum(1 for _ in bar)} files in {params.cam_dir}"


def check_backbone(params: Params) -> str:
    """Check that the backbone exists and its ImageNet weights are at hand; a download happens here."""
    from pmm.networks.models import EMBEDDED_BACKBONES, create_backbone, load_imagenet

    load_imagenet(create_backbone(params.backbone, params.cls_output_stride), params.backbone, located(params.weights))
    embedded = "embedded" if params.backbone in EMBEDDED_BACKBONES else "from timm"
    return f"{params.backbone}, weights {params.weights or embedded}"


def check_segmenter(params: Params) -> str:
    """Check that the backbone can be the encoder of the segmentation model."""
    from pmm.networks.models import create_segmenter

    create_segmenter(params.seg_architecture, params.backbone, 2, output_stride=params.seg_output_stride)
    return f"{params.seg_architecture} on {params.backbone}"


def check_scenes(params: Params) -> str:
    """Check that scenes can be composed, with one of each split."""
    from pmm.data.scenes import SCENE_CLASSES, compose_scene

    choose_classes(SCENE_CLASSES, params.classes, params.require_any)
    for split in ("train", "val"):
        compose_scene(split, 0, width=params.scene_width, height=params.scene_height, seed=params.seed)
    return f"sample scenes, composed by the run: {params.n_train} train, {params.n_val} val"


def _open(params: Params, opened: list[SegmentationData]) -> str:
    chosen = {"classes": params.classes, "require_any": params.require_any, "name": params.data_name}
    opened.append(open_dataset(params.dataset, located(params.data_dir), **chosen))
    return f"{opened[0].name}, {len(opened[0].class_names) - 1} classes"


def check_split(data: SegmentationData, split: str, role: str) -> str:
    """Read every image, its labels and, where there is one, its mask.

    Args:
        data: the data set.
        split, role: name of the split, and the parameter of `ROLES` that names it.

    Raises:
        InputError: files that cannot be read (their number and the first reason); no label or no mask at all.
    """
    found = read_split(data, split)
    if found.problems:
        count = f"{len(found.problems)} of {found.images} images are unusable"
        raise InputError(f"{count}; first: {found.problems[0]}")
    if lack := found.lack(role):
        raise InputError(lack)
    note = data.left_out_note(split).removeprefix(f"{split}: ")
    counts = f"{found.images} images decode, {found.labelled} have labels, {found.masks} have masks"
    return f"{counts}{note and f'; {note}'}"


def check_data(params: Params) -> Iterator[tuple[str, list[str]]]:
    """Yield what the data set is and what each split that a run uses holds, as text, and the problems found there.

    Raises:
        InputError: the data set cannot be opened, or has no such split.
    """
    if params.dataset == "scenes":
        yield check_scenes(params), []
        return
    opened: list[SegmentationData] = []
    yield _open(params, opened), []
    for split in dict.fromkeys(filter(None, (getattr(params, role) for role in ROLES))):
        roles = [role for role in ROLES if getattr(params, role) == split]
        found = read_split(opened[0], split)
        counts = f"{found.images} images, {found.labelled} with labels, {found.masks} with masks"
        shown = ", ".join(f"{name} {count}" for name, count in found.per_class.items())
        text = f"split {split} ({', '.join(roles)}): {counts}\n  images per class: {shown}"
        note = opened[0].left_out_note(split)
        lacks = [f"split {split}: {lack}" for lack in map(found.lack, roles) if lack]
        yield text + (note and f"\n  {note}"), found.problems + lacks


class SplitReport(NamedTuple):
    """What `read_split` found in the images of a split."""

    images: int
    labelled: int
    masks: int
    per_class: dict[str, int]  # name -> images that show the class
    problems: list[str]  # the first of each image that has one, in the order of the split

    def lack(self, role: str) -> str:
        """Say what a split of this role lacks altogether; empty where nothing."""
        none = f"none of the {self.images} images has a"
        if role == "train_split":
            return "" if self.labelled else f"{none} label; the classifier has nothing to learn"
        return "" if self.masks else f"{none} mask; write {role}: '' to do without"


def read_split(data: SegmentationData, split: str) -> SplitReport:
    """Read every image of a split, its labels and, where there is one, its mask; errors as in `SegmentationData.ids`.

    Where classes cannot be chosen since labels cannot be read, the report is of the whole split.
    """
    try:
        ids = data.ids(split)
    except InputError:
        whole = read_split(data.whole, split) if isinstance(data, ChosenClasses) else None
        if whole and whole.problems:
            return whole
        raise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = map_images(partial(_read, data), ids)
        found = list(tqdm(read, total=len(ids), desc=f"split {split}", leave=False, disable=None, unit="image"))
    labels, masks, problems = zip(*found, strict=True)
    shown = Counter(i for own in labels for i in own)
    per_class = {name: shown[i] for i, name in enumerate(data.class_names) if i}
    return SplitReport(len(ids), sum(map(bool, labels)), sum(masks), per_class, list(filter(None, problems)))


def _read(data: SegmentationData, image_id: str) -> tuple[tuple[int, ...], bool, str]:
    """Decode one image and its mask; return its labels, whether it has a mask, and what cannot be read, if anything."""
    labels: tuple[int, ...] = ()
    has_mask = False
    try:
        has_mask = data.has_mask(image_id)
        labels = data.labels(image_id)
        data.image(image_id)
        found = np.unique(data.mask(image_id)).tolist() if has_mask else []
        if labels and found in ([IGNORE_INDEX], [0, IGNORE_INDEX]):
            hint = f"{IGNORE_INDEX} stands for unknown, an object has the number of its class"
            return labels, has_mask, f"{data.mask_source(image_id)}: holds no class, but {found}; {hint}"
    except MissingDependency:
        raise
    except InputError as error:
        return labels, has_mask, str(error)
    return labels, has_mask, ""
