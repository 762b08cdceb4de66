"""The VOC layout: labels from the XML files alone, and one line for every fault."""

from pathlib import Path

import numpy as np
import pytest

from pmm.data import SegmentationData, open_dataset
from pmm.data.images import write_jpeg, write_mask
from pmm.data.voc import VOC_CLASSES, VOCData, read_class_names
from pmm.errors import InputError

MINIVOC = Path(__file__).resolve().parents[3] / "shared" / "minivoc"


def refusal(call, *args) -> str:
    with pytest.raises(InputError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def annotation(*names: str) -> str:
    objects = "".join(f"<object><name>{n}</name><part><name>head</name></part></object>" for n in names)
    return f"<annotation><filename>a.jpg</filename>{objects}</annotation>"


@pytest.fixture
def root(tmp_path) -> Path:
    """Two images: `a` shows a person and a dog, `b` shows nothing and has no mask."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for name, objects in (("a", ("person", "dog", "person")), ("b", ())):
        write_jpeg(root / "JPEGImages" / f"{name}.jpg", np.full((4, 6, 3), 90, np.uint8))
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(annotation(*objects))
    write_mask(root / "SegmentationClass" / "a.png", np.array([[0, 1, 2, 3, 20, 255]] * 4))
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    write_split(root, "train", "b\na\n")
    return root


def write_split(root: Path, split: str, text: str) -> None:
    (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(text)


def test_reads_images_labels_and_masks(root):
    data = open_dataset("voc", root)
    assert isinstance(data, SegmentationData)
    assert data.class_names == VOC_CLASSES and len(VOC_CLASSES) == 21 and VOC_CLASSES[15] == "person"
    assert data.ids("train") == ["b", "a"]
    assert data.image("a").shape == (4, 6, 3)
    assert data.image_path("a") == root / "JPEGImages" / "a.jpg"
    assert data.has_mask("a") and not data.has_mask("b")
    np.testing.assert_array_equal(data.mask("a")[0], [0, 1, 2, 3, 20, 255])


def test_labels_come_from_the_annotation_not_from_the_mask(root):
    data = VOCData(root)
    assert data.labels("a") == (12, 15)  # dog, person; the mask shows others
    assert data.labels("b") == ()


@pytest.mark.parametrize("place", [".", "..", "../..", "JPEGImages"])
def test_root_is_found_from_its_neighbours(root, place):
    assert VOCData(root / place).root.resolve() == root.resolve()


def test_name_is_voc_only_for_the_official_splits(root):
    assert VOCData(root).name == "VOC-format set"
    write_split(root, "val", "\n".join(f"x{i}" for i in range(1449)))
    assert VOCData(root).name == "VOC 2012"
    assert VOCData(root, name="mine").name == "mine"


def test_wrong_root_says_what_is_expected(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        message = refusal(VOCData, folder)
        assert str(folder) in message and "JPEGImages" in message and "Annotations" in message


@pytest.mark.parametrize("place", ["ImageSets", "ImageSets/Segmentation", "Annotations", "JPEGIamges", "../../../.."])
def test_wrong_root_names_the_right_one_where_it_is_near(root, place):
    given = root.parent.parent / "up" / "down" if ".." in place else root / place
    if ".." in place:
        (given / "VOC2012").mkdir(parents=True)
        (root / "JPEGImages").rename(given / "VOC2012" / "JPEGImages")
        given, right = given.parent.parent / "up", given / "VOC2012"
    else:
        right = root
    message = refusal(VOCData, given)
    assert message.startswith(f"{given}: ") and f"; name {right.resolve()}, the folder that holds" in message


def test_missing_split_lists_the_others(root):
    write_split(root, "val", "a\n")
    message = refusal(VOCData(root).ids, "test")
    assert "'test'" in message and "train, val" in message


def test_split_faults(root):
    data = VOCData(root)
    write_split(root, "gone", "a\nmissing\nb\n")
    write_split(root, "twice", "a\nb\na\n")
    write_split(root, "empty", "\n")
    assert "'missing'" in refusal(data.ids, "gone") and "'gone'" in refusal(data.ids, "gone")
    assert "'a' twice" in refusal(data.ids, "twice")
    assert "no image" in refusal(data.ids, "empty")


def test_split_with_paths_of_image_and_mask(root):
    write_split(root, "train_aug", "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n\n b \n")
    assert VOCData(root).ids("train_aug") == ["a", "b"]


def test_masks_of_the_augmented_set(root):
    write_mask(root / "SegmentationClassAug" / "a.png", np.full((4, 6), 7))
    write_mask(root / "SegmentationClassAug" / "b.png", np.full((4, 6), 8))
    data = VOCData(root)
    assert data.mask("a")[0, 0] == 0 and data.mask("b")[0, 0] == 8


def test_unknown_image_is_named(root):
    data = VOCData(root)
    for call in (data.image, data.image_path, data.mask):
        assert "'zz'" in refusal(call, "zz")
    assert "zz.xml" in refusal(data.labels, "zz")


def test_missing_and_wrong_masks(root):
    data = VOCData(root)
    assert "b.png" in refusal(data.mask, "b")
    write_mask(root / "SegmentationClass" / "b.png", np.full((4, 6), 21))
    assert "21" in refusal(data.mask, "b")
    write_mask(root / "SegmentationClass" / "b.png", np.zeros((6, 4), np.uint8))
    assert "4 x 6" in refusal(data.mask, "b")


BOMB = '<!DOCTYPE a [<!ENTITY x "dog">]><annotation><object><name>&x;</name></object></annotation>'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (annotation("dog", "unicorn").encode(), "'unicorn'"),
        (annotation("background").encode(), "'background'"),
        (annotation("").encode(), "''"),
        (annotation("dog").encode()[:-5], "not valid XML"),
        (b"", "not valid XML"),
        (BOMB.encode(), "DOCTYPE"),
        (BOMB.lower().encode(), "DOCTYPE"),
        (BOMB.encode("utf-16"), "UTF-8"),
        (BOMB.encode("utf-16-le"), "UTF-8"),
        (BOMB.encode("utf-16-be"), "UTF-8"),
    ],
)
def test_annotation_faults(root, content, said):
    (root / "Annotations" / "a.xml").write_bytes(content)
    message = refusal(VOCData(root).labels, "a")
    assert "a.xml" in message and said in message


@pytest.fixture
def vectors(root):
    """The set with cls_labels.npy in place of Annotations; what is given to it is written."""
    (root / "Annotations").rename(root / "set_aside")

    def write(content, name="cls_labels.npy"):
        np.save(root / name, np.array(content, dtype=object), allow_pickle=True)
        return VOCData(root)

    return write


def one_hot(*ids: int, length: int = 20) -> np.ndarray:
    return np.isin(np.arange(1, length + 1), ids).astype(np.float32)


def test_labels_come_from_cls_labels_where_there_are_no_annotations(root, vectors):
    data = vectors({"a": one_hot(12, 15), "b": one_hot()})
    assert data.labels("a") == (12, 15) and data.labels("b") == ()
    write_jpeg(root / "JPEGImages" / "2007_000032.jpg", np.full((4, 6, 3), 90, np.uint8))
    assert vectors({2007000032: one_hot(1)}).labels("2007_000032") == (1,)  # as IRN spells it
    (root / "set_aside").rename(root / "Annotations")
    assert VOCData(root).labels("a") == (12, 15)  # the annotations come first


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"b": one_hot(3)}, "no labels of image 'a'"),
        ({"a": one_hot(3, length=80)}, "found 80 labels an image for 20 classes"),
        ({"a": one_hot(3), "b": one_hot(3, length=19)}, "all of one length"),
        ({"a": one_hot(3) / 2}, "image a are other numbers than 0 and 1"),
        ({"a": one_hot(3) * np.nan}, "image a are other numbers than 0 and 1"),
        ({"a": Path("x")}, "which may run code"),
        ([1, 2], "an array of"),
    ],
)
def test_faults_of_cls_labels(vectors, content, said):
    message = refusal(lambda: vectors(content).labels("a"))
    assert "cls_labels.npy" in message and said in message


def test_without_annotations_and_vectors_the_message_names_both(vectors, root):
    message = refusal(VOCData(root).labels, "a")
    assert "Annotations" in message and "cls_labels.npy" in message


@pytest.mark.parametrize("text", ["background\ncat\ndog\n", "cat\n\ndog", "\ufeffbackground\r\ncat\r\ndog\r\n"])
def test_class_names_of_another_set(root, text):
    (root / "classes.txt").write_text(text, encoding="utf-8")
    data = VOCData(root)
    assert data.class_names == ("background", "cat", "dog")
    assert data.name == "VOC-format set"


@pytest.mark.parametrize(
    "text", ["", "background\n", "cat\ncat\n", "cat\nbackground\n", "\n".join(map(str, range(255)))]
)
def test_wrong_class_names(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    assert "classes.txt" in refusal(read_class_names, tmp_path / "classes.txt")


def test_class_names_that_are_no_text(tmp_path):
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00")
    assert "classes.txt" in refusal(read_class_names, tmp_path / "classes.txt")


@pytest.mark.skipif(not MINIVOC.is_dir(), reason=f"{MINIVOC} is not there")
def test_real_photographs_read_through():
    data = VOCData(MINIVOC)
    ids = data.ids("train")
    assert len(ids) == 90
    for image_id in ids:
        assert set(np.unique(data.mask(image_id))) - {0, 255} == set(data.labels(image_id))
    assert data.image(ids[0]).shape[:2] == data.mask(ids[0]).shape


def test_unknown_kind(tmp_path):
    assert "'imagenet'" in refusal(open_dataset, "imagenet", tmp_path)
