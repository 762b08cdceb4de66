"""What can be checked before a run: packages, weights, and every image, label and mask of the data set.

Each check returns a sentence, or raises InputError with the reason; `pmm check` prints one line for each.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pmm.data import SegmentationData, open_dataset
from pmm.errors import InputError
from pmm.run.folder import located, project_root
from pmm.run.params import Params

Check = Callable[[], str]


def all_checks(params: Params) -> Iterator[tuple[str, Check]]:
    """Yield (name, check) in the order in which they are best read; those of the splits need the data set."""
    yield "device", partial(check_device, params)
    yield "dense CRF", partial(check_crf, params)
    yield "backbone", partial(check_backbone, params)
    yield "segmentation model", partial(check_segmenter, params)
    if params.dataset == "scenes":
        yield "data", partial(check_scenes, params)
        return
    opened: list[SegmentationData] = []
    yield "data", partial(_open, params, opened)
    if not opened:  # the caller runs each check before it asks for the next
        return
    train, val = params.train_split, params.val_split
    yield f"split {train}", partial(check_split, opened[0], train, needs_labels=True)
    if val:
        yield f"split {val}", partial(check_split, opened[0], val, needs_masks=True)


def check_device(params: Params) -> str:
    """Check that the device is there."""
    from pmm.networks.devices import choose_device

    return str(choose_device(params.device))


def check_crf(params: Params) -> str:
    """Check that the CRF's engine is there and refines a small image."""
    from pmm.method.crf import CRFSettings, DenseCRF

    probabilities = np.full((2, 16, 16), 0.5, dtype=np.float32)
    settings = CRFSettings(engine=params.crf_engine)
    DenseCRF(np.zeros((16, 16, 3), dtype=np.uint8), settings).posterior(probabilities)
    return f"{params.crf_engine} works"


def check_backbone(params: Params) -> str:
    """Check that the backbone exists and its ImageNet weights are at hand; a download happens here."""
    from pmm.networks.models import EMBEDDED_BACKBONE, create_backbone, load_imagenet

    load_imagenet(create_backbone(params.backbone, params.cls_output_stride), params.backbone, located(params.weights))
    embedded = "embedded" if params.backbone == EMBEDDED_BACKBONE else "from timm"
    return f"{params.backbone}, weights {params.weights or embedded}"


def check_segmenter(params: Params) -> str:
    """Check that the backbone can be the encoder of the segmentation model."""
    from pmm.networks.models import create_segmenter

    create_segmenter(params.seg_architecture, params.backbone, 2, output_stride=params.seg_output_stride)
    return f"{params.seg_architecture} on {params.backbone}"


def check_scenes(params: Params) -> str:
    """Check that scenes can be composed, with one of each split."""
    from pmm.data.scenes import compose_scene

    for split in ("train", "val"):
        compose_scene(split, 0, width=params.scene_width, height=params.scene_height, seed=params.seed)
    return f"sample scenes, composed by the run: {params.n_train} train, {params.n_val} val"


def _open(params: Params, opened: list[SegmentationData]) -> str:
    opened.append(open_dataset(params.dataset, project_root() / Path(params.data_dir).expanduser()))
    return f"{opened[0].name}, {len(opened[0].class_names) - 1} classes"


def check_split(data: SegmentationData, split: str, needs_labels: bool = False, needs_masks: bool = False) -> str:
    """Read every image, its labels and, where there is one, its mask.

    Args:
        data: the data set.
        split: name of the split.
        needs_labels: the split trains, so at least one image must have a label.
        needs_masks: the split measures, so at least one image must have a mask.

    Raises:
        InputError: files that cannot be read (their number and the first reason); no label or no mask at all.
    """
    ids = data.ids(split)
    found = _read_all(data, ids, f"split {split}")
    wrong = [result for result in found if isinstance(result, InputError)]
    if wrong:
        raise InputError(f"{len(wrong)} of {len(ids)} images are unusable; first: {wrong[0]}")
    unlabelled = sum(not labels for labels, _ in found)
    masks = sum(mask for _, mask in found)
    if needs_labels and unlabelled == len(ids):
        raise InputError(f"none of the {len(ids)} images has a label; the classifier has nothing to learn")
    if needs_masks and not masks:
        raise InputError(f"none of the {len(ids)} images has a mask; write val_split: '' to measure nothing")
    return f"{len(ids)} images decode, {len(ids) - unlabelled} have labels, {masks} have masks"


def _read_all(data: SegmentationData, ids: Sequence[str], title: str) -> list[Any]:
    def read(image_id: str) -> tuple[int, bool] | InputError:
        """Decode one image and its mask; return its number of labels and whether it has a mask, or the error."""
        try:
            data.image(image_id)
            has_mask = data.has_mask(image_id)
            if has_mask:
                data.mask(image_id)
            return len(data.labels(image_id)), has_mask
        except InputError as error:
            return error

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        return list(tqdm(pool.map(read, ids), total=len(ids), desc=title, leave=False, disable=None))
