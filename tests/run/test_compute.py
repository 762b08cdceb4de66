"""Pseudo-masks as files: what is made, kept, refused and scored."""

import numpy as np
import pytest

from pmm.data.cams import save_cams
from pmm.data.images import write_jpeg, write_mask
from pmm.errors import InputError
from pmm.method.crf import CRFSettings
from pmm.method.pseudo_mask import crf_pseudo_mask, ppmg
from pmm.run.compute import METHODS, evaluate_masks, mask_function, read_pseudo_mask, write_pseudo_masks
from pmm.run.params import Params

CRF = CRFSettings(iterations=2)
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
CAM = np.random.default_rng(1).random((2, 8, 10), dtype=np.float32)
IDS = np.array([3, 1])


class Data:
    """Images in a folder; ground truth for some of them."""

    class_names = ("background", "cat", "dog", "owl")

    def __init__(self, folder, masks=None):
        self.folder, self.masks = folder, masks or {}

    def image_path(self, image_id):
        return self.folder / f"{image_id}.jpg"

    def has_mask(self, image_id):
        return image_id in self.masks

    def mask(self, image_id):
        return self.masks[image_id]


@pytest.fixture
def data(tmp_path):
    for name in ("a", "b", "c"):
        write_jpeg(tmp_path / "images" / f"{name}.jpg", IMAGE)
        save_cams(tmp_path / "cams" / f"{name}.npz", IDS, CAM)
    return Data(tmp_path / "images")


def threshold(value=0.5):
    return mask_function("threshold", {"cam_threshold": value}, CRF)


def write(data, ids=("a", "b", "c"), make=None, **options):
    root = data.folder.parent
    make = make or threshold()
    write_pseudo_masks(make, data, ids, root / "cams", root / "masks", **options)
    return {path.stem: path.read_bytes() for path in (root / "masks").glob("*.png")}


def test_every_method_is_called_with_its_own_parameters():
    settings = Params(s=0.4, t=0.1, alpha=0.7, alpha_crf=1.5, cam_threshold=0.6).model_dump()
    made = {method: mask_function(method, settings, CRF)(IMAGE, CAM, IDS) for method in METHODS}
    top = np.where(CAM.max(0) > 0.6, IDS[CAM.argmax(0)], 0)
    np.testing.assert_array_equal(made["threshold"], top)
    np.testing.assert_array_equal(made["crf"], crf_pseudo_mask(IMAGE, CAM, IDS, alpha=1.5, crf=CRF))
    options = {"t": 0.1, "alpha": 0.7, "variant": "official", "crf": CRF}
    np.testing.assert_array_equal(made["ppmg"], ppmg(IMAGE, CAM, IDS, s=0.4, **options))
    np.testing.assert_array_equal(made["ppmg_s0"], ppmg(IMAGE, CAM, IDS, s=0.0, **options))


def test_an_unknown_method_names_those_that_exist():
    with pytest.raises(InputError, match=r"^method = magic: choose one of threshold, crf, ppmg_s0, ppmg$"):
        mask_function("magic", {}, CRF)


def test_masks_are_written_and_read_back(data, tmp_path):
    files = write(data)
    assert sorted(files) == ["a", "b", "c"] and len(set(files.values())) == 1
    mask = read_pseudo_mask(tmp_path / "masks", "a", 4)
    stored = CAM.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(mask, threshold()(IMAGE, stored, IDS))
    with pytest.raises(InputError, match=r"zz\.png"):
        read_pseudo_mask(tmp_path / "masks", "zz", 4)
    with pytest.raises(InputError, match=r"a\.png"):
        read_pseudo_mask(tmp_path / "masks", "a", 2)  # class 3 is none of two


def test_files_that_are_there_are_kept(data, tmp_path):
    write_mask(tmp_path / "masks" / "b.png", np.full((8, 10), 2, np.uint8))
    write(data)
    assert (read_pseudo_mask(tmp_path / "masks", "b", 4) == 2).all()


def test_several_workers_change_nothing(data, tmp_path):
    alone = write(data)
    for path in (tmp_path / "masks").glob("*.png"):
        path.unlink()
    assert write(data, workers=2) == alone


def test_an_image_that_came_later_is_found_in_the_same_process(data, tmp_path):
    write(data, ("a",))
    write_jpeg(tmp_path / "images" / "new.jpg", IMAGE)
    save_cams(tmp_path / "cams" / "new.npz", IDS, CAM)
    assert sorted(write(data, ("a", "new"))) == ["a", "new"]


def test_a_cam_of_another_size_and_a_missing_cam_are_named(data, tmp_path):
    save_cams(tmp_path / "cams" / "b.npz", IDS, CAM[:, :4])
    with pytest.raises(InputError, match=r"b\.npz: CAM of \(4, 10\) for an image of \(8, 10\); resize the CAM"):
        write(data)
    (tmp_path / "cams" / "b.npz").unlink()
    with pytest.raises(InputError, match=r"b\.npz"):
        write(data)


def test_scores_count_only_images_with_ground_truth(tmp_path, capsys):
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    guess = {"a": np.array([[0, 1, 1, 1]], np.uint8), "b": np.array([[0, 0, 1, 255]], np.uint8)}
    data = Data(tmp_path, {"a": truth, "b": truth})
    facts = evaluate_masks(data, ["a", "x", "b"], guess.__getitem__, "score")
    assert capsys.readouterr().out == "score: 1 of 3 images have no ground truth and are not evaluated\n"
    # background: 3 hits, 1 missed, none wrong; cat: 3 hits, 1 missed (no answer), 1 wrong
    assert facts["images"] == 2 and facts["iou"]["background"] == pytest.approx(3 / 4)
    assert facts["iou"]["cat"] == pytest.approx(3 / 5) and facts["miou"] == pytest.approx((3 / 4 + 3 / 5) / 2)
    assert facts["pixel_accuracy"] == pytest.approx(6 / 8)
    assert evaluate_masks(data, ["x"], guess.__getitem__, "score") == {}
