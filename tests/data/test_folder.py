"""A reader's own folder: one table of labels, strictly checked."""

from pathlib import Path

import numpy as np
import pytest

from pmm.data import SegmentationData, open_dataset
from pmm.data.folder import FolderData
from pmm.data.images import write_jpeg, write_mask
from pmm.errors import InputError


def refusal(call, *args) -> str:
    with pytest.raises(InputError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(root: Path, table: str, images: tuple[str, ...] = ("a.jpg", "b.jpg", "c.d.jpg")) -> Path:
    for name in images:
        write_jpeg(root / "images" / name, np.full((4, 6, 3), 90, np.uint8))
    (root / "labels.csv").write_text(table, encoding="utf-8")
    return root


def test_reads_images_labels_and_masks(tmp_path):
    root = write(tmp_path, "image,labels\nb.jpg,dog cat\na,\nc.d,dog\n")
    write_mask(root / "masks" / "b.png", np.array([[0, 1, 2, 255, 0, 0]] * 4))
    data = open_dataset("folder", root)
    assert isinstance(data, SegmentationData) and data.name == tmp_path.name
    assert data.class_names == ("background", "cat", "dog")
    assert data.ids("train") == ["b", "a", "c.d"]
    assert [data.labels(i) for i in ("b", "a", "c.d")] == [(1, 2), (), (2,)]
    assert data.image("c.d").shape == (4, 6, 3) and data.image_path("a") == root / "images" / "a.jpg"
    assert data.has_mask("b") and not data.has_mask("a")
    assert data.mask("b")[0].tolist() == [0, 1, 2, 255, 0, 0]


def test_split_column_and_other_columns(tmp_path):
    data = FolderData(write(tmp_path, "\ufeffsplit,image,note,labels\nval,a,x,dog\n,b,x,dog\ntrain,c.d,x,dog\n"))
    assert data.ids("val") == ["a"] and data.ids("train") == ["b", "c.d"]
    message = refusal(data.ids, "test")
    assert "'test'" in message and "train, val" in message


def test_classes_file_gives_the_order_and_the_limits(tmp_path):
    root = write(tmp_path, "image,labels\na,dog\n")
    (root / "classes.txt").write_text("horse\ndog\n")
    assert FolderData(root).labels("a") == (2,)
    (root / "classes.txt").write_text("horse\ncat\n")
    message = refusal(FolderData, root)
    assert "labels.csv" in message and "'dog'" in message


def test_the_full_file_name_decides_between_two_images_of_one_stem(tmp_path):
    root = write(tmp_path, "image,labels\na.png,dog\n", ("a.jpg", "a.png"))
    assert FolderData(root).image_path("a").name == "a.png"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("image,labels\na,dog\nzz,dog\n", "line 3: no image 'zz'"),
        ("image,labels\n../labels.csv,dog\n", "no image"),
        ("image,labels\n,dog\n", "no image ''"),
        ("image,labels\na,dog\nb,dog\na.jpg,cat\n", "line 4: image 'a' appears twice"),
        ("image,labels\na,background dog\n", "'background'"),
        ("image,labels\na,dog,cat\n", "line 2"),
        ("image,labels\na\n", "line 2"),
        ("image;labels\na;dog\n", "image;labels"),
        ("name,labels\na,dog\n", "name, labels"),
        ("image,labels\n", "no image"),
        ("", "none"),
        ("image,labels\na,\n", "0 classes"),
    ],
)
def test_table_faults(tmp_path, table, said):
    message = refusal(FolderData, write(tmp_path, table))
    assert "labels.csv" in message and said in message


def test_table_that_is_no_text(tmp_path):
    write(tmp_path, "")
    (tmp_path / "labels.csv").write_bytes(b"image,labels\na,\xff\xfe\n")
    assert "UTF-8" in refusal(FolderData, tmp_path)


def test_missing_folder_or_table(tmp_path):
    assert "no such folder" in refusal(FolderData, tmp_path / "nothing")
    assert "images/" in refusal(FolderData, tmp_path)


def test_unknown_id_and_wrong_mask(tmp_path):
    data = FolderData(write(tmp_path, "image,labels\na,dog\n"))
    for call in (data.image, data.labels, data.mask):
        assert "'zz'" in refusal(call, "zz")
    assert "a.png" in refusal(data.mask, "a")
    write_mask(tmp_path / "masks" / "a.png", np.full((4, 6), 2))
    assert "found 2" in refusal(data.mask, "a")
    write_mask(tmp_path / "masks" / "a.png", np.zeros((4, 5), np.uint8))
    assert "5 x 4" in refusal(data.mask, "a")
