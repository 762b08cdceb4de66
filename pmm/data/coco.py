"""COCO 2014 (and any set in its layout): one JSON file a split, polygons turned into masks on demand."""

import json
import math
import re
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pmm.data.images import SegmentationData, image_size, index_images
from pmm.data.voc import check_ids, with_background
from pmm.errors import InputError, MissingDependency
from pmm.files import plain_file
from pmm.method import IGNORE_INDEX

COCO_SPLITS = {"train2014": 82783, "val2014": 40504}  # name -> number of images


MAX_SIDE = 1 << 15  # pixels; more is a mistake, and its mask would fill the memory


class Region(NamedTuple):
    """One annotated object of COCO."""

    image: int
    category: int  # in the file's numbering
    crowd: bool
    area: float  # pixels
    outline: list[array] | dict[str, Any]  # polygons x, y, x, y ..., or a run-length code


class CocoImage(NamedTuple):
    """One image of a COCO split and its objects."""

    path: Path
    source: Path  # the annotation file
    size: tuple[int, int]  # height, width
    regions: list[Region]


class COCOData(SegmentationData):
    """COCO 2014, or any set in its layout: annotations/instances_<split>.json and the images in <split>/.

    A split's JSON file is read once, when the split is first asked for; no image is opened for it. COCO numbers its 80
    categories with gaps; here they are 1 .. 80 in the order of those numbers. Polygons become masks on demand.

    Args:
        root: the folder that holds `annotations`.
        name: what tables and figures call the set; defaults to "COCO 2014" where a split that was read has the official
            number of images, and to "COCO-format set" otherwise.

    Raises:
        InputError: there is no annotations folder with an instances_<split>.json.
    """

    def __init__(self, root: str | Path, name: str | None = None) -> None:
        self.root, self._name = Path(root), name
        files = sorted((self.root / "annotations").glob("instances_*.json"))
        self._files = {path.stem.removeprefix("instances_"): path for path in files}
        self._splits: dict[str, dict[str, CocoImage]] = {}
        self.categories: dict[int, int] = {}  # COCO's id -> class id, once a split was read
        self._class_names: tuple[str, ...] = ()
        if not files:
            raise InputError(f"{root}: no annotations/instances_<split>.json; name COCO's folder that holds it")

    @property
    def name(self) -> str:
        """What tables and figures call the set."""
        whole = any(len(images) == COCO_SPLITS.get(split) for split, images in self._splits.items())
        return self._name or ("COCO 2014" if whole else "COCO-format set")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, "background" at index 0; reads the smallest annotation file if none is read yet."""
        if not self._class_names:
            self._split(min(self._files, key=lambda split: self._files[split].stat().st_size))
        return self._class_names

    def ids(self, split: str) -> list[str]:
        """As in `SegmentationData`: the file names without suffix; a split is such as "train2014"."""
        ids, folder = list(self._split(split)), self.root / split
        check_ids(ids, index_images(folder) if folder.is_dir() else (), split, self._files[split])
        return ids

    def image_path(self, image_id: str) -> Path:
        """As in `SegmentationData`: the file in the split's folder."""
        return self.record(image_id).path

    def has_mask(self, image_id: str) -> bool:
        """Whether a split names the image: every annotated image has a ground truth."""
        try:
            return bool(self.record(image_id))
        except InputError:
            return False

    def mask(self, image_id: str) -> np.ndarray:
        """As in `SegmentationData`, by `draw_mask`."""
        return draw_mask(self.record(image_id), self.categories)

    def mask_source(self, image_id: str) -> Path:
        """As in `SegmentationData`: the annotation file of the image's split; InputError where no split names it."""
        return self.record(image_id).source

    def labels(self, image_id: str) -> tuple[int, ...]:
        """As in `SegmentationData`: the categories of the annotations, crowds included."""
        return tuple(sorted({self.categories[region.category] for region in self.record(image_id).regions}))

    def record(self, image_id: str) -> CocoImage:
        """Return an image's entry, found first in the splits that are read already; InputError for an unknown id."""
        for split in sorted(self._files, key=lambda split: split not in self._splits):
            if image_id in self._split(split):
                return self._splits[split][image_id]
        raise InputError(f"{self.root}: no image {image_id!r} in {', '.join(self._files)}; correct the id")

    def _split(self, split: str) -> dict[str, CocoImage]:
        """Read a split's file, once."""
        if split not in self._files:
            found = ", ".join(self._files)
            raise InputError(f"{self.root}: no annotations/instances_{split}.json; splits that exist: {found}")
        if split not in self._splits:
            path = self._files[split]
            content = _read_json(path)
            try:
                self._take_categories(content["categories"], path)
                self._splits[split] = self._index(content, path, self.root / split)
            except InputError:
                raise
            except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
                reason = f"{type(error).__name__}: {error}"
                raise InputError(f"{path}: not in COCO's format ({reason}); download the file anew") from None
        return self._splits[split]

    def _take_categories(self, categories: list[dict[str, Any]], path: Path) -> None:
        """Number the categories 1 .. n in the order of their ids; all splits must agree."""
        in_order = sorted(categories, key=lambda category: category["id"])
        names = with_background([category["name"] for category in in_order], path)
        if self._class_names and names != self._class_names:
            raise InputError(f"{path}: its categories differ from those of the other splits; use files of one set")
        self._class_names = names
        self.categories = {category["id"]: i for i, category in enumerate(in_order, start=1)}
        if len(self.categories) < len(in_order):
            raise InputError(f"{path}: numbers two categories alike; download the file anew")

    def _index(self, content: dict[str, Any], path: Path, folder: Path) -> dict[str, CocoImage]:
        """Group the objects by image."""
        images = {}
        first, asked = next((entry["file_name"] for entry in content["images"]), ""), folder.name[-4:]
        if asked.isdigit() and (year := _year(first)) not in ("", asked):
            raise InputError(f"{path}: has images of COCO {year}, such as {first}; take the file of COCO {asked}")
        for entry in content["images"]:
            size = (entry["height"], entry["width"])
            if not all(isinstance(side, int) and 0 < side < MAX_SIDE for side in size):
                raise ValueError(f"an image of {str(size[1])[:20]} x {str(size[0])[:20]} px")
            if entry["file_name"] != Path(entry["file_name"]).name:
                raise ValueError(f"the file name {entry['file_name'][:80]!r} leads to another folder")
            images[entry["id"]] = CocoImage(folder / entry["file_name"], path, size, [])
        for region in content["annotations"]:
            if not isinstance(region, Region):
                raise InputError(f"{path}: found an annotation without segmentation; take the instances_ file")
            if region.image not in images:
                raise InputError(f"{path}: an annotation names unknown image {region.image}; download the file anew")
            if region.category not in self.categories:
                raise InputError(f"{path}: found unknown category {region.category}; download the file anew")
            images[region.image].regions.append(region)
        by_id = {image.path.stem: image for image in images.values()}
        if len(by_id) < len(content["images"]):
            raise InputError(f"{path}: names an image twice; download the file anew")
        return by_id


def draw_mask(image: CocoImage, categories: Mapping[int, int]) -> np.ndarray:
    """Draw the objects of an image: crowds are unknown, smaller objects lie on larger ones.

    Args:
        image: its entry.
        categories: COCO's id -> class id.

    Returns:
        (H,W) uint8.

    Raises:
        InputError: an outline is malformed, or the file has another size than its entry.
        MissingDependency: pycocotools is not installed.
    """
    if (size := image_size(image.path)[::-1]) != image.size:
        sizes = " and ".join(f"{width} x {height} px" for height, width in (image.size, size))
        raise InputError(f"{image.path}: {image.source.name} and the file have {sizes}; take files of one set")
    mask = np.zeros(image.size, np.uint8)
    for region in sorted(image.regions, key=lambda r: (not r.crowd, -r.area)):
        value = IGNORE_INDEX if region.crowd else categories[region.category]
        mask[_rasterise(region.outline, image)] = value
    return mask


def _year(file_name: str) -> str:
    """Tell when COCO named an image so: COCO_train2014_ and twelve digits, since 2017 the digits alone; else empty."""
    found = re.fullmatch(r"(?:COCO_[a-z]+(\d{4})_)?\d{12}\.jpg", file_name)
    return (found[1] or "2017") if found else ""


def _read_json(path: Path) -> dict[str, Any]:
    """Read an annotation file, each annotation made compact as it is met: the full set has 600,000."""
    plain_file(path)
    try:
        content = json.loads(path.read_bytes(), object_hook=_compact)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: cannot be read as JSON ({reason}); download the file anew") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}; COCO's file is one JSON object")
    return content


def _compact(entry: dict[str, Any]) -> dict[str, Any] | Region:
    """An annotation as a `Region`, with numbers in arrays; everything else as it is."""
    if "segmentation" not in entry or "category_id" not in entry:
        return entry
    outline = entry["segmentation"]
    if isinstance(outline, list):  # a polygon has three corners or more
        outline = [array("d", polygon) for polygon in outline if len(polygon) >= 6]
    crowd, area = entry.get("iscrowd", 0), float(entry.get("area", 0))
    if crowd not in (0, 1) or not math.isfinite(area):
        raise ValueError(f"iscrowd {str(crowd)[:20]}, area {area}")
    return Region(entry["image_id"], entry["category_id"], bool(crowd), area, outline)


def _rasterise(outline: list[array] | dict[str, Any], record: CocoImage) -> np.ndarray:
    """(H, W) bool of polygons or of a run-length code, by COCO's own code."""
    try:
        from pycocotools import mask as coco_mask
    except ImportError:
        raise MissingDependency("pycocotools is not installed; COCO's masks need it: pip install pycocotools") from None
    height, width = record.size
    try:
        _check_outline(outline, height * width)
        if isinstance(outline, dict):
            coded = isinstance(outline["counts"], str | bytes)
            codes = [outline if coded else coco_mask.frPyObjects(outline, height, width)]
        else:
            codes = coco_mask.frPyObjects([list(polygon) for polygon in outline], height, width) if outline else []
        if any(tuple(code["size"]) != record.size for code in codes):
            raise ValueError(f"its size differs from the image's {width} x {height} px")
        return coco_mask.decode(coco_mask.merge(codes)).astype(bool) if codes else np.zeros(record.size, bool)
    except Exception as error:  # pycocotools raises plain Exception
        reason = " ".join(str(error).split())
        raise InputError(f"{record.path.name}: an outline cannot be drawn ({reason}); correct the annotation") from None


def _check_outline(outline: list[array] | dict[str, Any], pixels: int) -> None:
    """Refuse what pycocotools would draw wrongly or beyond its memory; ValueError says why."""
    if not isinstance(outline, dict):
        if any(len(polygon) % 2 or not all(abs(value) <= MAX_SIDE for value in polygon) for polygon in outline):
            raise ValueError(f"coordinates without a partner, or beyond {MAX_SIDE}")
        return
    counts = outline["counts"]
    lengths = _run_lengths(counts) if isinstance(counts, str) else counts
    if not all(isinstance(n, int) and n >= 0 for n in lengths) or sum(lengths) != pixels:
        raise ValueError(f"its runs do not fill the image's {pixels} pixels")


def _run_lengths(text: str) -> list[int]:
    """Decode COCO's run lengths: groups of five bits and, from the fourth on, differences to the last but one."""
    lengths, value, shift = [], 0, 0
    for code in (byte - 48 for byte in text.encode("ascii")):
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:  # the last group, which holds the sign
            lengths.append(value - ((code >> 4 & 1) << shift) + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return lengths
