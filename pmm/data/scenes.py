"""Sample scenes: the embedded data set, composed on demand and written in the VOC layout.

How one scene is made is told in `pmm.data.composition`. A number measured on these scenes is not one on VOC.
"""

import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from pmm.data.composition import (
    MATERIAL,
    SCENE_CLASSES,
    SPLITS,
    Scene,
    SceneObject,
    compose_scene,
    scene_mask,
    split_objects,
)
from pmm.data.images import voc_palette, write_jpeg, write_mask
from pmm.data.voc import VOCData
from pmm.errors import InputError

__all__ = [
    "SCENE_CLASSES",
    "Scene",
    "SceneObject",
    "ScenesData",
    "compose_scene",
    "compose_scenes",
    "scene_mask",
    "split_objects",
]

_RECORD = "scenes.json"


class ScenesData(VOCData):
    """Composed sample scenes, read through their VOC layout but never called VOC.

    Args:
        root: the folder that `compose_scenes` wrote.

    Raises:
        InputError: the folder holds no composed scenes.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(root, name="sample scenes")


def compose_scenes(
    root: str | Path,
    *,
    n_train: int,
    n_val: int,
    width: int = 320,
    height: int = 240,
    seed: int = 0,
    n_jobs: int = 1,
    progress: bool = True,
) -> ScenesData:
    """Compose a data set of sample scenes and write it in the VOC layout.

    Scene i of a split depends on the seed, the split and i alone, so a larger set begins with the
    smaller one. The folder appears at the end, complete, and replaces an earlier set of scenes.

    Args:
        root: folder to write; it may hold an earlier set of scenes, and nothing else.
        n_train: number of training scenes, at least 1.
        n_val: number of validation scenes, at least 1.
        width: width of a scene in pixels, 32 to 4096.
        height: height of a scene in pixels, 32 to 4096.
        seed: seed of the scenes, at least 0.
        n_jobs: processes, as joblib counts them (-1: one a core).
        progress: show a progress bar.

    Returns:
        the data set, ready to read.

    Raises:
        InputError: a number is out of range, or `root` holds something else than scenes.
    """
    root = Path(root).absolute()
    record = {"n_train": n_train, "n_val": n_val, "width": width, "height": height, "seed": seed}
    _check_numbers(record)
    _check_replaceable(root)
    part = root.with_name(f".{root.name}.part")  # left by a killed run: nobody else uses this name
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write_set(part, record, n_jobs, progress)
        _put_in_place(part, root)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return ScenesData(root)


def _write_set(root: Path, record: dict[str, int], n_jobs: int, progress: bool) -> None:
    """Write scenes, lists and names."""
    names = [(split, index) for split in SPLITS for index in range(record[f"n_{split}"])]
    for folder in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    size = {key: record[key] for key in ("width", "height", "seed")}
    work = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(_write_scene)(root, split, index, size) for split, index in names
    )
    for _ in tqdm(work, total=len(names), desc="scenes", unit="scene", disable=not progress):
        pass
    for split in SPLITS:
        lines = "".join(f"{_scene_id(split, i)}\n" for s, i in names if s == split)
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(lines, encoding="utf-8", newline="\n")
    (root / "classes.txt").write_text("\n".join(SCENE_CLASSES) + "\n", encoding="utf-8", newline="\n")
    shutil.copy(MATERIAL / "NOTICE.md", root / "NOTICE.md")
    shutil.copy(MATERIAL / "COPYING", root / "COPYING")
    (root / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8", newline="\n")


def _scene_id(split: str, index: int) -> str:
    return f"{split}_{index + 1:04d}"


def _write_scene(root: Path, split: str, index: int, size: dict[str, int]) -> None:
    """Compose and write one scene: image, mask and annotation."""
    scene = compose_scene(split, index, **size)
    name = _scene_id(split, index)
    write_jpeg(root / "JPEGImages" / f"{name}.jpg", scene.image, quality=95)
    write_mask(root / "SegmentationClass" / f"{name}.png", scene_mask(scene), voc_palette())
    tree = ElementTree.ElementTree(_annotation(scene, name))
    ElementTree.indent(tree)
    tree.write(root / "Annotations" / f"{name}.xml", encoding="utf-8")


def _annotation(scene: Scene, name: str) -> ElementTree.Element:
    """VOC's XML: every object with its class and the box around its visible pixels, counted from 1."""
    top = ElementTree.Element("annotation")
    for key, value in (("folder", "sample scenes"), ("filename", f"{name}.jpg"), ("segmented", 1)):
        _add(top, key, value)
    size = _add(top, "size")
    height, width = scene.instances.shape
    for key, value in (("width", width), ("height", height), ("depth", 3)):
        _add(size, key, value)
    for number, obj in enumerate(scene.objects, start=1):
        entry = _add(top, "object")
        rows, columns = np.nonzero(scene.instances == number)
        values = (
            ("name", obj.class_name),
            ("cutout", obj.cutout),
            ("truncated", int(obj.truncated)),
            ("difficult", 0),
        )
        for key, value in values:
            _add(entry, key, value)
        box = _add(entry, "bndbox")
        corners = {"xmin": columns.min(), "ymin": rows.min(), "xmax": columns.max(), "ymax": rows.max()}
        for key, value in corners.items():
            _add(box, key, value + 1)
    return top


def _add(parent: ElementTree.Element, tag: str, value: object = None) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag)
    if value is not None:
        child.text = str(value)
    return child


def _check_numbers(record: dict[str, int]) -> None:
    """Refuse numbers out of range, by name."""
    limits = {"n_train": (1, 1_000_000), "n_val": (1, 1_000_000), "width": (32, 4096), "height": (32, 4096)}
    for name, (low, high) in {**limits, "seed": (0, 2**63)}.items():
        if isinstance(record[name], bool) or not isinstance(record[name], int) or not low <= record[name] <= high:
            raise InputError(f"{name}: found {record[name]!r}; give a whole number from {low} to {high}")


def _check_replaceable(root: Path) -> None:
    """Refuse to replace anything but scenes."""
    if root.is_dir() and not (root / _RECORD).is_file() and any(root.iterdir()):
        raise InputError(f"{root}: holds files that are no sample scenes; name a new or an empty folder")
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: is a file; name a new or an empty folder")


def _put_in_place(part: Path, root: Path) -> None:
    """Rename the finished set to its name, away with the earlier one."""
    shutil.rmtree(root, ignore_errors=True)
    os.replace(part, root)
