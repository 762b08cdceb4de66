"""Whole folders without a run: pseudo-masks from anybody's CAMs, and the score of anybody's masks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from pmm.data.cams import CAM_SUFFIXES, files_by_stem, load_cams, read_foreign_cams, write_foreign_cams
from pmm.data.folder import read_table
from pmm.data.images import (
    IMAGE_SUFFIXES,
    VOC_CLASSES,
    class_palette,
    index_images,
    read_image,
    read_mask,
    voc_palette,
    write_mask,
)
from pmm.data.voc import class_ids_of, read_class_names, read_label_vectors, with_background
from pmm.errors import InputError, some
from pmm.files import read_json, write_text
from pmm.method.metrics import SegmentationScore
from pmm.run.compute import USED, MaskFunction, crf_settings, mask_function
from pmm.run.folder import RunFolder, fingerprint
from pmm.threads import map_images

SETTINGS_FILE = ".settings.json"  # beside the masks: how they were made


@dataclass(frozen=True)
class Labels:
    """Image-level labels of a folder of images."""

    class_names: tuple[str, ...]  # index 0 is background
    of: dict[str, tuple[int, ...]]  # image id -> sorted class ids


@dataclass(frozen=True)
class Made:
    """What `make_masks` did: ids of images, and the seconds that a new mask took."""

    new: list[str]
    kept: list[str]  # masks that were there
    empty: list[str]  # of the new ones, those that are background alone
    without_cam: list[str]  # images of the labels, or of the folder, that have no CAM
    seconds: float


def read_labels(path: Path, classes: Path | None = None) -> Labels:
    """Read image-level labels: a table image,labels (.csv) or the cls_labels.npy that IRN, SEAM and others share.

    Args:
        path: the file.
        classes: a file with a class name a line, in the order of the ids, or just `voc`; by default classes.txt beside
            a table, else the alphabet, as in `FolderData`, and for vectors of 20 labels VOC's classes.

    Raises:
        InputError: a file is missing or malformed, or names an unknown class.
    """
    names = read_classes(classes)
    if path.suffix == ".npy":
        return Labels(*read_label_vectors(path, names))
    found: dict[str, list[str]] = {}
    for number, row in read_table(path):
        cell, own = row["image"].strip(), row["labels"].split()
        image_id = Path(cell).stem if Path(cell).suffix.lower() in IMAGE_SUFFIXES else cell
        if not cell or image_id in found or "background" in own:
            raise InputError(f"{path}, line {number}: name each image once, and its classes without background")
        found[image_id] = own
    if not found:
        raise InputError(f"{path}: lists no image; write one line an image below the header image,labels")
    if names is None and (beside := path.with_name("classes.txt")).is_file():
        names = read_class_names(beside)
    names = names or with_background(sorted(set().union(*found.values())), path)
    return Labels(names, {image_id: class_ids_of(own, names, path) for image_id, own in found.items()})


def read_classes(classes: Path | None) -> tuple[str, ...] | None:
    """Return the class names, background first, that a file lists or `voc` stands for; None for None."""
    return classes and (VOC_CLASSES if str(classes) == "voc" else read_class_names(classes))


def make_masks(
    cams: Path,
    images: Path,
    out: Path,
    method: str,
    params: Mapping[str, Any],
    labels: Labels | None = None,
    first_class: int | None = None,
) -> Made:
    """Turn every CAM of a folder into a palette PNG, several images at a time.

    Masks that are there and younger than their CAM and image are kept.

    Args:
        cams: files as in `read_foreign_cams`, named as the images.
        images: the folder of the images.
        out: where `<id>.png` go, with a record of the settings.
        method: of `compute.METHODS`.
        params: all parameters, such as s, alpha and workers.
        labels: of the images; every CAM must have its image's classes then. The colours are those of its classes.
        first_class: see `read_foreign_cams`.

    Raises:
        InputError: a folder is missing or has no such files, a CAM has no image, an image no label, `out` holds masks
            of other settings, or as `read_foreign_cams`.
    """
    given, pictures = _files(cams, CAM_SUFFIXES, "CAM"), index_images(_folder(images))
    _refuse(f"{cams}: no image of that name in {images} for", [i for i in given if i not in pictures])
    if labels:
        _refuse(f"{cams}: the labels do not name", [i for i in given if i not in labels.of])
    crf = crf_settings(dict(params), joint=method == "crf")
    used = {"cams": str(cams.resolve()), "first_class": first_class, **{name: params[name] for name in USED[method]}}
    used |= {"classes": list(labels.class_names), "labels": fingerprint(labels.of)} if labels else {"classes": None}
    _keep_settings(out, {"method": method, **used, **(asdict(crf) if method != "threshold" else {})})
    make = mask_function(method, dict(params), crf)
    palette = class_palette(labels.class_names) if labels else voc_palette()
    known = {"n_classes": len(labels.class_names) - 1} if labels else {}
    work = partial(_make_mask, make, palette, {"first_class": first_class, **known})
    of = labels.of if labels else {}
    files = ((given[i], pictures[i], out / f"{i}.png", of.get(i)) for i in given)
    todo = [each for each in files if not _is_younger(each[2], each[:2])]
    started = time.perf_counter()
    done = map_images(work, todo, workers=params["workers"], scheduler=params["scheduler"])
    bar = tqdm(done, desc=method, total=len(given), initial=len(given) - len(todo), unit="image")
    new = dict(zip([files[2].stem for files in todo], bar, strict=True))
    seconds = (time.perf_counter() - started) / max(len(todo), 1)
    expected = [i for i in labels.of if i in pictures] if labels else list(pictures)
    kept = [i for i in given if i not in new]
    return Made(
        list(new), kept, [i for i, any_ in new.items() if not any_], sorted(set(expected) - set(given)), seconds
    )


def _is_younger(file: Path, sources: Iterable[Path]) -> bool:
    """Whether a file is there and was written after all that it was made from."""
    return file.exists() and file.stat().st_mtime_ns >= max(source.stat().st_mtime_ns for source in sources)


def _make_mask(
    make: MaskFunction,
    palette: np.ndarray,
    options: Mapping[str, Any],
    files: tuple[Path, Path, Path, tuple[int, ...] | None],
) -> bool:
    """Write one mask; return whether it has a foreground."""
    cam_file, image_file, mask_file, labels = files
    image = read_image(image_file)
    own = options if labels is None else {**options, "labels": labels}
    class_ids, cam = read_foreign_cams(cam_file, image.shape[:2], **own)
    mask = make(image, cam, class_ids)
    write_mask(mask_file, mask, palette)
    return bool(mask.any())


def export_cams(run: RunFolder, out: Path, form: str) -> int:
    """Write all CAMs of a run as another project does, and return their number.

    Args:
        run: a run whose CAMs are finished.
        out: the folder to write to.
        form: see `write_foreign_cams`.

    Raises:
        InputError: the run has no finished CAMs, or as `load_cams`.
    """
    if (stage := run.recorded("cams")) is None:
        raise InputError(f"{run.path}: has no finished CAMs; make them first: pmm run ... --only 02")
    files = _files(stage.folder, (".npz",), "CAM")
    suffix = ".npz" if form == "npz" else ".npy"
    done = map_images(lambda i: write_foreign_cams(out / f"{i}{suffix}", *load_cams(files[i]), form), files)
    return sum(1 for _ in tqdm(done, desc=f"export {form}", total=len(files), unit="image"))


def score_masks(
    masks: Path, truth: Path, classes: Path | None = None, class_names: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Score every mask of a folder that has a ground truth of the same name.

    Args:
        masks, truth: folders of index PNGs; 255 in the truth is not scored.
        classes: a file with a name a line, or `voc`; by default the mask values are numbered, as many as occur.
        class_names: the names themselves, background first, instead of the file.

    Returns:
        miou, iou by class name and pixel_accuracy, fractions, and images, their number; and the ids that are in one
        folder alone: masks without a ground truth, ground truth without a mask.

    Raises:
        InputError: a folder is missing or has no PNG, no name is in both, nothing can be scored, or as `read_mask`.
    """
    own, exact = _files(masks, (".png",), "mask"), _files(truth, (".png",), "mask")
    both = [i for i in own if i in exact]
    if not both:
        names = f"none of its {len(exact)} files has the name of one of the {len(own)} in {masks}"
        raise InputError(f"{truth}: {names}; name a mask as its image")
    names = read_classes(classes) or tuple(class_names)
    n_classes = len(names) or 1 + max(_largest(files[i]) for files in (own, exact) for i in both)
    score = SegmentationScore(names or tuple(map(str, range(n_classes))))
    pairs = map_images(lambda i: (read_mask(exact[i], n_classes), read_mask(own[i], n_classes)), both)
    for image_id, (target, mask) in zip(both, tqdm(pairs, desc="score", total=len(both), unit="image"), strict=True):
        if target.shape != mask.shape:
            sizes = " and ".join(f"{shape[1]} x {shape[0]} px" for shape in (mask.shape, target.shape))
            raise InputError(f"{own[image_id]}: mask and ground truth have {sizes}; give them one size")
        score.update(target, mask)
    if not score.confusion.any():
        raise InputError(f"{truth}: every pixel is unknown (255), so nothing can be scored; give another truth")
    found = {**score.result(), "images": len(both)}
    return found, [i for i in own if i not in exact], [i for i in exact if i not in own]


def _largest(path: Path) -> int:
    mask = read_mask(path)
    return int(mask[mask != 255].max(initial=0))


def _folder(path: Path) -> Path:
    if path.is_dir():
        return path
    raise InputError(f"{path}: no such folder; check the name")


def _files(folder: Path, suffixes: Sequence[str], what: str) -> dict[str, Path]:
    """Id -> file of those with one of the suffixes, sorted; InputError where there is none."""
    found = files_by_stem(_folder(folder), suffixes)
    if not found:
        raise InputError(f"{folder}: no {what} in it; a {what} is a file {', '.join(f'*{s}' for s in suffixes)}")
    return found


def _refuse(reason: str, ids: Sequence[str]) -> None:
    if ids:
        raise InputError(f"{reason} {len(ids)} of its files: {some(ids)}")


def _keep_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Record how a folder's masks are made; refuse a folder whose masks were made otherwise."""
    made = any(out.glob("*.png"))
    known = read_json(out / SETTINGS_FILE)
    if made and not known:
        raise InputError(f"{out}: holds PNGs that no `pmm masks` made; choose another folder")
    for name in settings:
        if made and known.get(name) != settings[name]:
            was = f"{name} = {known.get(name)}, asked for {settings[name]}"
            raise InputError(f"{out}: holds masks of other settings ({was}); choose another folder, or delete it")
    write_text(out / SETTINGS_FILE, json.dumps(settings, indent=1) + "\n")
