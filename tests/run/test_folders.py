"""Whole folders: masks from anybody's CAMs, their scores, and every mistake in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pmm.cli import main
from pmm.data.cams import save_cams
from pmm.data.images import VOC_CLASSES, read_mask, voc_palette, write_jpeg, write_mask
from pmm.errors import InputError
from pmm.method.cam import normalize_cam
from pmm.method.pseudo_mask import ppmg
from pmm.run import folders
from pmm.run.compute import METHODS, crf_settings
from pmm.run.folder import RunFolder
from pmm.run.params import Params

SIZE = 24, 32
VOC = Path("voc")
LABELS = {"2007_000032": ("cat",), "2007_000033": ("cat", "person"), "2007_000039": ("dog",)}
IDS = {name: tuple(sorted(map(VOC_CLASSES.index, names))) for name, names in LABELS.items()}
P = Params(s=0.3, alpha=2.0).model_dump()


def maps(n, seed):
    """One bright spot for each of n classes, the first on the left."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    places = [(12 + seed, 8), (12 - seed, 24)][:n]
    return normalize_cam(np.stack([np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 60) for cy, cx in places]))


def picture(n, seed):
    """A picture whose objects are where the maps are bright: one red, one blue, on grey."""
    image = np.full((*SIZE, 3), 128, np.uint8)
    for place, bright in zip((0, 2), maps(n, seed) > 0.4, strict=False):
        image[bright] = np.roll((250, 10, 10), place)
    return image


@pytest.fixture
def folder(tmp_path):
    """Images, their labels as a table and as IRN has them, and CAMs as IRN writes them."""
    (tmp_path / "cams").mkdir()
    for seed, (name, ids) in enumerate(IDS.items()):
        write_jpeg(tmp_path / "images" / f"{name}.jpg", picture(len(ids), seed))
        cam = {"keys": np.array(ids) - 1, "cam": maps(len(ids), seed), "high_res": maps(len(ids), seed)}
        np.save(tmp_path / "cams" / f"{name}.npy", cam, allow_pickle=True)
    rows = "".join(f"{name}.jpg,{' '.join(names)}\n" for name, names in LABELS.items())
    (tmp_path / "labels.csv").write_text("image,labels\n" + rows)
    vectors = {int(name.replace("_", "")): np.eye(20)[np.array(ids) - 1].sum(0) for name, ids in IDS.items()}
    np.save(tmp_path / "cls_labels.npy", vectors, allow_pickle=True)
    return tmp_path


def call(folder, *arguments):
    paths = ("--cams", folder / "cams", "--images", folder / "images", "--out", folder / "out")
    return CliRunner().invoke(main, ["masks", *map(str, paths), *map(str, arguments)])


def complaint(folder, *arguments):
    result = call(folder, *arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    return result.stderr.splitlines()[-1]  # below the progress bar, if any


@pytest.mark.parametrize("file", ["labels.csv", "cls_labels.npy"])
def test_labels_of_both_kinds_are_the_same(folder, file):
    assert folders.read_labels(folder / file, VOC) == folders.Labels(VOC_CLASSES, IDS)


@pytest.mark.parametrize("method", METHODS)
def test_masks_of_a_folder_are_those_of_the_method(folder, method):
    labels = folders.read_labels(folder / "labels.csv", VOC)
    made = folders.make_masks(folder / "cams", folder / "images", folder / "out", method, P, labels)
    assert made.new == list(IDS) and not (made.kept or made.empty or made.without_cam)
    for name, ids in IDS.items():
        assert set(np.unique(read_mask(folder / "out" / f"{name}.png"))) == {0, *ids}
    if method == "ppmg":
        from pmm.data.images import read_image

        image = read_image(folder / "images" / "2007_000033.jpg")
        own = {name: P[name] for name in ("s", "alpha", "t", "variant")}
        mask = ppmg(image, maps(2, 1), IDS["2007_000033"], **own, crf=crf_settings(P))
        np.testing.assert_array_equal(read_mask(folder / "out" / "2007_000033.png"), mask)


def test_cams_written_by_this_project_and_by_others_make_the_same_masks(folder):
    labels = folders.read_labels(folder / "labels.csv", VOC)
    for seed, (name, ids) in enumerate(IDS.items()):
        cam = maps(len(ids), seed).astype(np.float16)
        save_cams(folder / "own" / f"{name}.npz", ids, cam.astype(np.float32))
        np.save(folder / "cams" / f"{name}.npy", dict(zip(np.array(ids) - 1, cam, strict=True)), allow_pickle=True)
    for source in ("own", "cams"):
        folders.make_masks(folder / source, folder / "images", folder / f"out_{source}", "ppmg", P, labels)
    for name in IDS:
        pair = [(folder / f"out_{source}" / f"{name}.png").read_bytes() for source in ("own", "cams")]
        assert pair[0] == pair[1]


def test_the_cams_of_a_run_go_out_and_come_back_as_the_same_masks(folder):
    run = RunFolder(folder / "run")
    refused = CliRunner().invoke(main, ["cams", str(run.path), "--export", "irn", "--out", str(folder / "irn")])
    assert refused.exit_code == 2 and "has no finished CAMs" in refused.stderr
    with run.stage("cams", {}) as stage:
        for seed, (name, ids) in enumerate(IDS.items()):
            save_cams(stage.folder / f"{name}.npz", ids, maps(len(ids), seed))
    labels = folders.read_labels(folder / "labels.csv", VOC)
    for form in ("irn", "pmm"):
        sent = CliRunner().invoke(main, ["cams", str(run.path), "--export", form, "--out", str(folder / form)])
        assert sent.exit_code == 0 and "3 files, the first class counted as 0" in sent.stdout
        folders.make_masks(folder / form, folder / "images", folder / f"out_{form}", "crf", P, labels)
    folders.make_masks(stage.folder, folder / "images", folder / "out_own", "crf", P)
    for name in IDS:
        found = {(folder / f"out_{source}" / f"{name}.png").read_bytes() for source in ("irn", "pmm")}
        masks = [read_mask(folder / f"out_{source}" / f"{name}.png") for source in ("irn", "own")]
        assert len(found) == 1 and np.array_equal(*masks)


def test_the_command_goes_on_where_it_stopped_and_refuses_to_mix_settings(folder):
    first = call(folder, "--labels", folder / "cls_labels.npy", "-p", "alpha=2", "-p", "s=0.3")
    assert first.exit_code == 0 and "3 new masks" in first.stdout and "0 were there" in first.stdout
    from PIL import Image

    with Image.open(folder / "out" / "2007_000032.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.reshape(image.getpalette(), (-1, 3))[8], voc_palette()[8])  # VOC's colour of a cat
    (folder / "out" / "2007_000039.png").unlink()
    again = call(folder, "--labels", folder / "cls_labels.npy", "-p", "alpha=2", "-p", "s=0.3", "-p", "workers=1")
    assert "1 new masks" in again.stdout and "2 were there" in again.stdout
    said = complaint(folder, "--labels", folder / "cls_labels.npy", "-p", "alpha=3")
    assert "holds masks of other settings (alpha = 2.0, asked for 3.0); choose another folder" in said
    (folder / "out" / folders.SETTINGS_FILE).rename(folder / "aside")
    assert "holds PNGs that no `pmm masks` made" in complaint(folder, "--first-class", 0)
    (folder / "aside").rename(folder / "out" / folders.SETTINGS_FILE)
    (folder / "cams").rename(folder / "other")
    (folder / "other" / "2007_000039.npy").rename(folder / "2007_000039.npy")
    moved = ["--cams", folder / "other", "--labels", folder / "cls_labels.npy", "-p", "alpha=2", "-p", "s=0.3"]
    assert "masks of other settings (cams = " in complaint(folder, *moved)
    settings = json.loads((folder / "out" / folders.SETTINGS_FILE).read_text())
    assert settings["method"] == "ppmg" and "cam_threshold" not in settings


def test_images_without_a_cam_are_counted_and_the_exit_code_tells(folder):
    (folder / "cams" / "2007_000032.npy").unlink()
    result = call(folder, "--labels", folder / "labels.csv", "--classes", "voc", "-p", "method=threshold")
    assert result.exit_code == 1 and result.stderr.splitlines()[-1] == "pmm: 1 images have no CAM: 2007_000032"
    assert len(list((folder / "out").glob("*.png"))) == 2


def test_a_mistake_is_one_line_and_what_is_written_stays(folder, tmp_path):
    assert "give --labels, too" in complaint(folder, "--classes", "voc", "--first-class", 0)
    blocked = call(folder, "--first-class", 0, "--out", folder / "labels.csv")
    assert (
        blocked.exit_code == 2
        and blocked.stderr == f"pmm: {folder / 'labels.csv'}: File exists; check the name, the rights and the space\n"
    )
    assert "method = mean: choose one of threshold, crf" in complaint(folder, "-p", "method=mean")
    unread = complaint(folder, "-p", "method=crf", "-p", "alpha=11")
    assert "-p alpha: method = crf does not read it, but alpha_crf and crf_*" in unread
    assert "unknown parameter alhpa; did you mean alpha?" in complaint(folder, "-p", "alhpa=1")
    assert "may count the classes from 0 or from 1" in complaint(folder)
    (folder / "short.csv").write_text("image,labels\n2007_000032.jpg,cat\n")
    assert "the labels do not name 2 of its files: 2007_000033, 2007_000039" in complaint(
        folder, "--labels", folder / "short.csv", "--classes", "voc"
    )
    (folder / "wrong.csv").write_text((folder / "labels.csv").read_text().replace("dog", "sheep"))
    assert "2007_000039.npy: its keys 11 are not the image's classes 17" in complaint(
        folder, "--labels", folder / "wrong.csv", "--classes", "voc", "-p", "workers=1"
    )
    assert {path.stem for path in (folder / "out").glob("*.png")} == {"2007_000032", "2007_000033"}
    (folder / "images" / "2007_000039.jpg").unlink()
    said = complaint(folder, "--labels", folder / "labels.csv", "--classes", "voc")
    assert "no image of that name in" in said and said.endswith("1 of its files: 2007_000039")
    with pytest.raises(InputError, match="no such folder"):
        folders.make_masks(folder / "gone", folder / "images", folder / "out", "ppmg", P)
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no CAM in it; a CAM is a file \*\.npz"):
        folders.make_masks(folder / "empty", folder / "images", folder / "out", "ppmg", P)


def test_labels_that_cannot_be_read_are_refused(folder):
    np.save(folder / "vectors.npy", {"a": np.zeros(3), "b": np.zeros(4)}, allow_pickle=True)
    with pytest.raises(InputError, match=r"vectors\.npy: a vector of labels an image expected"):
        folders.read_labels(folder / "vectors.npy")
    (folder / "two.txt").write_text("cat\ndog\n")
    with pytest.raises(InputError, match=r"found 20 labels an image for 2 classes; give as many names"):
        folders.read_labels(folder / "cls_labels.npy", folder / "two.txt")
    with pytest.raises(InputError, match="found unknown class 'person'"):
        folders.read_labels(folder / "labels.csv", folder / "two.txt")
    for rows in ("a.jpg,cat\na.png,dog\n", "a.jpg,background cat\n", ",cat\n"):
        (folder / "twice.csv").write_text(f"image,labels\n{rows}")
        with pytest.raises(InputError, match=r"twice\.csv, line \d: name each image once"):
            folders.read_labels(folder / "twice.csv")
    (folder / "none.csv").write_text("image,labels\n")
    with pytest.raises(InputError, match=r"none\.csv: lists no image"):
        folders.read_labels(folder / "none.csv")
    (folder / "dots.csv").write_text("image,labels\na.v1,cat\nb.v1.png,cat\n")
    assert list(folders.read_labels(folder / "dots.csv").of) == ["a.v1", "b.v1"]
    (folder / "other.csv").write_text("image,labels\na.jpg,tiger lion\n")
    assert folders.read_labels(folder / "other.csv").class_names == ("background", "lion", "tiger")
    (folder / "classes.txt").write_text("tiger\nlion\n")  # beside the table, as in a folder of one's own
    assert folders.read_labels(folder / "other.csv") == folders.Labels(("background", "tiger", "lion"), {"a": (1, 2)})


def test_eval_scores_what_has_a_ground_truth(tmp_path):
    truth = np.array([[0, 1, 1, 255]], np.uint8)
    for name, mask in {"a": [[0, 1, 0, 2]], "b": [[0, 1, 1, 0]], "extra": [[0, 0, 0, 0]]}.items():
        write_mask(tmp_path / "masks" / f"{name}.png", np.array(mask, np.uint8))
    for name in ("a", "b"):
        write_mask(tmp_path / "truth" / f"{name}.png", truth)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    paths = ["eval", "--masks", str(tmp_path / "masks"), "--truth", str(tmp_path / "truth")]
    result = CliRunner().invoke(main, [*paths, "--classes", str(tmp_path / "classes.txt")])
    # background: 2 of 3 right, cat 3 of 4 (one missed), dog: only where nothing is scored
    lines = result.stdout.splitlines()
    assert lines[:3] == ["background   66.67%", "cat          75.00%", "dog         does not occur"]
    assert lines[3] == "mIoU 70.83%, pixel accuracy 83.33%, 2 images"
    assert lines[4] == "1 masks have no ground truth and are not scored: extra"
    write_mask(tmp_path / "truth" / "c.png", truth)
    assert "1 ground truths have no mask and are not scored: c" in CliRunner().invoke(main, paths).stdout
    (tmp_path / "truth" / "c.png").unlink()
    for name in ("a", "b"):
        write_mask(tmp_path / "unknown" / f"{name}.png", np.full((1, 4), 255))
    nothing = CliRunner().invoke(main, [*paths[:3], "--truth", str(tmp_path / "unknown")])
    assert nothing.exit_code == 2 and "every pixel is unknown (255), so nothing can be scored" in nothing.stderr
    write_mask(tmp_path / "truth" / "b.png", truth[:, :3])
    assert "b.png: mask and ground truth have 4 x 1 px and 3 x 1 px" in CliRunner().invoke(main, paths).stderr
    for path in (tmp_path / "truth").glob("*.png"):
        path.rename(path.with_stem(f"other_{path.stem}"))
    result = CliRunner().invoke(main, paths)
    assert result.exit_code == 2 and "none of its 2 files has the name of one of the 3 in" in result.stderr
