"""Sample scenes: one seed gives the same bytes, labels tell what is seen, no object is in two splits."""

import hashlib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import joblib
import numpy as np
import pytest
from PIL import Image

from pmm.data import SegmentationData, open_dataset, scenes
from pmm.data.scenes import (
    MATERIAL,
    SCENE_CLASSES,
    Scene,
    SceneObject,
    compose_scene,
    compose_scenes,
    scene_mask,
    split_objects,
)
from pmm.errors import InputError

SIZE = {"width": 96, "height": 72}


def compose(root: Path, n_train: int = 12, n_val: int = 6, **options):
    return compose_scenes(root, n_train=n_train, n_val=n_val, progress=False, **{**SIZE, **options})


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return compose(tmp_path_factory.mktemp("scenes") / "dataset")


def cutouts_of(data, split: str) -> set[tuple[str, str]]:
    used = set()
    for image_id in data.ids(split):
        tree = ElementTree.parse(data.root / "Annotations" / f"{image_id}.xml")
        used |= {(o.findtext("name"), o.findtext("cutout")) for o in tree.iter("object")}
    return used


def test_layout_and_names(data):
    assert isinstance(open_dataset("scenes", data.root), SegmentationData)
    assert data.name == "sample scenes" and data.class_names == SCENE_CLASSES
    assert list(SCENE_CLASSES[1:]) == sorted(path.name for path in (MATERIAL / "cutouts").iterdir())
    assert data.ids("train") == [f"train_{i:04d}" for i in range(1, 13)] and len(data.ids("val")) == 6
    assert data.image("train_0001").shape == (72, 96, 3) and data.mask("train_0001").shape == (72, 96)
    assert (data.root / "NOTICE.md").is_file() and (data.root / "COPYING").is_file()


def test_same_seed_same_bytes(data, tmp_path):
    with joblib.parallel_config("threading"):
        compose(tmp_path / "again", n_jobs=2)
    assert digests(tmp_path / "again") == digests(data.root)


def test_another_seed_gives_other_scenes(data, tmp_path):
    other = compose(tmp_path / "other", n_train=3, n_val=1, seed=1)
    for image_id in other.ids("train"):
        assert (other.image(image_id) != data.image(image_id)).any()


def test_a_larger_set_begins_with_the_smaller_one(data, tmp_path):
    small = digests(compose(tmp_path / "small", n_train=3, n_val=2).root)
    large = digests(data.root)
    shared = [name for name in small if Path(name).stem.startswith(("train_", "val_"))]
    assert len(shared) == 3 * (3 + 2)
    assert all(small[name] == large[name] for name in shared)


def test_labels_are_the_classes_seen_in_the_mask(data):
    for split in ("train", "val"):
        for image_id in data.ids(split):
            seen = set(np.unique(data.mask(image_id))) - {0, 255}
            assert seen == set(data.labels(image_id))
            assert 1 <= len(seen) <= 3


def test_no_object_is_in_both_splits(data):
    parts = split_objects()
    for name in SCENE_CLASSES[1:]:
        train, val = set(parts["train"][name]), set(parts["val"][name])
        assert not train & val and len(val) >= 2 and len(train) > len(val)
        assert train | val == {path.name for path in (MATERIAL / "cutouts" / name).iterdir()}
    for split in ("train", "val"):
        allowed = {(name, file) for name, files in parts[split].items() for file in files}
        used = cutouts_of(data, split)
        assert used and used <= allowed


def test_the_object_split_is_fixed_for_good():
    assert split_objects()["val"]["arthropod"] == ("lobster.webp", "fly.webp")
    assert sorted(len(files) for files in split_objects()["val"].values()) == [2, 2, 2, 2, 3, 6, 6, 6, 9]


def test_outline_is_unknown_and_two_pixels_wide():
    instances = np.zeros((9, 12), np.uint8)
    instances[3:7, 2:8] = 1
    objects = (SceneObject("bird", "owl.webp", False),)
    mask = scene_mask(Scene(np.zeros((9, 12, 3), np.uint8), instances, objects))
    expected = np.zeros((9, 12), np.uint8)
    expected[2:8, 1:9] = 255  # one pixel outside the object and one inside
    expected[4:6, 3:7] = SCENE_CLASSES.index("bird")
    np.testing.assert_array_equal(mask, expected)


def test_touching_objects_of_one_class_are_outlined():
    instances = np.repeat([[1, 1, 1, 2, 2, 2]], 3, axis=0).astype(np.uint8)
    objects = (SceneObject("fish", "a.webp", False), SceneObject("fish", "b.webp", False))
    mask = scene_mask(Scene(np.zeros((3, 6, 3), np.uint8), instances, objects))
    np.testing.assert_array_equal(mask, [[3, 3, 255, 255, 3, 3]] * 3)


def test_every_scene_has_an_outline_and_a_background(data):
    for image_id in data.ids("train"):
        values = data.mask(image_id)
        assert 0 < (values == 255).mean() < 0.5 and (values == 0).any()


def test_boxes_enclose_the_visible_pixels(data):
    for index, image_id in enumerate(data.ids("train")):
        scene = compose_scene("train", index, **SIZE)
        tree = ElementTree.parse(data.root / "Annotations" / f"{image_id}.xml")
        for number, entry in enumerate(tree.iter("object"), start=1):
            left, top, right, bottom = (int(entry.findtext(f"bndbox/{c}")) for c in ("xmin", "ymin", "xmax", "ymax"))
            shown = scene.instances == number
            assert shown[top - 1 : bottom, left - 1 : right].sum() == shown.sum() > 0
            assert shown[top - 1].any() and shown[:, right - 1].any()


def test_every_object_stays_visible():
    for index in range(20):
        scene = compose_scene("val", index, **SIZE)
        areas = np.bincount(scene.instances.ravel(), minlength=len(scene.objects) + 1)[1:]
        assert (areas >= 0.001 * scene.instances.size).all()
        assert len(set(scene.objects)) == len(scene.objects)


@pytest.mark.parametrize("seed", range(8))
def test_colours_and_outline_of_an_object_move_together(seed, monkeypatch):
    """Of a red half with a green, fully transparent half, nothing green is ever seen, mirrored or not."""
    pixels = np.zeros((60, 40, 4), np.uint8)
    pixels[:, :20] = (200, 40, 40, 255)
    pixels[:, 20:] = (40, 200, 40, 0)
    monkeypatch.setattr(scenes, "_load", lambda name: Image.fromarray(pixels))
    shape = np.asarray(scenes._object(np.random.default_rng(seed), "bird", "x.webp", 120))
    solid = shape[shape[..., 3] > 127].astype(int)
    assert len(solid) > 100 and (solid[:, 0] > solid[:, 1]).all()


def test_splits_are_drawn_independently():
    train, val = (compose_scene(split, 0, **SIZE) for split in ("train", "val"))
    background = (train.instances == 0) & (val.instances == 0)
    assert (train.image[background] != val.image[background]).any(axis=1).mean() > 0.5


def test_recompose_replaces_and_leaves_nothing_else(tmp_path):
    compose(tmp_path / "set", n_train=4, n_val=1)
    (tmp_path / ".set.part").mkdir()  # as a killed run leaves it
    compose(tmp_path / "set", n_train=2, n_val=1)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert len(list((tmp_path / "set" / "JPEGImages").iterdir())) == 3


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    compose(tmp_path / "set", n_train=2, n_val=1)
    before = digests(tmp_path)

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "write_mask", fail)
    with pytest.raises(KeyboardInterrupt):
        compose(tmp_path / "set", n_train=3, n_val=1)
    assert digests(tmp_path) == before


def test_other_files_are_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert str(tmp_path) in refusal(compose, tmp_path)
    assert "thesis.tex" in refusal(compose, tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "set").mkdir()
    assert compose(tmp_path / "set", n_train=1, n_val=1).ids("train") == ["train_0001"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_train", 0), ("n_val", -1), ("width", 31), ("height", 5000), ("seed", -1), ("n_train", 2.5)],
)
def test_numbers_out_of_range_are_named(tmp_path, name, value):
    message = refusal(compose, tmp_path / "set", **{name: value})
    assert name in message and repr(value) in message
    assert not list(tmp_path.iterdir())


def test_a_frame_without_room_is_refused(monkeypatch):
    monkeypatch.setattr("pmm.data.scenes._MAX_TRIES", 0)
    assert "32 x 32" in refusal(compose_scene, "train", 0, width=32, height=32)
