"""The classes of interest: which images stay, how classes are numbered, one line for every fault."""

import json
from pathlib import Path

import numpy as np
import pytest

from pmm.data import SegmentationData, open_dataset
from pmm.data.coco import COCOData
from pmm.data.images import write_jpeg, write_mask
from pmm.data.voc import VOCData
from pmm.errors import InputError

PREPARED = Path(__file__).resolve().parents[3] / "shared" / "voc2012-animals"
RULE = {"classes": ["cat", "cow", "dog", "horse", "person", "sheep"]}
RULE["require_any"] = ["cat", "cow", "dog", "horse", "sheep"]
SHOWN = {  # image -> its objects, and the lists of VOC and SBD that name it
    "2007_cat": (("cat", "cat"), "train"),
    "2007_both": (("person", "dog"), "train"),
    "2007_chair": (("cat", "chair"), "train"),  # another class
    "2007_person": (("person",), "train"),  # no animal
    "2008_sheep": (("sheep",), "aug"),
    "2008_car": (("car",), "aug"),
    "2008_cow": (("cow", "person"), "val"),
    "2008_nothing": ((), "val"),
}


def refusal(call, *args, **options) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def full(tmp_path) -> Path:
    """VOC 2012 and SBD as downloaded, but for their size: SBD's masks lie in a folder of their own."""
    root = tmp_path / "VOC2012"
    (root / "Annotations").mkdir(parents=True)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for image_id, (objects, listed) in SHOWN.items():
        write_jpeg(root / "JPEGImages" / f"{image_id}.jpg", np.full((4, 6, 3), 90, np.uint8))
        found = "".join(f"<object><name>{name}</name></object>" for name in objects)
        (root / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{found}</annotation>")
        folder = "SegmentationClassAug" if listed == "aug" else "SegmentationClass"
        write_mask(root / folder / f"{image_id}.png", np.array([[0, 8, 9, 12, 15, 255]] * 4))
    for split, parts in {"train": ("train",), "val": ("val",), "train_aug": ("train", "aug")}.items():
        ids = [image_id for image_id, (_, listed) in SHOWN.items() if listed in parts]
        (lists / f"{split}.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
    return root


def test_an_image_stays_if_its_labels_are_among_the_classes_and_one_is_required(full):
    data = open_dataset("voc", full, **RULE)
    assert isinstance(data, SegmentationData)
    assert data.ids("train") == ["2007_cat", "2007_both"]
    assert data.ids("train_aug") == ["2007_cat", "2007_both", "2008_sheep"]
    assert data.ids("val") == ["2008_cow"]
    assert data.left_out == {"train": 2, "train_aug": 3, "val": 1}
    expected = "train_aug: 3 of 6 images show other classes or none of cat, cow, dog, horse, sheep, and are left out"
    assert data.left_out_note("train_aug") == expected


def test_without_a_demand_an_image_without_labels_stays(full):
    data = open_dataset("voc", full, classes=["person", "cow"])
    assert data.ids("val") == ["2008_cow", "2008_nothing"]
    assert data.left_out_note("val") == "" and data.labels("2008_nothing") == ()
    assert data.ids("train") == ["2007_person"]
    assert data.left_out_note("train") == "train: 3 of 4 images show other classes, and are left out"


def test_a_demand_alone_keeps_all_classes(full):
    data = open_dataset("voc", full, require_any=["dog", "chair"])
    assert data.ids("train") == ["2007_both", "2007_chair"]
    assert data.class_names == VOCData(full).class_names and data.labels("2007_chair") == (8, 9)
    assert data.name == "VOC-format set, images with chair or dog"


def test_classes_are_numbered_anew_in_the_order_of_the_set(full):
    data = open_dataset("voc", full, classes=["sheep", "person", "dog", "cat"])
    assert data.class_names == ("background", "cat", "dog", "person", "sheep")
    assert data.labels("2007_both") == (2, 3) and data.labels("2008_sheep") == (4,)
    assert data.labels("2007_chair") == (1,)  # what is not of interest does not exist
    np.testing.assert_array_equal(data.mask("2007_both")[0], [0, 1, 255, 2, 3, 255])  # 9, a chair, is unknown
    assert data.mask("2007_both").dtype == np.uint8
    np.testing.assert_array_equal(VOCData(full).mask("2007_both")[0], [0, 8, 9, 12, 15, 255])


def test_images_are_those_of_the_whole_set(full):
    whole, data = VOCData(full), open_dataset("voc", full, **RULE)
    for image_id in ("2007_cat", "2008_sheep"):
        np.testing.assert_array_equal(data.image(image_id), whole.image(image_id))
        assert data.image_path(image_id) == whole.image_path(image_id)
        assert data.mask_source(image_id) == whole.mask_source(image_id) and data.has_mask(image_id)
    assert data.root == whole.root


def test_each_annotation_is_read_once(full, monkeypatch):
    data, read = open_dataset("voc", full, **RULE), []
    labels = data.whole.labels
    monkeypatch.setattr(data.whole, "labels", lambda i: read.append(i) or labels(i))
    for split in ("train_aug", "train", "train_aug"):
        data.ids(split)
    data.labels("2007_cat")
    assert sorted(read) == sorted(set(read)) and len(read) == 6


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "VOC-format set"),
        ({"name": "mine"}, "mine"),
        (RULE, "VOC-format set, 6 of 20 classes"),
        ({**RULE, "name": "animals"}, "animals"),
    ],
)
def test_the_set_is_called_as_told_or_by_what_is_left_of_it(full, options, name):
    assert open_dataset("voc", full, **options).name == name


def test_a_name_that_is_no_class_is_refused_with_the_nearest(full):
    assert refusal(open_dataset, "voc", full, classes=["cat", "hors"]) == (
        "classes: 'hors' is no class of the data set; did you mean 'horse'?"
    )
    message = refusal(open_dataset, "voc", full, classes=["cat", "dog"], require_any=["cow"])
    assert message == "require_any: 'cow' is not among classes; there are cat, dog"
    assert "no class of the data set; there are aeroplane" in refusal(open_dataset, "voc", full, require_any=["zzz"])
    assert "'background' is no class" in refusal(open_dataset, "voc", full, classes=["background"])


def test_a_rule_that_leaves_no_image_is_refused(full):
    data = open_dataset("voc", full, classes=["boat"], require_any=["boat"])
    message = refusal(data.ids, "train")
    assert message.startswith(f"{full}: train: 4 of 4 images show other classes or none of boat, and are left out; ")


def test_scenes_and_coco_and_folders_choose_alike(tmp_path):
    for name in "abc":
        write_jpeg(tmp_path / "own" / "images" / f"{name}.jpg", np.full((4, 6, 3), 90, np.uint8))
    (tmp_path / "own" / "labels.csv").write_text("image,labels\na,cat\nb,dog cat\nc,emu\n")
    data = open_dataset("folder", tmp_path / "own", classes=["dog", "cat"], require_any=["cat"], name="pets")
    assert (data.ids("train"), data.class_names, data.name) == (["a", "b"], ("background", "cat", "dog"), "pets")
    assert open_dataset("folder", tmp_path / "own", name="pets").name == "pets"

    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    square = {"segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]], "iscrowd": 0, "area": 6}
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 6, "height": 4} for i in (1, 2)],
        "annotations": [{"image_id": i, "category_id": c, **square} for i, c in ((1, 90), (2, 1), (2, 90))],
        "categories": [{"id": 1, "name": "person"}, {"id": 90, "name": "zebra"}],
    }
    (tmp_path / "coco" / "annotations" / "instances_train2014.json").write_text(json.dumps(content))
    for i in (1, 2):
        write_jpeg(tmp_path / "coco" / "train2014" / f"{i}.jpg", np.full((4, 6, 3), 90, np.uint8))
    data = open_dataset("coco", tmp_path / "coco", classes=["zebra"])
    assert isinstance(data.whole, COCOData) and data.name == "COCO-format set, 1 of 2 classes"
    assert data.ids("train2014") == ["1"] and data.labels("1") == (1,)


def test_what_sbd_lacks_is_said_in_one_line_with_its_place(full):
    (full / "ImageSets" / "Segmentation" / "train_aug.txt").rename(full / "train_aug.txt")
    message = refusal(open_dataset("voc", full, **RULE).ids, "train_aug")
    assert "no split 'train_aug'" in message
    assert message.endswith("download SBD's list as ImageSets/Segmentation/train_aug.txt and its masks into "
                            "SegmentationClassAug/")  # fmt: skip
    assert "SBD" not in refusal(open_dataset("voc", full).ids, "trainval")
    (full / "SegmentationClassAug" / "2008_sheep.png").unlink()
    data = open_dataset("voc", full, **RULE)
    assert not data.has_mask("2008_sheep") and data.labels("2008_sheep") == (6,)  # nobody needs its mask
    message = refusal(data.mask, "2008_sheep")
    assert "2008_sheep.png: no such file" in message and "SegmentationClassAug/" in message
    (full / "Annotations" / "2008_sheep.xml").unlink()
    message = refusal(VOCData(full).labels, "2008_sheep")
    assert "2008_sheep.xml: no such file" in message and "Annotations/" in message


@pytest.mark.skipif(not PREPARED.is_dir(), reason="the prepared photographs are not at ../shared/voc2012-animals")
def test_the_rule_keeps_every_prepared_photograph():
    data = open_dataset("voc", PREPARED, **RULE, name="VOC 2012 animals")
    sizes = {split: len(data.ids(split)) for split in ("train", "train_aug", "val")}
    assert sizes == {"train": 370, "train_aug": 2651, "val": 200} and not any(data.left_out.values())
    assert data.class_names == ("background", *RULE["classes"]) and set(data.ids("train")) < set(data.ids("train_aug"))
    for image_id in data.ids("train")[:20]:  # on train, the classes of mask and label agree
        assert set(np.unique(data.mask(image_id)).tolist()) - {0, 255} == set(data.labels(image_id))
