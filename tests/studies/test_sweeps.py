"""Sweeps over a handful of tiny scenes, against a loop over the same images."""

from types import SimpleNamespace

import numpy as np
import pytest

from pmm.errors import InputError
from pmm.method.crf import CRFSettings
from pmm.method.metrics import confusion_matrix, mean_iou
from pmm.method.pseudo_mask import crf_pseudo_mask, ppmg, threshold_pseudo_mask
from pmm.run.params import Params
from pmm.studies.masks import best_in_hindsight, best_threshold, evaluated_ids, sweep, sweep_section

SIZE = (12, 16)


class FakeExperiment:
    """Four images, each with a bright square of class 1 or 2; the CAM falls off around it."""

    def __init__(self, masked=True, workers=1):
        self.params = Params(workers=workers)
        self.train_ids = [f"scene{n}" for n in range(4)]
        self.inputs_mark = "squares"
        self.judge_ids = self.train_ids if masked else []
        self.data = SimpleNamespace(
            name="squares",
            class_names=("background", "one", "two"),
            image=self._image,
            mask=self._mask,
            has_mask=lambda _: masked,
        )

    def _mask(self, image_id):
        number = int(image_id[-1])
        mask = np.zeros(SIZE, np.uint8)
        mask[2:8, 2 + number : 9 + number] = 1 + number % 2
        return mask

    def _image(self, image_id):
        noise = np.random.default_rng(int(image_id[-1])).integers(0, 20, (*SIZE, 3))
        return (np.where(self._mask(image_id) > 0, 200, 40)[..., None] + noise).astype(np.uint8)

    def cam(self, image_id):
        mask, number = self._mask(image_id), int(image_id[-1])
        rows, columns = np.indices(SIZE)
        cam = np.exp(-((rows - 4) ** 2 + (columns - 5 - number) ** 2) / 12.0)
        return np.array([mask.max()], np.int64), cam[None].astype(np.float32)

    def crf_settings(self, joint=False):
        return CRFSettings(iterations=3, gauss_compat=3 if joint else 10)


@pytest.fixture
def experiment():
    return FakeExperiment()


def miou_by_loop(experiment, make_mask):
    truth = np.stack([experiment.data.mask(i) for i in experiment.train_ids])
    masks = [make_mask(experiment.data.image(i), *reversed(experiment.cam(i))) for i in experiment.train_ids]
    return mean_iou(confusion_matrix(truth, np.stack(masks), 3))


def test_threshold_sweep_agrees_with_a_loop(experiment):
    found = sweep(experiment, "threshold", [0.1, 0.5, 1.0])
    for value, miou in zip(found["values"], found["miou"], strict=True):
        assert miou == pytest.approx(
            miou_by_loop(experiment, lambda _, cam, ids, v=value: threshold_pseudo_mask(cam, ids, v)),
            abs=1e-4,
        )
    assert len(set(found["miou"])) == 3
    assert found["images"] == 4 and "ground truth" in found["data"]


@pytest.mark.parametrize("s", [None, 0.0])
def test_ppmg_sweep_agrees_with_a_loop(experiment, s):
    p, settings = experiment.params, experiment.crf_settings()
    found = sweep(experiment, "ppmg", [1.0, 6.0], s=s)
    used = p.s if s is None else s
    for alpha, miou in zip(found["values"], found["miou"], strict=True):

        def mask(image, cam, ids, alpha=alpha):
            return ppmg(image, cam, ids, s=used, alpha=alpha, t=p.t, variant=p.variant, crf=settings)

        assert miou == pytest.approx(miou_by_loop(experiment, mask), abs=1e-4)
    assert f"s = {used:g}" in found["method"] and found["parameter"] == "alpha"


def test_joint_sweep_takes_the_joint_settings(experiment):
    settings = experiment.crf_settings(joint=True)
    found = sweep(experiment, "crf", [3.0])
    expected = miou_by_loop(experiment, lambda im, cam, ids: crf_pseudo_mask(im, cam, ids, alpha=3.0, crf=settings))
    assert found["miou"] == [pytest.approx(expected, abs=1e-4)]


def test_threads_give_the_same(experiment):
    assert sweep(FakeExperiment(workers=2), "threshold", [0.3]) == sweep(experiment, "threshold", [0.3])
    assert sweep(FakeExperiment(workers=2), "ppmg", [0.5]) == sweep(experiment, "ppmg", [0.5])


def test_evaluated_images_are_evenly_spaced(experiment):
    assert evaluated_ids(experiment, 2) == ["scene0", "scene3"]
    assert evaluated_ids(experiment, 100) == evaluated_ids(experiment, None) == experiment.train_ids


def test_only_the_images_that_judge_are_evaluated(experiment):
    experiment.params = Params(workers=1, train_split="train_aug", judge_split="exact")
    experiment.judge_ids = ["scene1", "scene3"]
    assert evaluated_ids(experiment, None) == ["scene1", "scene3"]
    found = sweep(experiment, "threshold", [0.5])
    assert found["images"] == 2 == best_threshold(experiment, [0.5])["images"]
    assert found["data"] == "squares, 2 images of split exact, against ground truth"


def test_best_threshold_is_the_best_of_the_sweep(experiment):
    swept, found = sweep(experiment, "threshold", [0.1, 0.5, 0.9], 4), best_threshold(experiment, [0.1, 0.5, 0.9])
    assert (found["threshold"], round(found["miou"], 4)) == best_in_hindsight(swept)
    assert found["miou"] == pytest.approx(np.mean(list(found["iou"].values())))
    assert found["images"] == 4 and 0 < found["pixel_accuracy"] < 1


def test_section_has_a_row_a_value():
    sweeps = [{"method": m, "parameter": "alpha", "values": [0.5, 2.0], "miou": [0.1, 0.2], "data": "d"} for m in "ab"]
    section = sweep_section(sweeps)
    assert section["columns"] == ["alpha", "a", "b"]
    assert section["rows"] == [["0.5", 0.1, 0.1], ["2", 0.2, 0.2]]


def test_best_is_the_highest():
    assert best_in_hindsight({"values": [1.0, 2.0, 4.0], "miou": [0.2, 0.5, float("nan")]}) == (2.0, 0.5)


def test_without_ground_truth_there_is_no_sweep(experiment):
    with pytest.raises(InputError, match="ground truth"):
        sweep(FakeExperiment(masked=False), "threshold")
    with pytest.raises(InputError, match="choose one of"):
        sweep(experiment, "other")
    with pytest.raises(InputError, match="count"):
        evaluated_ids(experiment, 0)
