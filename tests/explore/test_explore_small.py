"""The views of notebooks 01, 02 and 06: what they compute, and that a moved control is drawn at once."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from explorer_run import SIZE, TinyRun
from torch import nn

from pmm.explore import explore_border, explore_rounds, explore_scales
from pmm.explore.small import moved_border
from pmm.networks.inference import multi_scale_cam


@pytest.fixture
def run(tmp_path):
    return TinyRun(tmp_path)


def tick(view, **values):
    for name, value in values.items():
        view.controls[name].value = value
    return view.view


def test_a_border_moves_in_steps_up_down_left_and_right():
    mask = np.zeros((5, 6), np.uint8)
    mask[2, 2] = 3
    plus = [[0, 0, 0], [0, 0, 3, 0], [0, 3, 3, 3], [0, 0, 3, 0]]
    assert [row[: len(p)] for row, p in zip(moved_border(mask, 1).tolist(), plus, strict=False)] == plus
    assert np.array_equal(moved_border(moved_border(mask, 1), -1), mask)
    assert not moved_border(mask, -1).any() and (mask == 3).sum() == 1


def test_a_border_is_no_edge_of_the_image_and_the_higher_value_stays():
    mask = np.array([[1, 1, 0, 0, 2]], np.uint8)
    assert moved_border(mask, -1).tolist() == [[1, 0, 0, 0, 0]]
    assert moved_border(mask, 1).tolist() == [[1, 1, 1, 2, 2]]
    assert moved_border(np.array([[1, 0, 2]], np.uint8), 1).tolist() == [[1, 2, 2]]


def test_unknown_pixels_take_the_labels_around_them():
    assert moved_border(np.array([[1, 255, 255, 255, 255, 0, 0]], np.uint8), 0).tolist() == [[1, 1, 1, 0, 0, 0, 0]]
    assert not moved_border(np.full((3, 3), 255, np.uint8), 2).any()


def test_iou_of_a_moved_border_counts_what_is_evaluated(run):
    view = explore_border(run.data, run.train_ids)
    assert view.controls["pixels"].layout.flex == "1 1 320px"  # or a menu beside it leaves its track no room
    assert tick(view, pixels=0).numbers["accuracy"] == 1 and set(view.view.numbers["iou"].values()) == {1.0}
    truth, moved = run.data.mask("scene0"), moved_border(run.data.mask("scene0"), 2)
    counted = truth != 255
    numbers = tick(view, pixels=2).numbers
    for value, name in {0: "background", 1: "one", 2: "two words"}.items():
        both, either = (truth == value) & (moved == value), (truth == value) | (moved == value)
        assert numbers["iou"][name] == pytest.approx((both & counted).sum() / (either & counted).sum())
    assert numbers["accuracy"] == pytest.approx((truth == moved)[counted].mean())


def test_a_page_without_a_kernel_keeps_the_picture_and_its_words(run):
    view = explore_border(run.data, run.train_ids[:1])
    still = view._repr_mimebundle_()
    assert 'alt="scene0: the ground truth as a prediction' in still["text/html"] and "mean IoU" in still["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in still
    before = view._shown.picture.value
    tick(view, pixels=-4)
    assert view._shown.picture.value != before and "moved by -4 pixels" in view._shown.words.value


class Maps(nn.Module):
    """Three class maps at a fourth of the size."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 5, stride=4, padding=2)
        nn.init.normal_(self.layer.weight, generator=torch.Generator().manual_seed(2))

    def maps(self, images):
        return self.layer(images)


def test_ticked_scales_give_the_cam_of_just_these(run):
    model, statistics = Maps().eval(), ((0.5,) * 3, (0.5,) * 3)
    run.load_classifier, run.statistics = lambda: model, statistics
    view = explore_scales(run, ["scene0", "scene1"])
    assert len(view.controls["image"].options) == 3  # a class of an image each
    found = tick(view, **{"image": ("scene0", 2), "scale 0.5": True, "flip": True})
    options = {"scales": (0.5, 1.0), "flip": True, "statistics": statistics}
    cam = multi_scale_cam(model, run.data.image("scene0"), (1, 2), **options)[1]
    inside = run.data.mask("scene0") == 2
    wanted = {"of the two words": (cam[inside] > 0.5).mean(), "of all else": (cam[~inside] > 0.5).mean()}
    assert found.numbers["covered"][0] == pytest.approx(wanted)
    assert found.text[0].startswith("ticked: 0.5, 1, mirrored: above 0.5 lie ")
    assert tick(view, **{"scale 0.5": False, "scale 1": False}).text == ("no scale is ticked",)


def test_scales_without_ground_truth_count_the_whole_image(run):
    run.load_classifier, run.statistics = lambda: Maps().eval(), ((0.5,) * 3, (0.5,) * 3)
    run.data.has_mask = lambda i: False
    assert set(explore_scales(run, ["scene0"]).view.numbers["covered"][0]) == {"of the image"}


def test_round_and_filter(run):
    asked = []

    def cyclic_mask(model, image_id, filtered):
        asked.append((model, filtered))
        mask = np.ones(SIZE, np.uint8)
        mask[: SIZE[0] // 2] = 1 if filtered else 3  # class 3 is not in the image
        return mask

    run.cyclic_mask, run.params = cyclic_mask, run.params.model_copy(update={"cyclic_rounds": 1, "cyclic_filter": True})
    view = explore_rounds(run, ["scene0"])
    assert view.view.text[0].startswith("the filter changes 50.0% of the pixels")
    truth = run.data.mask("scene0")
    one = ((truth == 1).sum()) / (truth != 255).sum()
    assert f"{(0 + one + 0) / 3:.1%} of its prediction" in view.view.text[1]
    tick(view, filter=False)
    assert asked == [("pus", False), ("pus", True)]  # remembered
    tick(view, round=1)
    assert asked[2:] == [("round1", False), ("round1", True)]
    assert view.controls["round"].options == (0, 1)


def test_without_ground_truth_rounds_show_masks_alone(run):
    run.cyclic_mask = lambda model, image_id, filtered: np.ones(SIZE, np.uint8)
    run.data = SimpleNamespace(**{**vars(run.data), "has_mask": lambda i: False})
    run.pseudo_mask = lambda masks, image_id: np.zeros(SIZE, np.uint8)
    assert len(explore_rounds(run, ["scene1"]).view.text) == 1
