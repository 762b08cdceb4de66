"""Data sets put in place: VOC 2012 with SBD downloaded, COCO's objects drawn as label maps."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from pmm.data.coco import COCO_SPLITS, COCOData, CocoImage, draw_mask
from pmm.data.images import class_palette, write_mask
from pmm.data.voc import SBD_LIST, SBD_MASKS, VOCData
from pmm.errors import InputError, MissingDependency
from pmm.files import write_text
from pmm.threads import map_images


def place_voc(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Put VOC 2012 with SBD's masks and list train_aug in place, both downloaded by torchvision; what is there is kept.

    train_aug is VOC's train with SBD's train and val, without VOC's val, sorted. SegmentationClassAug gets a mask of
    each of its images, VOC's own where VOC has one. The archives stay in `root`.

    Yields:
        As `convert_coco`, for VOC and for SBD.

    Raises:
        InputError: an archive cannot be downloaded or unpacked, a part of VOC is there, or a mask is damaged.
    """
    from torchvision.datasets.voc import DATASET_YEAR_DICT  # seconds to import

    try:
        data = VOCData(root)
    except InputError:
        place, *source = map(DATASET_YEAR_DICT["2012"].get, ("base_dir", "url", "filename", "md5"))
        _unpack(root, place, *source, instead=f"VOC 2012 as {root / place}")
        data = VOCData(root)
    if data.name != "VOC 2012":
        raise InputError(f"{data.root}: holds a part of VOC 2012, or another set; choose another --root")
    yield f"{data.root}: {len(data.ids('train'))} images in train, {len(data.ids('val'))} in val", []
    yield _place_sbd(data, root), []


def _place_sbd(data: VOCData, root: Path) -> str:
    from torchvision.datasets import SBDataset

    sbd, table, masks = root / "benchmark_RELEASE", data.root / SBD_LIST, data.root / SBD_MASKS
    if not (sbd.is_dir() or (table.is_file() and all(map(data.has_mask, data.ids("train_aug"))))):
        source = (SBDataset.url, SBDataset.filename, SBDataset.md5)
        _unpack(root, sbd.name, *source, instead=f"SBD's list and masks as {table} and {masks}/")
    if not table.is_file():
        lists = (sbd / "dataset" / f"{split}.txt" for split in ("train", "val"))
        every = set(data.ids("train")).union(*(path.read_text().split() for path in lists))
        write_text(table, "".join(f"{i}\n" for i in sorted(every.difference(data.ids("val")))))
    ids = data.ids("train_aug")
    todo = [i for i in ids if not (masks / f"{i}.png").is_file()]
    done = map_images(partial(_write_aug_mask, data, masks, sbd / "dataset" / "cls"), todo)
    new = sum(1 for _ in tqdm(done, desc=masks.name, total=len(ids), initial=len(ids) - len(todo), unit="image"))
    return f"{table}: {len(ids)} images, {new} new masks in {masks.name}, {len(ids) - new} were there"


def _write_aug_mask(data: VOCData, masks: Path, mat_files: Path, image_id: str) -> None:
    from scipy.io import loadmat

    if data.has_mask(image_id):
        mask = data.mask(image_id)
    else:
        path = mat_files / f"{image_id}.mat"
        try:
            mask = loadmat(path)["GTcls"]["Segmentation"][0, 0]
        except Exception as error:  # damaged bytes raise anything
            raise InputError(f"{path}: no mask of SBD ({error}); unpack benchmark.tgz anew") from None
    write_mask(masks / f"{image_id}.png", mask)


def _unpack(root: Path, place: str, url: str, file: str, md5: str, instead: str) -> None:
    """Download an archive into `root`, unless it is there, and put its folder `place` there, whole or not at all."""
    from torchvision.datasets.utils import download_and_extract_archive

    part = root / ".unpacked" / file  # so deep that VOCData does not find what is half there
    try:
        download_and_extract_archive(url, str(root), str(part), file, md5)
        (root / place).parent.mkdir(exist_ok=True)
        os.replace(part / place, root / place)
        shutil.rmtree(part.parent)
    except Exception as error:  # torchvision, urllib, tarfile and zlib raise a dozen types
        hint = f"get {file} by other means and put it into {root}, or {instead}; then give this command again"
        raise InputError(f"{url}: cannot be downloaded and unpacked ({error}); {hint}") from None


def convert_coco(root: Path, out: Path, splits: Sequence[str] = (), **where: Any) -> Iterator[tuple[str, list[str]]]:
    """Write COCO's objects as label maps, `out`/<split>/<id>.png; maps that are there are kept.

    Beside them go labels_<split>.csv, classes.txt, with _ for the spaces in names, and categories.csv with COCO's ids.

    Args:
        root, splits: as in `COCOData`; by default the splits of COCO 2014 that are there.
        out: the folder to write to.
        where: as in `map_images`.

    Yields:
        For each split, what was written, as text, and the maps that could not be drawn, with the reason.

    Raises:
        InputError: as in `COCOData`, or pycocotools is not installed.
    """
    data = COCOData(root)
    there = [split for split in COCO_SPLITS if (root / "annotations" / f"instances_{split}.json").is_file()]
    for split in splits or there or COCO_SPLITS:  # of those that are not there the message lists what is
        ids = data.ids(split)
        todo = [i for i in ids if not (out / split / f"{i}.png").exists()]
        draw = partial(_draw_map, data.categories, class_palette(data.class_names), out / split)
        drawn = map_images(draw, (data.record(i) for i in todo), **where)
        bar = tqdm(drawn, desc=split, total=len(ids), initial=len(ids) - len(todo), unit="image")
        problems = list(filter(None, bar))
        names = [name.replace(" ", "_") for name in data.class_names]  # in a table spaces separate labels
        labels = ((data.image_path(i).name, " ".join(names[c] for c in data.labels(i))) for i in ids)
        categories = ((c, coco_id, data.class_names[c]) for coco_id, c in data.categories.items())
        _write_table(out / f"labels_{split}.csv", ("image", "labels"), labels)
        _write_table(out / "categories.csv", ("id", "coco_id", "name"), categories)
        write_text(out / "classes.txt", "".join(f"{name}\n" for name in names[1:]))
        counts = f"{len(todo) - len(problems)} new label maps, {len(ids) - len(todo)} were there"
        yield f"{out / split}: {counts}, {len(problems)} cannot be drawn", problems


def _draw_map(categories: Mapping[int, int], palette: np.ndarray, folder: Path, image: CocoImage) -> str:
    """Write one label map; return why it cannot be drawn, if so."""
    try:
        write_mask(folder / f"{image.path.stem}.png", draw_mask(image, categories), palette)
    except MissingDependency:
        raise
    except InputError as error:
        return str(error)
    return ""


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows((header, *rows))
    write_text(path, text.getvalue())
