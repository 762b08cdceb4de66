"""What can be checked before a run: packages, weights, and every image, label and mask of the data set.

Each check returns a sentence, or raises InputError with the reason; `pmm check` prints one line for each.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pmm.data import SegmentationData, choose_classes, open_dataset
from pmm.errors import InputError
from pmm.run.folder import located
from pmm.run.params import Params
from pmm.threads import map_images

Check = Callable[[], str]


def all_checks(params: Params) -> Iterator[tuple[str, Check]]:
    """Yield (name, check), what answers at once before what reads the data, downloads last.

    Those of the splits need the data set; the caller runs each check before it asks for the next.
    """
    yield "device", partial(check_device, params)
    yield "dense CRF", check_crf
    if params.dataset == "scenes":
        yield "data", partial(check_scenes, params)
    else:
        opened: list[SegmentationData] = []
        yield "data", partial(_open, params, opened)
        for data in opened:
            yield f"split {params.train_split}", partial(check_split, data, params.train_split, needs_labels=True)
            for role in ("judge_split", "val_split"):
                if split := getattr(params, role):
                    yield f"split {split}", partial(check_split, data, split, needs_masks=role)
            if params.cam_dir:
                yield "CAMs", partial(check_cams, params, data)
    yield "backbone", partial(check_backbone, params)
    yield "segmentation model", partial(check_segmenter, params)


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
    return f"{sum(1 for _ in tqdm(read, total=len(ids), desc='CAMs', unit='image'))} files in {params.cam_dir}"


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


def check_split(data: SegmentationData, split: str, needs_labels: bool = False, needs_masks: str = "") -> str:
    """Read every image, its labels and, where there is one, its mask.

    Args:
        data: the data set.
        split: name of the split.
        needs_labels: the split trains, so at least one image must have a label.
        needs_masks: parameter that names the split, if it measures, so that at least one image must have a mask.

    Raises:
        InputError: files that cannot be read (their number and the first reason); no label or no mask at all.
    """
    ids = data.ids(split)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = map_images(partial(_read, data), ids)
        found = list(tqdm(read, total=len(ids), desc=f"split {split}", leave=False, disable=None))
    wrong = [result for result in found if isinstance(result, InputError)]
    if wrong:
        raise InputError(f"{len(wrong)} of {len(ids)} images are unusable; first: {wrong[0]}")
    labelled, masks = (sum(map(bool, column)) for column in zip(*found, strict=True))
    if needs_labels and not labelled:
        raise InputError(f"none of the {len(ids)} images has a label; the classifier has nothing to learn")
    if needs_masks and not masks:
        raise InputError(f"none of the {len(ids)} images has a mask; write {needs_masks}: '' to do without")
    note = data.left_out_note(split).removeprefix(f"{split}: ")
    return f"{len(ids)} images decode, {labelled} have labels, {masks} have masks{note and f'; {note}'}"


def _read(data: SegmentationData, image_id: str) -> tuple[int, bool] | InputError:
    """Decode one image and its mask; return its number of labels and whether it has a mask, or the error."""
    try:
        data.image(image_id)
        has_mask = data.has_mask(image_id)
        if has_mask:
            data.mask(image_id)
        return len(data.labels(image_id)), has_mask
    except InputError as error:
        return error
