"""Pascal VOC 2012, and any data set in its folder layout; and what the readers of labels share."""

import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pmm.data.cams import read_arrays
from pmm.data.images import VOC_CLASSES, SegmentationData, index_images
from pmm.errors import InputError
from pmm.files import plain_file
from pmm.method.cam import MAX_CLASS_ID

_VOC_PLACES = ("", "VOC2012", "VOCdevkit/VOC2012", "*/VOCdevkit/VOC2012", "..")
_LABEL_VECTORS = "cls_labels.npy"  # as IRN, SEAM and others share it
_SBD = "train_aug"  # the usual name of VOC's training images together with SBD's
SBD_LIST, SBD_MASKS = "ImageSets/Segmentation/train_aug.txt", "SegmentationClassAug"
_VOC_SPLITS = {"train": 1464, "val": 1449, "trainval": 2913}


class VOCData(SegmentationData):
    """A data set in the VOC layout: images, image-level labels from the XML files, masks for evaluation.

    Its classes are VOC's 20, or those of classes.txt in the folder with JPEGImages, which becomes `root`. Without the
    folder Annotations the labels come from cls_labels.npy beside JPEGImages, see `read_label_vectors`.

    Args:
        root: the VOC2012 folder, the VOCdevkit folder or the folder that holds it.
        name: what tables and figures call the set; defaults to "VOC 2012" where a split has the official number of
            images (a number measured on a part of VOC is not VOC's), and to "VOC-format set" otherwise.

    Raises:
        InputError: no folder in the VOC layout is found, or classes.txt or cls_labels.npy is wrong.
    """

    def __init__(self, root: str | Path, name: str | None = None) -> None:
        self.root = _find_root(Path(root))
        listed = self.root / "classes.txt"
        self.class_names = read_class_names(listed) if listed.is_file() else VOC_CLASSES
        vectors = self.root / _LABEL_VECTORS
        by_vectors = vectors.is_file() and not (self.root / "Annotations").is_dir()
        self._vectors = read_label_vectors(vectors, self.class_names)[1] if by_vectors else None
        self.name = name or ("VOC 2012" if self._is_official() else "VOC-format set")

    def ids(self, split: str) -> list[str]:
        """As in `SegmentationData`; a split is a file in ImageSets/Segmentation: "train", "val", "train_aug" ..."""
        path = self._list(split)
        if not path.is_file():
            found = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
            hint = f"; download SBD's list as {SBD_LIST} and its masks into {SBD_MASKS}/" if split == _SBD else ""
            raise InputError(f"{path}: no split {split!r}; splits that exist: {found}{hint}")
        ids = [_first_stem(line) for line in _read_lines(path, "image id")]
        check_ids(ids, self._images, split, path)
        return ids

    def image_path(self, image_id: str) -> Path:
        """As in `SegmentationData`: the file in JPEGImages."""
        if image_id not in self._images:
            raise InputError(f"{self.root / 'JPEGImages'}: no image {image_id!r}; add it or correct the id")
        return self._images[image_id]

    def mask_source(self, image_id: str) -> Path:
        """As in `SegmentationData`: VOC's mask, or that of the augmented set (SBD) where VOC has none."""
        path = self.root / "SegmentationClass" / f"{image_id}.png"
        augmented = self.root / SBD_MASKS / path.name
        return augmented if augmented.is_file() and not path.is_file() else path

    def mask(self, image_id: str) -> np.ndarray:
        """As in `SegmentationData`."""
        self.image_path(image_id)  # refuses an unknown id
        if not (path := self.mask_source(image_id)).is_file():
            hint = f"for images beyond VOC's own, download SBD's masks into {SBD_MASKS}/"
            raise InputError(f"{path}: no such file; the ground truth is read from it ({hint})")
        return super().mask(image_id)

    def labels(self, image_id: str) -> tuple[int, ...]:
        """As in `SegmentationData`: the classes of the objects in the XML file, those marked difficult included.

        InputError where the XML file is missing, malformed, has a DOCTYPE, or names an unknown class, or where
        cls_labels.npy is read and does not know the image.
        """
        if self._vectors is not None:
            if image_id in self._vectors:
                return self._vectors[image_id]
            raise InputError(f"{self.root / _LABEL_VECTORS}: no labels of image {image_id!r}; add them, or Annotations")
        path = self.root / "Annotations" / f"{image_id}.xml"
        names = {(obj.findtext("name") or "").strip() for obj in _parse_xml(path).iter("object")}
        return class_ids_of(names, self.class_names, path)

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
    wanted = "the folder that holds JPEGImages, Annotations, ImageSets/Segmentation and SegmentationClass"
    near = (*Path(os.path.realpath(root)).parents, *(path.parent for path in sorted(root.glob("*/*/JPEGImages"))))
    right = next((str(folder) for folder in near if (folder / "JPEGImages").is_dir()), "")
    raise InputError(f"{root}: {found}; name {right and f'{right}, '}{wanted}")


def _first_stem(line: str) -> str:
    """The id on a line of a split: some lists name the image's path and the mask's path."""
    path = Path(line.split()[0])
    return path.stem if path.suffix.lower() in (".jpg", ".jpeg", ".png") else path.name


def _parse_xml(path: Path) -> ElementTree.Element:
    """Parse an annotation; a DOCTYPE is refused, since its entities can grow without bound."""
    plain_file(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if "\0" in text:  # expat would take it for UTF-16 and find a DOCTYPE that the check below cannot see
            raise ValueError("found a zero byte")
    except FileNotFoundError:
        hint = f"VOC 2012's Annotations/ has one for each image, SBD's included; without that folder, {_LABEL_VECTORS}"
        raise InputError(f"{path}: no such file; image-level labels are read from it ({hint})") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); write VOC's XML in UTF-8") from None
    if "<!DOCTYPE" in text.upper():
        raise InputError(f"{path}: found a DOCTYPE; VOC's annotations have none, remove it")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: not valid XML ({error}); write the annotation anew") from None


def read_label_vectors(
    path: Path, names: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """Read the labels that IRN, SEAM and others share: a dict {image id: vector of a 0 or 1 for each class}.

    Args:
        path: the .npy file.
        names: class names, "background" first; by default VOC's for vectors of 20, else class1, class2 ...

    Returns:
        The class names, and image id -> sorted class ids.

    Raises:
        InputError: as in `read_arrays`; it is no such dict, or its vectors differ in length from each other or `names`.
    """
    content = read_arrays(path)
    vectors = {key: np.asarray(value) for key, value in content.items()} if isinstance(content, dict) else {}
    lengths = {value.shape for value in vectors.values()}
    if len(lengths) != 1 or len(length := lengths.pop()) != 1:
        raise InputError(
            f"{path}: a vector of labels an image expected, all of one length; write it as IRN's cls_labels.npy"
        )
    if wrong := [key for key, value in vectors.items() if not np.isin(value, (0, 1)).all()]:
        raise InputError(f"{path}: the labels of image {wrong[0]} are other numbers than 0 and 1; write 1 for present")
    if names is None:
        voc = length[0] == len(VOC_CLASSES) - 1
        names = VOC_CLASSES if voc else with_background([f"class{k}" for k in range(1, length[0] + 1)], path)
    if len(names) - 1 != length[0]:
        raise InputError(f"{path}: found {length[0]} labels an image for {len(names) - 1} classes; give as many names")
    return names, {_image_id(key): tuple((np.flatnonzero(value) + 1).tolist()) for key, value in vectors.items()}


def _image_id(key: Any) -> str:
    """Spell an id: IRN writes 2007_000032 as the number 2007000032."""
    text = str(key)
    return f"{text[:4]}_{text[4:]}" if isinstance(key, int | np.integer) and len(text) == 10 else text


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read class names, one a line; "background" is put first unless it stands there.

    InputError where the file is no text, has no class, a class twice, or more than 254.
    """
    return with_background(_read_lines(path, "class name"), path)


def _read_lines(path: Path, what: str) -> list[str]:
    """Read the lines that hold something; InputError where the file is no text."""
    try:
        lines = plain_file(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); write one {what} a line, UTF-8") from None
    return [line.strip() for line in lines if line.strip()]


def with_background(names: list[str], path: Path) -> tuple[str, ...]:
    """Put "background" first unless it stands there, and check the names, which come from the file `path`."""
    if wrong := [name for name in names if not isinstance(name, str) or not name.strip() or not name.isprintable()]:
        raise InputError(f"{path}: found {str(wrong[0])[:40]!r} for a class name; write names in plain text")
    names = names[1:] if names[:1] == ["background"] else names
    twice = sorted({name for name in names if names.count(name) > 1 or name == "background"})
    if twice:
        raise InputError(f"{path}: found {twice[0]!r} twice or in the wrong place; name each class once")
    if not 1 <= len(names) <= MAX_CLASS_ID:
        raise InputError(f"{path}: found {len(names)} classes; an index mask holds 1 to {MAX_CLASS_ID}")
    return ("background", *names)


def class_ids_of(names: Collection[str], class_names: tuple[str, ...], path: Path) -> tuple[int, ...]:
    """Sorted class ids of the names found in the file `path`, each of which must be a class."""
    unknown = sorted(set(names) - set(class_names[1:]))
    if unknown:
        known = ", ".join(class_names[1:6]) + (", ..." if len(class_names) > 6 else "")
        raise InputError(f"{path}: found unknown class {unknown[0]!r}; the classes are {known}")
    return tuple(sorted(map(class_names.index, names)))


def check_ids(ids: list[str], known: Collection[str], split: str, path: Path) -> None:
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
