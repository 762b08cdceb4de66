"""`pmm data`: data sets put in place, converted, counted and checked; every fault is one line."""

import csv
import hashlib
import json
import shutil
import sys
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.io import savemat

from pmm.cli import main
from pmm.data import open_dataset
from pmm.data import voc as voc_module
from pmm.data.coco import COCOData
from pmm.data.images import class_palette, read_mask, write_jpeg, write_mask
from pmm.run.folders import read_labels

SHARED = Path(__file__).resolve().parents[2] / "shared"


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


@pytest.mark.parametrize(("place", "images"), [("minivoc", 90), ("minicoco", 30)])
def test_check_of_real_photographs(tmp_path, place, images):
    if not (root := SHARED / place).is_dir():
        pytest.skip(f"{root} is not there")
    name = "train" if place == "minivoc" else pytest.importorskip("pycocotools") and "train2014"
    settings = f"dataset: {place[4:]}\ndata_dir: {root}\ntrain_split: {name}\nval_split: ''\n"
    (tmp_path / "p.yaml").write_text(f"run_name: x\n{settings}")
    result = call("check", tmp_path / "p.yaml")
    assert result.exit_code == 0
    assert f"{images} images, {images} with labels, {images} with masks" in result.stdout


SQUARE = [[1, 1, 4, 1, 4, 3, 1, 3]]


def coco(root, split="train2014", names=("COCO_train2014_000000000005.jpg", "COCO_train2014_000000000003.jpg")):
    """Two images of 6 x 4 px, the first with a traffic light on a crowd of persons; COCO's ids with a gap."""
    pytest.importorskip("pycocotools")
    crowd = {"image_id": 0, "category_id": 1, "iscrowd": 1, "area": 12, "bbox": []}
    light = {"image_id": 0, "category_id": 10, "iscrowd": 0, "area": 6, "bbox": []}
    content = {
        "images": [{"id": i, "file_name": name, "width": 6, "height": 4} for i, name in enumerate(names)],
        "annotations": [
            {**crowd, "segmentation": {"counts": [0, 12, 12], "size": [4, 6]}},
            {**light, "segmentation": SQUARE},
        ],
        "categories": [{"id": 10, "name": "traffic light"}, {"id": 1, "name": "person"}],
    }
    for name in names:
        write_jpeg(root / split / name, np.full((4, 6, 3), 90, np.uint8))
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return content


def test_coco_becomes_label_maps_and_tables(tmp_path):
    coco(tmp_path)
    out = tmp_path / "out"
    result = call("coco2014", "--root", tmp_path, "--out", out)
    assert result.exit_code == 0
    assert result.stdout == f"{out / 'train2014'}: 2 new label maps, 0 were there, 0 cannot be drawn\n"
    expected = np.zeros((4, 6), np.uint8)
    expected[:, :3] = 255  # the crowd
    expected[1:3, 1:4] = 2
    path = out / "train2014" / "COCO_train2014_000000000005.png"
    np.testing.assert_array_equal(read_mask(path), expected)
    assert not read_mask(out / "train2014" / "COCO_train2014_000000000003.png").any()
    with Image.open(path) as image:
        assert image.mode == "P"
        assert image.getpalette()[6:9] == class_palette(("background", "person", "traffic light"))[2].tolist()
    assert list(csv.DictReader((out / "categories.csv").open())) == [
        {"id": "1", "coco_id": "1", "name": "person"},
        {"id": "2", "coco_id": "10", "name": "traffic light"},
    ]
    labels = read_labels(out / "labels_train2014.csv")
    assert labels.class_names == ("background", "person", "traffic_light")
    assert labels.of == {"COCO_train2014_000000000005": (1, 2), "COCO_train2014_000000000003": ()}


def test_the_label_maps_are_a_folder_of_images_of_ones_own(tmp_path):
    coco(tmp_path)
    out = tmp_path / "out"
    call("coco2014", "--root", tmp_path, "--out", out)
    (out / "train2014").rename(out / "masks")
    (out / "labels_train2014.csv").rename(out / "labels.csv")
    shutil.copytree(tmp_path / "train2014", out / "images")
    folder, whole = open_dataset("folder", out), COCOData(tmp_path)
    for image_id in whole.ids("train2014"):
        assert folder.labels(image_id) == whole.labels(image_id)
        np.testing.assert_array_equal(folder.mask(image_id), whole.mask(image_id))


def test_coco_keeps_what_is_there_and_writes_the_rest_beside_an_outline_that_cannot_be_drawn(tmp_path):
    content = coco(tmp_path)
    first, second = (f"COCO_train2014_00000000000{i}" for i in (5, 3))
    content["annotations"][1]["segmentation"] = {"counts": [0, 5], "size": [2, 2]}
    annotations = tmp_path / "annotations" / "instances_train2014.json"
    annotations.write_text(json.dumps(content))
    out = tmp_path / "out"
    result = call("coco2014", "--root", tmp_path, "--split", "train2014", "--out", out)
    assert result.exit_code == 1
    counted, problem = result.stdout.splitlines()
    assert counted.endswith("1 new label maps, 0 were there, 1 cannot be drawn")
    assert problem.startswith(f"{first}.jpg: an outline cannot be drawn")
    assert [path.name for path in (out / "train2014").iterdir()] == [f"{second}.png"]
    before = (out / "train2014" / f"{second}.png").stat().st_mtime_ns
    content["annotations"][1]["segmentation"] = SQUARE
    annotations.write_text(json.dumps(content))
    again = call("coco2014", "--root", tmp_path, "--out", out)
    assert again.exit_code == 0 and "1 new label maps, 1 were there, 0 cannot be drawn" in again.stdout
    assert (out / "train2014" / f"{second}.png").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("split", "names", "year"),
    [
        ("train2014", ("000000000009.jpg", "000000000025.jpg"), "2017"),
        ("val2017", ("COCO_val2014_000000000042.jpg",), "2014"),
    ],
)
def test_coco_of_another_year_is_told_by_its_images(tmp_path, split, names, year):
    coco(tmp_path, split, names)
    said = refusal("coco2014", "--root", tmp_path, "--split", split, "--out", tmp_path / "out")
    assert f"instances_{split}.json: has images of COCO {year}, such as {names[0]}; take the file of COCO" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["check", "coco2014"])
def test_without_pycocotools_a_line_says_how_to_install_it(tmp_path, monkeypatch, command):
    coco(tmp_path)
    (tmp_path / "p.yaml").write_text(f"dataset: coco\ndata_dir: {tmp_path}\ntrain_split: train2014\nval_split: ''\n")
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    where = (tmp_path / "p.yaml",) if command == "check" else ("--root", tmp_path, "--out", tmp_path / "out")
    assert "pip install pycocotools" in refusal(command, *where)


def test_coco_without_the_file_says_which_splits_there_are(tmp_path):
    coco(tmp_path, "train2017", ("000000000009.jpg",))
    for options in ((), ("--split", "train2014")):
        said = refusal("coco2014", "--root", tmp_path, *options, "--out", tmp_path / "out")
        assert "no annotations/instances_train2014.json; splits that exist: train2017" in said
    assert "no annotations/instances_<split>.json" in refusal(
        "coco2014", "--root", tmp_path / "train2017", "--out", tmp_path / "out"
    )
    split2017 = call("coco2014", "--root", tmp_path, "--split", "train2017", "--out", tmp_path / "out")
    assert split2017.exit_code == 0 and "1 new label maps" in split2017.stdout


def make_voc(root):
    for name in "abv":
        voc_image(root, name, "dog")
    for name in "st":  # photographs that only SBD has masks of
        voc_image(root, name, "cat", mask=False)
    split(root, train="ba", val="v")


def make_sbd(root):
    """SBD's train holds VOC's validation image, its val one of VOC's training images."""
    folder = root / "dataset"
    (folder / "cls").mkdir(parents=True)
    for name in "stva":
        record = {"Segmentation": np.full((4, 6), 8, np.uint8), "Boundaries": np.zeros((2, 2)), "CategoriesPresent": 8}
        savemat(folder / "cls" / f"{name}.mat", {"GTcls": record})
    (folder / "train.txt").write_text("v\nt\n")
    (folder / "val.txt").write_text("s\na\n")


@pytest.fixture
def asked(monkeypatch):
    """The archives that are asked for; what torchvision would download is made."""
    asked = []

    def download(url, download_root, extract_root, filename, md5):
        asked.append(filename)
        voc_archive = filename == "VOCtrainval_11-May-2012.tar"
        make = (make_voc, "VOCdevkit/VOC2012") if voc_archive else (make_sbd, "benchmark_RELEASE")
        make[0](Path(extract_root) / make[1])

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", download)
    monkeypatch.setitem(voc_module._VOC_SPLITS, "train", 2)  # else it is a part of VOC
    return asked


BOTH = ["VOCtrainval_11-May-2012.tar", "benchmark.tgz"]


def test_voc_is_put_in_place_with_the_list_and_the_masks_of_sbd(tmp_path, asked):
    result = call("voc2012", "--root", tmp_path)
    root = tmp_path / "VOCdevkit" / "VOC2012"
    table = root / "ImageSets" / "Segmentation" / "train_aug.txt"
    assert result.exit_code == 0 and asked == BOTH
    assert result.stdout.splitlines() == [
        f"{root}: 2 images in train, 1 in val",
        f"{table}: 4 images, 4 new masks in SegmentationClassAug, 0 were there",
    ]
    assert table.read_text() == "a\nb\ns\nt\n"  # without v, which is VOC's val
    masks = {path.stem: read_mask(path, 21) for path in (root / "SegmentationClassAug").iterdir()}
    assert {name: mask[0, 0] for name, mask in masks.items()} == {"a": 12, "b": 12, "s": 8, "t": 8}
    assert open_dataset("voc", tmp_path).mask("s")[0, 0] == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["VOCdevkit", "benchmark_RELEASE"]


def test_voc_goes_on_where_it_stopped(tmp_path, asked):
    call("voc2012", "--root", tmp_path)
    root = tmp_path / "VOCdevkit" / "VOC2012"
    assert "4 images, 0 new masks in SegmentationClassAug, 4 were there" in call("voc2012", "--root", tmp_path).stdout
    (root / "SegmentationClassAug" / "s.png").unlink()
    assert "4 images, 1 new masks" in call("voc2012", "--root", root).stdout and asked == [*BOTH, "benchmark.tgz"]
    shutil.rmtree(tmp_path / "benchmark_RELEASE")  # with list and masks SBD itself is not needed
    assert call("voc2012", "--root", tmp_path).exit_code == 0 and len(asked) == 3
    (root / "SegmentationClassAug" / "s.png").unlink()
    make_sbd(tmp_path / "benchmark_RELEASE")
    (tmp_path / "benchmark_RELEASE" / "dataset" / "cls" / "s.mat").write_bytes(b"no mat file")
    said = refusal("voc2012", "--root", tmp_path)
    assert "s.mat: no mask of SBD (" in said and said.endswith("; unpack benchmark.tgz anew")


def test_voc_without_a_network_says_what_to_put_where(tmp_path, asked, monkeypatch):
    def offline(*_):
        raise OSError("Name or service not known")

    made = "torchvision.datasets.utils.download_and_extract_archive"
    with monkeypatch.context() as patch:
        patch.setattr(made, offline)
        said = refusal("voc2012", "--root", tmp_path / "new")
    assert "VOCtrainval_11-May-2012.tar: cannot be downloaded and unpacked (Name or service not known); get" in said
    assert f"put it into {tmp_path / 'new'}, or VOC 2012 as {tmp_path / 'new' / 'VOCdevkit' / 'VOC2012'}; then" in said
    make_voc(tmp_path / "VOCdevkit" / "VOC2012")
    monkeypatch.setattr(made, offline)
    result = call("voc2012", "--root", tmp_path)
    assert result.exit_code == 2 and "2 images in train" in result.stdout and len(result.stderr.splitlines()) == 1
    assert "benchmark.tgz" in result.stderr and "train_aug.txt and " in result.stderr


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Both archives, small ones, on a server of this machine whose addresses torchvision is told."""
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    monkeypatch.setitem(voc_module._VOC_SPLITS, "train", 2)
    folder = tmp_path / "archives"
    folder.mkdir()
    made = ((make_voc, "VOCdevkit/VOC2012", "w"), (make_sbd, "benchmark_RELEASE", "w:gz"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder))
    keys = []
    for name, (make, place, mode) in zip(BOTH, made, strict=True):
        make(tmp_path / "source" / place)
        with tarfile.open(folder / name, mode) as archive:
            archive.add(tmp_path / "source" / place, place)
        md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
        keys.append({"url": f"http://127.0.0.1:{server.server_port}/{name}", "md5": md5})
    for key in keys[0]:
        monkeypatch.setitem(DATASET_YEAR_DICT["2012"], key, keys[0][key])
        monkeypatch.setattr(SBDataset, key, keys[1][key])
    Thread(target=server.serve_forever, daemon=True).start()
    yield folder
    server.shutdown()


def test_both_archives_are_downloaded_proven_and_unpacked(tmp_path, archives):
    assert "4 images, 4 new masks" in call("voc2012", "--root", tmp_path / "voc").stdout
    assert {path.name for path in (tmp_path / "voc").iterdir()} == {"VOCdevkit", "benchmark_RELEASE", *BOTH}


def test_an_archive_that_changed_on_its_way_is_refused(tmp_path, archives):
    (archives / BOTH[1]).write_bytes((archives / BOTH[1]).read_bytes()[:-9])
    said = refusal("voc2012", "--root", tmp_path / "voc")
    assert f"{BOTH[1]}: cannot be downloaded and unpacked (File not found or corrupted.); get" in said
    assert not (tmp_path / "voc" / "benchmark_RELEASE").exists()


def test_archives_that_were_put_there_by_hand_are_unpacked_without_a_network(tmp_path, archives):
    for name in BOTH:
        shutil.move(archives / name, tmp_path / name)
    assert "4 images, 4 new masks" in call("voc2012", "--root", tmp_path).stdout


def test_a_part_of_voc_is_not_mixed_with_sbd(voc, tmp_path):
    said = refusal("voc2012", "--root", tmp_path)
    assert said == f"pmm: {voc}: holds a part of VOC 2012, or another set; choose another --root"
