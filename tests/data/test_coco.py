"""The COCO layout: category numbers with gaps, polygons and run lengths, crowds."""

import builtins
import json
from pathlib import Path

import numpy as np
import pytest

from pmm.data import SegmentationData, open_dataset
from pmm.data.coco import COCOData
from pmm.data.images import write_jpeg
from pmm.errors import InputError, MissingDependency

MINICOCO = Path(__file__).resolve().parents[3] / "shared" / "minicoco"
SQUARE = [[2, 2, 6, 2, 6, 6, 2, 6]]
WHOLE = [[0, 0, 12, 0, 12, 8, 0, 8]]


def refusal(call, *args, error=InputError) -> str:
    with pytest.raises(error) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def region(image: int, category: int, outline, **more) -> dict:
    return {
        "image_id": image,
        "category_id": category,
        "segmentation": outline,
        "iscrowd": 0,
        "area": 16,
        **more,
    }


def content(*annotations: dict) -> dict:
    """Two 12 x 8 images and three categories, listed out of order and with a gap."""
    images = [{"id": i, "file_name": f"COCO_{i}.jpg", "width": 12, "height": 8} for i in (5, 3)]
    names = {90: "zebra", 1: "person", 13: "dog"}
    return {
        "images": images,
        "annotations": list(annotations),
        "categories": [{"id": i, "name": n} for i, n in names.items()],
    }


def write(root: Path, values, split: str = "train2014") -> COCOData:
    (root / "annotations").mkdir(exist_ok=True)
    text = values if isinstance(values, str) else json.dumps(values)
    (root / "annotations" / f"instances_{split}.json").write_text(text)
    for name in ("COCO_5", "COCO_3"):
        write_jpeg(root / split / f"{name}.jpg", np.full((8, 12, 3), 50, np.uint8))
    return COCOData(root)


def test_categories_are_numbered_without_gaps(tmp_path):
    data = write(tmp_path, content(region(5, 90, SQUARE), region(5, 1, SQUARE), region(5, 90, SQUARE)))
    assert data.class_names == ("background", "person", "dog", "zebra")
    assert data.labels("COCO_5") == (1, 3) and data.labels("COCO_3") == ()


def test_ids_images_and_interface(tmp_path):
    write(tmp_path, content())
    data = open_dataset("coco", tmp_path)
    assert isinstance(data, SegmentationData) and data.name == "COCO-format set"
    assert data.ids("train2014") == ["COCO_5", "COCO_3"]
    assert data.image("COCO_3").shape == (8, 12, 3)
    assert data.image_path("COCO_3") == tmp_path / "train2014" / "COCO_3.jpg"
    assert data.has_mask("COCO_3") and not data.has_mask("COCO_4")


def test_an_id_is_found_in_a_split_that_was_not_asked_for(tmp_path):
    write(tmp_path, content(region(3, 13, SQUARE)))
    other = content()
    other["images"] = [{"id": 8, "file_name": "COCO_8.jpg", "width": 12, "height": 8}]
    data = write(tmp_path, other, "val2014")
    (tmp_path / "val2014" / "COCO_3.jpg").unlink()
    assert data.labels("COCO_3") == (2,)
    assert data.image_path("COCO_3").parent.name == "train2014"


def test_polygon_mask_is_exact(tmp_path):
    pytest.importorskip("pycocotools")
    mask = write(tmp_path, content(region(5, 13, SQUARE))).mask("COCO_5")
    expected = np.zeros((8, 12), np.uint8)
    expected[2:6, 2:6] = 2
    np.testing.assert_array_equal(mask, expected)
    assert mask.dtype == np.uint8


def test_several_polygons_are_one_object_and_lines_are_none(tmp_path):
    pytest.importorskip("pycocotools")
    outline = [*SQUARE, [8, 2, 10, 2, 10, 4, 8, 4], [0, 0, 5, 5]]
    mask = write(tmp_path, content(region(5, 1, outline), region(3, 1, [[0, 0, 5, 5]]))).mask("COCO_5")
    assert (mask == 1).sum() == 16 + 4
    assert not COCOData(tmp_path).mask("COCO_3").any()


def test_run_length_crowd_is_unknown_and_objects_lie_on_it(tmp_path):
    pytest.importorskip("pycocotools")
    crowd = {"counts": [0, 32, 64], "size": [8, 12]}  # column by column: the four left columns
    data = write(tmp_path, content(region(5, 13, SQUARE), region(5, 1, crowd, iscrowd=1, area=32)))
    expected = np.zeros((8, 12), np.uint8)
    expected[:, :4] = 255
    expected[2:6, 2:6] = 2
    np.testing.assert_array_equal(data.mask("COCO_5"), expected)
    assert data.labels("COCO_5") == (1, 2)


def test_compressed_run_length(tmp_path):
    coco_mask = pytest.importorskip("pycocotools.mask")
    stencil = np.asfortranarray(np.random.default_rng(0).integers(0, 2, (8, 12), dtype=np.uint8))
    code = coco_mask.encode(stencil)
    data = write(tmp_path, content(region(5, 1, {"size": [8, 12], "counts": code["counts"].decode()})))
    np.testing.assert_array_equal(data.mask("COCO_5"), stencil)


@pytest.mark.parametrize("large_first", [True, False])
def test_smaller_objects_lie_on_larger_ones(tmp_path, large_first):
    pytest.importorskip("pycocotools")
    regions = [region(5, 1, WHOLE, area=96), region(5, 13, SQUARE)]
    mask = write(tmp_path, content(*(regions if large_first else regions[::-1]))).mask("COCO_5")
    assert (mask == 2).sum() == 16 and (mask == 1).sum() == 96 - 16


def test_without_pycocotools_labels_work_and_masks_say_how_to_install(tmp_path, monkeypatch):
    data = write(tmp_path, content(region(5, 13, SQUARE)))
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert data.labels("COCO_5") == (2,)
    assert "pip install pycocotools" in refusal(data.mask, "COCO_5", error=MissingDependency)


def test_missing_root_and_split(tmp_path):
    assert "annotations" in refusal(COCOData, tmp_path / "nothing")
    message = refusal(write(tmp_path, content()).ids, "val2014")
    assert "val2014" in message and "train2014" in message


def test_missing_image_is_named(tmp_path):
    data = write(tmp_path, content())
    (tmp_path / "train2014" / "COCO_3.jpg").unlink()
    message = refusal(data.ids, "train2014")
    assert "'COCO_3'" in message and "'train2014'" in message
    assert "'nobody'" in refusal(data.labels, "nobody") and "'nobody'" in refusal(data.mask_source, "nobody")
    assert data.mask_source("COCO_5") == tmp_path / "annotations" / "instances_train2014.json"


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"images": 3, "annotations": [], "categories": []}'])
def test_malformed_json_is_refused(tmp_path, text):
    assert "instances_train2014.json" in refusal(write(tmp_path, text).ids, "train2014")


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (region(4, 1, SQUARE), "unknown image 4"),
        (region(5, 2, SQUARE), "unknown category 2"),
        ({"image_id": 5, "category_id": 1, "caption": "a dog"}, "without segmentation"),
        ({"category_id": 1, "segmentation": SQUARE}, "image_id"),
    ],
)
def test_wrong_annotations_are_refused(tmp_path, annotation, said):
    assert said in refusal(write(tmp_path, content(annotation)).ids, "train2014")


def test_an_image_listed_twice_is_refused(tmp_path):
    values = content()
    values["images"].append({**values["images"][0], "id": 77})
    assert "twice" in refusal(write(tmp_path, values).ids, "train2014")


@pytest.mark.parametrize("outline", [{"counts": [0, 5], "size": [2, 2]}, {"counts": "zz"}, {"size": [8, 12]}, 3])
def test_outlines_that_cannot_be_drawn_are_refused(tmp_path, outline):
    pytest.importorskip("pycocotools")
    assert "COCO_5" in refusal(write(tmp_path, content(region(5, 1, outline))).mask, "COCO_5")


def test_splits_with_different_categories_are_refused(tmp_path):
    write(tmp_path, content())
    other = content()
    other["categories"][0]["name"] = "horse"
    data = write(tmp_path, other, "val2014")
    data.ids("train2014")
    assert "categories differ" in refusal(data.ids, "val2014")


@pytest.mark.skipif(not MINICOCO.is_dir(), reason=f"{MINICOCO} is not there")
def test_real_photographs_read_through():
    pytest.importorskip("pycocotools")
    data = COCOData(MINICOCO)
    ids = data.ids("train2014")
    assert len(ids) == 30 and len(data.class_names) == 81 and data.class_names[80] == "toothbrush"
    for image_id in ids:
        mask = data.mask(image_id)
        assert mask.shape == data.image(image_id).shape[:2]
        assert set(np.unique(mask)) - {0, 255} <= set(data.labels(image_id))
