"""`pmm data`: data sets put in place, converted, counted and checked; every fault is one line."""

import numpy as np
import pytest
from click.testing import CliRunner

from pmm.cli import main
from pmm.data.images import write_jpeg, write_mask


def call(*arguments):
    result = CliRunner().invoke(main, ["data", *map(str, arguments)])
    assert "Traceback" not in result.output and not isinstance(result.exception, Exception), result.output
    return result


def refusal(*arguments) -> str:
    """The one line of a mistake."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    return result.stderr.splitlines()[-1]  # below a progress bar, if any


def voc_image(root, name, *classes, mask=True):
    """One photograph of 6 x 4 px in the layout of VOC, its classes in the XML and, if wanted, a mask."""
    write_jpeg(root / "JPEGImages" / f"{name}.jpg", np.full((4, 6, 3), 90, np.uint8))
    objects = "".join(f"<object><name>{n}</name></object>" for n in classes)
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    if mask:
        write_mask(root / "SegmentationClass" / f"{name}.png", np.full((4, 6), 12))


def split(root, **lists):
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True, exist_ok=True)
    for name, ids in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{i}\n" for i in ids))


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for name, classes in {"a": ["dog", "person"], "b": ["dog"], "c": [], "v": ["cat"]}.items():
        voc_image(root, name, *classes, mask=name != "b")
    split(root, train="abc", val="v")
    return root


@pytest.fixture
def check(voc, tmp_path):
    """Arguments of `pmm data check` for that set, with what else is given."""
    (tmp_path / "p.yaml").write_text(f"run_name: x\ndataset: voc\ndata_dir: {voc}\n")
    return lambda *more: call("check", tmp_path / "p.yaml", *more)


def test_check_counts_each_split_that_is_in_use_once(check):
    result = check("-pjudge_split=train")
    assert result.exit_code == 0
    name, train, train_classes, val, val_classes = result.stdout.splitlines()
    assert name == "VOC-format set, 20 classes"
    assert train == "split train (train_split, judge_split): 3 images, 2 with labels, 2 with masks"
    assert val == "split val (val_split): 1 images, 1 with labels, 1 with masks"
    assert train_classes.startswith("  images per class: aeroplane 0, bicycle 0, ") and "dog 2, " in train_classes
    assert "cat 1, " in val_classes and "dog 0, " in val_classes


def test_check_lists_ten_problems_with_their_reasons_and_counts_the_others(check, voc):
    names = [f"x{i:02d}" for i in range(14)]
    for name in names:
        voc_image(voc, name, "dog")
    (voc / "Annotations" / "x00.xml").write_text("<annotation>")
    (voc / "JPEGImages" / "x01.jpg").write_bytes(b"no image")
    write_mask(voc / "SegmentationClass" / "x02.png", np.full((6, 4), 1))
    for name in names[3:]:
        (voc / "JPEGImages" / f"{name}.jpg").write_bytes((voc / "JPEGImages" / f"{name}.jpg").read_bytes()[:300])
    split(voc, train=names)
    result = check("-pjudge_split=train")
    lines = result.stdout.splitlines()
    assert result.exit_code == 1 and result.stderr == ""
    assert lines[1].endswith("14 images, 13 with labels, 14 with masks")
    assert len(lines[5:]) == 11 and lines[-1] == "... and 4 more"
    for line, file, reason in zip(
        lines[5:8], ("x00.xml", "x01.jpg", "x02.png"), ("not valid XML", "cannot be read", "4 x 6 px"), strict=True
    ):
        assert line.startswith(str(voc)) and file in line and reason in line


def test_check_of_chosen_classes_counts_what_is_left_out_and_finds_labels_that_cannot_be_read(check, voc):
    chosen = ("-pclasses=[cat,dog]", "-prequire_any=[cat,dog]", "-pval_split=", "-pdata_name=pets")
    lines = check(*chosen).stdout.splitlines()
    assert lines[:2] == ["pets, 2 classes", "split train (train_split): 1 images, 1 with labels, 0 with masks"]
    assert lines[2] == "  images per class: cat 0, dog 1"
    assert lines[3] == "  train: 2 of 3 images show other classes or none of cat, dog, and are left out"
    for name in "ab":
        (voc / "Annotations" / f"{name}.xml").write_text("<annotation>")
    result = check(*chosen)
    assert result.exit_code == 1 and [f"{n}.xml: not valid XML" in result.stdout for n in "ab"] == [True, True]
    for name in "ab":
        voc_image(voc, name, "dog")
    unshown = check("-pclasses=[sheep]", "-prequire_any=[sheep]")
    assert unshown.exit_code == 2 and "choose classes that the split shows" in unshown.stderr


def test_check_says_what_a_split_lacks_and_which_splits_there_are(check, voc):
    (voc / "SegmentationClass" / "v.png").unlink()
    result = check()
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == (
        "split val: none of the 1 images has a mask; write val_split: '' to do without"
    )
    result = check("-ptrain_split=train_aug")
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert "no split 'train_aug'; splits that exist: train, val" in result.stderr


def test_check_of_scenes_says_that_they_are_composed(tmp_path):
    (tmp_path / "p.yaml").write_text("run_name: x\nn_train: 4\n")
    result = call("check", tmp_path / "p.yaml")
    assert result.exit_code == 0 and result.stdout == "sample scenes, composed by the run: 4 train, 80 val\n"
