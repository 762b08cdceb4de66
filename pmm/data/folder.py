"""Your own images: a folder of images and one table of image-level labels."""

import csv
from pathlib import Path
from typing import NamedTuple

from pmm.data.images import SegmentationData, index_images
from pmm.data.voc import class_ids_of, read_class_names, with_background
from pmm.errors import InputError
from pmm.files import plain_file


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
        self._table, listed = self.root / "labels.csv", self.root / "classes.txt"
        if not (self.root / "images").is_dir() or not self._table.is_file():
            found = "no images/ or no labels.csv in it" if self.root.is_dir() else "no such folder"
            raise InputError(f"{root}: {found}; name the folder that holds images/ and labels.csv")
        self.name = name or self.root.resolve().name
        self._entries = _read_entries(self._table, self.root / "images")
        found_names = sorted(set().union(*(entry.names for entry in self._entries.values())))
        self.class_names = read_class_names(listed) if listed.is_file() else with_background(found_names, self._table)
        self._labels = {i: class_ids_of(e.names, self.class_names, self._table) for i, e in self._entries.items()}

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
    for number, row in read_table(table):
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


def read_table(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Read line numbers and rows of a table, which must have the columns image and labels; InputError if it cannot."""
    try:
        with open(plain_file(table), encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: cannot be read ({error}); save it as comma-separated UTF-8") from None
    if not {"image", "labels"} <= set(columns) or len(set(columns)) < len(columns):
        raise InputError(f"{table}: found the columns {', '.join(columns) or 'none'}; the header is image,labels")
    for number, row in rows:
        if None in row or None in row.values():
            cells = "found more or fewer cells than columns"
            raise InputError(f"{table}, line {number}: {cells}; separate labels by spaces")
    return rows
