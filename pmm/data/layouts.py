"""Data sets as they lie in folders: Pascal VOC's layout, COCO's layout, and a reader's own images with a table."""

import csv
import json
import xml.etree.ElementTree as ElementTree
from array import array
from collections import Counter
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pmm.data.images import SegmentationData, index_images
from pmm.errors import InputError, MissingDependency
from pmm.method import IGNORE_INDEX
from pmm.method.cam import MAX_CLASS_ID

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)

_VOC_PLACES = ("", "VOC2012", "VOCdevkit/VOC2012", "*/VOCdevkit/VOC2012", "..")
_VOC_SPLITS = {"train": 1464, "val": 1449, "trainval": 2913}
_COCO_SPLITS = {"train2014": 82783, "val2014": 40504}


class VOCData(SegmentationData):
    """A data set in the VOC layout: images, image-level labels from the XML files, masks for evaluation.

    Its classes are VOC's 20, or those of classes.txt in the folder with JPEGImages, which becomes `root`.

    Args:
        root: the VOC2012 folder, the VOCdevkit folder or the folder that holds it.
        name: what tables and figures call the set; defaults to "VOC 2012" where a split has the official number of
            images (a number measured on a part of VOC is not VOC's), and to "VOC-format set" otherwise.

    Raises:
        InputError: no folder in the VOC layout is found, or classes.txt is wrong.
    """

    def __init__(self, root: str | Path, name: str | None = None) -> None:
        self.root = _find_root(Path(root))
        listed = self.root / "classes.txt"
        self.class_names = read_class_names(listed) if listed.is_file() else VOC_CLASSES
        self.name = name or ("VOC 2012" if self._is_official() else "VOC-format set")

    def ids(self, split: str) -> list[str]:
        """As in `SegmentationData`; a split is a file in ImageSets/Segmentation: "train", "val", "train_aug" ..."""
        path = self._list(split)
        if not path.is_file():
            found = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
            raise InputError(f"{path}: no split {split!r}; splits that exist: {found}")
        ids = [_first_stem(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        _check_ids(ids, self._images, split, path)
        return ids

    def image_path(self, image_id: str) -> Path:
        """As in `SegmentationData`: the file in JPEGImages."""
        if image_id not in self._images:
            raise InputError(f"{self.root / 'JPEGImages'}: no image {image_id!r}; add it or correct the id")
        return self._images[image_id]

    def mask_source(self, image_id: str) -> Path:
        """As in `SegmentationData`: VOC's mask, or that of the augmented set (SBD) where VOC has none."""
        path = self.root / "SegmentationClass" / f"{image_id}.png"
        augmented = self.root / "SegmentationClassAug" / path.name
        return augmented if augmented.is_file() and not path.is_file() else path

    def labels(self, image_id: str) -> tuple[int, ...]:
        """As in `SegmentationData`: the classes of the objects in the XML file, those marked difficult included.

        InputError where the XML file is missing, malformed, has a DOCTYPE, or names an unknown class.
        """
        path = self.root / "Annotations" / f"{image_id}.xml"
        names = {(obj.findtext("name") or "").strip() for obj in _parse_xml(path).iter("object")}
        return _class_ids_of(names, self.class_names, path)

    @cached_property
    def _images(self) -> dict[str, Path]:
        return index_images(self.root / "JPEGImages")

    def _list(self, split: str) -> Path:
        return self.root / "ImageSets" / "Segmentation" / f"{split}.txt"

    def _is_official(self) -> bool:
        lists = ((self._list(split), n) for split, n in _VOC_SPLITS.items())
        return self.class_names == VOC_CLASSES and any(
            path.is_file() and len(path.read_bytes().split()) == n for path, n in lists
        )


def _find_root(root: Path) -> Path:
    """The folder with JPEGImages at, below or (for JPEGImages itself) above `root`."""
    for place in _VOC_PLACES:
        for folder in sorted(root.glob(place)) if "*" in place else [root / place]:
            if (folder / "JPEGImages").is_dir() and (place != ".." or root.name == "JPEGImages"):
                return folder.resolve() if place == ".." else folder
    found = "no such folder" if not root.is_dir() else "no JPEGImages in it, in VOC2012/ or in VOCdevkit/VOC2012/"
    wanted = "JPEGImages, Annotations, ImageSets/Segmentation and SegmentationClass"
    raise InputError(f"{root}: {found}; name the folder that holds {wanted}")


def _first_stem(line: str) -> str:
    """The id on a line of a split: some lists name the image's path and the mask's path."""
    path = Path(line.split()[0])
    return path.stem if path.suffix.lower() in (".jpg", ".jpeg", ".png") else path.name


def _parse_xml(path: Path) -> ElementTree.Element:
    """Parse an annotation; a DOCTYPE is refused, since its entities can grow without bound."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if "\0" in text:  # expat would take it for UTF-16 and find a DOCTYPE that the check below cannot see
            raise ValueError("found a zero byte")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; image-level labels are read from it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); write VOC's XML in UTF-8") from None
    if "<!DOCTYPE" in text.upper():
        raise InputError(f"{path}: found a DOCTYPE; VOC's annotations have none, remove it")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: not valid XML ({error}); write the annotation anew") from None


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
        self._categories: dict[int, int] = {}
        self._class_names: tuple[str, ...] = ()
        if not files:
            raise InputError(f"{root}: no annotations/instances_<split>.json; name COCO's folder that holds it")

    @property
    def name(self) -> str:
        """What tables and figures call the set."""
        whole = any(len(images) == _COCO_SPLITS.get(split) for split, images in self._splits.items())
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
        _check_ids(ids, index_images(folder) if folder.is_dir() else (), split, self._files[split])
        return ids

    def image_path(self, image_id: str) -> Path:
        """As in `SegmentationData`: the file in the split's folder."""
        return self._record(image_id).path

    def has_mask(self, image_id: str) -> bool:
        """Whether a split names the image: every annotated image has a ground truth."""
        try:
            return bool(self._record(image_id))
        except InputError:
            return False

    def mask(self, image_id: str) -> np.ndarray:
        """As in `SegmentationData`: crowds are unknown, smaller objects lie on larger ones.

        InputError where an outline is malformed, MissingDependency where pycocotools is not installed.
        """
        record = self._record(image_id)
        mask = np.zeros(record.size, np.uint8)
        for region in sorted(record.regions, key=lambda r: (not r.crowd, -r.area)):
            value = IGNORE_INDEX if region.crowd else self._categories[region.category]
            mask[_rasterise(region.outline, record)] = value
        return mask

    def mask_source(self, image_id: str) -> Path:
        """As in `SegmentationData`: the annotation file of the image's split; InputError where no split names it."""
        return self._record(image_id).source

    def labels(self, image_id: str) -> tuple[int, ...]:
        """As in `SegmentationData`: the categories of the annotations, crowds included."""
        return tuple(sorted({self._categories[region.category] for region in self._record(image_id).regions}))

    def _record(self, image_id: str) -> CocoImage:
        """Find an image, first in the splits that are read already."""
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
            except (KeyError, TypeError, AttributeError) as error:
                reason = f"{type(error).__name__}: {error}"
                raise InputError(f"{path}: not in COCO's format ({reason}); download the file anew") from None
        return self._splits[split]

    def _take_categories(self, categories: list[dict[str, Any]], path: Path) -> None:
        """Number the categories 1 .. n in the order of their ids; all splits must agree."""
        in_order = sorted(categories, key=lambda category: category["id"])
        names = _with_background([category["name"] for category in in_order], path)
        if self._class_names and names != self._class_names:
            raise InputError(f"{path}: its categories differ from those of the other splits; use files of one set")
        self._class_names = names
        self._categories = {category["id"]: i for i, category in enumerate(in_order, start=1)}

    def _index(self, content: dict[str, Any], path: Path, folder: Path) -> dict[str, CocoImage]:
        """Group the objects by image."""
        images = {}
        for entry in content["images"]:
            size = (int(entry["height"]), int(entry["width"]))
            images[entry["id"]] = CocoImage(folder / entry["file_name"], path, size, [])
        for region in content["annotations"]:
            if not isinstance(region, Region):
                raise InputError(f"{path}: found an annotation without segmentation; take the instances_ file")
            if region.image not in images:
                raise InputError(f"{path}: an annotation names unknown image {region.image}; download the file anew")
            if region.category not in self._categories:
                raise InputError(f"{path}: found unknown category {region.category}; download the file anew")
            images[region.image].regions.append(region)
        by_id = {image.path.stem: image for image in images.values()}
        if len(by_id) < len(content["images"]):
            raise InputError(f"{path}: names an image twice; download the file anew")
        return by_id


def _read_json(path: Path) -> dict[str, Any]:
    """Read an annotation file, each annotation made compact as it is met: the full set has 600,000."""
    try:
        content = json.loads(path.read_bytes(), object_hook=_compact)
    except (OSError, ValueError, KeyError, TypeError) as error:
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
    crowd = bool(entry.get("iscrowd", 0))
    return Region(entry["image_id"], entry["category_id"], crowd, float(entry.get("area", 0)), outline)


def _rasterise(outline: list[array] | dict[str, Any], record: CocoImage) -> np.ndarray:
    """(H, W) bool of polygons or of a run-length code, by COCO's own code."""
    try:
        from pycocotools import mask as coco_mask
    except ImportError:
        raise MissingDependency("pycocotools is not installed; COCO's masks need it: pip install pmm[coco]") from None
    height, width = record.size
    try:
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


class Entry(NamedTuple):
    """One line of the table of a `FolderData`."""

    path: Path
    names: frozenset[str]  # of its classes
    split: str


class FolderData(SegmentationData):
    """Your own images: a folder with one table of image-level labels.

        images/*            JPEG, PNG, ...
        labels.csv          columns image, labels (class names separated by spaces) and, if wanted, split
        classes.txt         if wanted: class names, one a line, in the order of the class ids; else those in the
                            table, sorted
        masks/<image>.png   if wanted: index masks, for evaluation only

    Args:
        root: the folder with `images` and `labels.csv`.
        name: what tables and figures call the set; defaults to the folder's name.

    Raises:
        InputError: `images` or `labels.csv` is missing.
        InputError: the table lacks a column, or names an image twice, a missing image or an unknown class.
    """

    def __init__(self, root: str | Path, name: str | None = None) -> None:
        self.root = Path(root)
        self.name = name or self.root.resolve().name
        self._table, listed = self.root / "labels.csv", self.root / "classes.txt"
        if not (self.root / "images").is_dir() or not self._table.is_file():
            found = "no images/ or no labels.csv in it" if self.root.is_dir() else "no such folder"
            raise InputError(f"{root}: {found}; name the folder that holds images/ and labels.csv")
        self._entries = _read_entries(self._table, self.root / "images")
        found_names = sorted(set().union(*(entry.names for entry in self._entries.values())))
        self.class_names = read_class_names(listed) if listed.is_file() else _with_background(found_names, self._table)
        self._labels = {i: _class_ids_of(e.names, self.class_names, self._table) for i, e in self._entries.items()}

    def ids(self, split: str) -> list[str]:
        """As in `SegmentationData`: the images whose column split holds `split`; without it all are in "train"."""
        ids = [image_id for image_id, entry in self._entries.items() if entry.split == split]
        if not ids:
            found = ", ".join(sorted({entry.split for entry in self._entries.values()}))
            raise InputError(f"{self._table}: no split {split!r}; splits that exist: {found}")
        return ids

    def image_path(self, image_id: str) -> Path:
        """As in `SegmentationData`: the file in `images`."""
        if image_id not in self._entries:
            raise InputError(f"{self._table}: no image {image_id!r}; add a line or correct the id")
        return self._entries[image_id].path

    def mask_source(self, image_id: str) -> Path:
        """As in `SegmentationData`: the file in `masks`."""
        return self.root / "masks" / f"{image_id}.png"

    def labels(self, image_id: str) -> tuple[int, ...]:
        """As in `SegmentationData`: the names in the column labels."""
        self.image_path(image_id)  # refuses an unknown id
        return self._labels[image_id]


def _read_entries(table: Path, folder: Path) -> dict[str, Entry]:
    """Image id -> line of the table, each checked against the images that exist."""
    entries: dict[str, Entry] = {}
    known = index_images(folder)
    for number, row in _read_rows(table):
        cell = row["image"].strip()
        path = known.get(Path(cell).stem)
        path = path if path is not None and path.name == cell else known.get(cell, folder / cell)
        if not cell or path.parent != folder or not path.is_file():
            raise InputError(f"{table}, line {number}: no image {cell!r} in {folder}; add it or correct the name")
        if path.stem in entries:
            raise InputError(f"{table}, line {number}: image {path.stem!r} appears twice; name each image once")
        names = frozenset(row["labels"].split())
        if "background" in names:
            raise InputError(f"{table}, line {number}: 'background' is no label; leave it out, every image has it")
        entries[path.stem] = Entry(path, names, (row.get("split") or "train").strip())
    if not entries:
        raise InputError(f"{table}: lists no image; write one line an image below the header image,labels")
    return entries


def _read_rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and rows of the table, which must have the columns image and labels."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: cannot be read ({error}); save it as comma-separated UTF-8") from None
    if not {"image", "labels"} <= set(columns):
        raise InputError(f"{table}: found the columns {', '.join(columns) or 'none'}; the header is image,labels")
    for number, row in rows:
        if None in row or None in row.values():
            cells = "found more or fewer cells than columns"
            raise InputError(f"{table}, line {number}: {cells}; separate labels by spaces")
    return rows


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read class names, one a line; "background" is put first unless it stands there.

    InputError where the file is no text, has no class, a class twice, or more than 254.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); write one class name a line, UTF-8") from None
    return _with_background([line.strip() for line in lines if line.strip()], path)


def _with_background(names: list[str], path: Path) -> tuple[str, ...]:
    """Put "background" first unless it stands there, and check the names, which come from the file `path`."""
    names = names[1:] if names[:1] == ["background"] else names
    twice = sorted({name for name in names if names.count(name) > 1 or name == "background"})
    if twice:
        raise InputError(f"{path}: found {twice[0]!r} twice or in the wrong place; name each class once")
    if not 1 <= len(names) <= MAX_CLASS_ID:
        raise InputError(f"{path}: found {len(names)} classes; an index mask holds 1 to {MAX_CLASS_ID}")
    return ("background", *names)


def _class_ids_of(names: Collection[str], class_names: tuple[str, ...], path: Path) -> tuple[int, ...]:
    """Sorted class ids of the names found in the file `path`, each of which must be a class."""
    unknown = sorted(set(names) - set(class_names[1:]))
    if unknown:
        known = ", ".join(class_names[1:6]) + (", ..." if len(class_names) > 6 else "")
        raise InputError(f"{path}: found unknown class {unknown[0]!r}; the classes are {known}")
    return tuple(sorted(map(class_names.index, names)))


def _check_ids(ids: list[str], known: Collection[str], split: str, path: Path) -> None:
    """Check that a split, which `path` lists, has images, each once and each among the `known` that exist."""
    if not ids:
        raise InputError(f"{path}: split {split!r} lists no image; write one image id a line")
    missing = [image_id for image_id in ids if image_id not in known]
    if missing:
        count = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"{path}: split {split!r} names image {missing[0]!r}{count} that does not exist; add it")
    twice, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise InputError(f"{path}: split {split!r} names image {twice!r} twice; remove one line")
