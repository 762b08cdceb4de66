"""The training loop: same seed, same bits, also across an interruption."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pmm.data.transforms import Augmentation, augment
from pmm.errors import InputError
from pmm.method import IGNORE_INDEX
from pmm.method.losses import PretendedUnderfittingLoss
from pmm.networks.devices import seeded
from pmm.networks.training import (
    CHECKPOINT,
    EARLY,
    LOG,
    WEIGHTS,
    EpochBatches,
    SegmentationLoss,
    TrainingImages,
    TrainingSettings,
    build_optimizer,
    build_scheduler,
    classifier_loss,
    crop_labels,
    fit,
    load_weights,
    read_log,
    save_tensors,
    summarise,
    write_log,
)

STATISTICS = ([0.5] * 3, [0.5] * 3)
SETTINGS = TrainingSettings(epochs=3, batch_size=2, lr=0.01, head_lr=5.0, weight_decay=0.01, seed=4)
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 10, 12, 3), dtype=np.uint8)


class Tiny(nn.Module):
    """A backbone with batch norm, and a head with dropout, so that every kind of state takes part."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))

    def forward(self, x):
        return self.head(self.backbone(x)).mean((2, 3))


def tiny():
    with seeded(0):
        return Tiny()


def bce(model, images, targets, progress):
    return F.binary_cross_entropy_with_logits(model(images), targets), {"progress": torch.tensor(progress)}


def load(index):
    return PICTURES[index], None, torch.tensor([index % 2, index // 3]).float()


def train(folder, loss=bce, model=None, **changes):
    model = model or tiny()
    chosen = replace(SETTINGS, **changes)
    images = TrainingImages(
        load, len(PICTURES), partial(augment, settings=Augmentation((8, 8), (0.8, 1.2), colour=0.2)), chosen.seed
    )
    options = {"backbone": model.backbone, "statistics": STATISTICS, "title": "tiny"}
    fit(model, images, loss, chosen, folder, **options)
    return model


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_one_seed_gives_the_same_bits_whatever_the_global_state(tmp_path):
    torch.manual_seed(1)
    first = train(tmp_path / "a")
    torch.manual_seed(2)
    second, third = train(tmp_path / "b"), train(tmp_path / "c", seed=5)
    assert same(first, second) and not same(first, third)
    assert (tmp_path / "a" / LOG).read_bytes() == (tmp_path / "b" / LOG).read_bytes()
    assert not first.training
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [EARLY, LOG, WEIGHTS]


def test_loader_processes_change_nothing(tmp_path):
    first, second = train(tmp_path / "a", epochs=1), train(tmp_path / "b", epochs=1, loader_workers=1)
    assert same(first, second)


@pytest.mark.parametrize("options", [{}, {"optimizer": "sgd", "schedule": "poly"}])
@pytest.mark.parametrize("steps", [2, 3, 4])  # two steps an epoch: killed at its end or in its middle
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(tmp_path, options, steps):
    whole = train(tmp_path / "whole", **options)
    calls = []

    def dies(*arguments):
        calls.append(1)
        if len(calls) > steps:
            raise KeyboardInterrupt
        return bce(*arguments)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", dies, **options)
    assert (tmp_path / "cut" / CHECKPOINT).exists() and not (tmp_path / "cut" / WEIGHTS).exists()
    done = []
    resumed = train(tmp_path / "cut", lambda *a: (done.append(1), bce(*a))[1], **options)
    assert len(done) == 6 - steps // 2 * 2  # finished epochs are not done again
    assert same(whole, resumed)
    assert (tmp_path / "whole" / LOG).read_bytes() == (tmp_path / "cut" / LOG).read_bytes()
    assert same(load_weights(Tiny(), tmp_path / "cut" / WEIGHTS), whole)


def test_the_weights_after_a_quarter_of_the_epochs_are_kept(tmp_path):
    train(tmp_path / "long", epochs=8, schedule="poly")
    early = load_weights(tiny(), tmp_path / "long" / EARLY).state_dict()
    late = load_weights(tiny(), tmp_path / "long" / WEIGHTS).state_dict()
    assert not torch.equal(early["head.2.weight"], late["head.2.weight"])
    train(tmp_path / "one", epochs=1)
    one = [load_weights(tiny(), tmp_path / "one" / name).state_dict() for name in (EARLY, WEIGHTS)]
    assert all(torch.equal(a, b) for a, b in zip(one[0].values(), one[1].values(), strict=True))


def test_training_leaves_torch_its_threads(tmp_path):
    before = torch.get_num_threads()
    train(tmp_path, epochs=1)
    assert torch.get_num_threads() == before


def test_the_loss_sees_the_share_of_steps_done(tmp_path):
    seen = []
    train(tmp_path, lambda *a: (seen.append(a[3]), bce(*a))[1])
    assert seen == [i / 6 for i in range(6)]
    assert read_log(tmp_path / LOG)["progress"] == pytest.approx([0.5 / 6, 2.5 / 6, 4.5 / 6])


def test_the_backbone_keeps_its_statistics_and_the_head_does_not(tmp_path):
    model, fresh = train(tmp_path, epochs=1), tiny()
    assert torch.equal(model.backbone[1].running_mean, fresh.backbone[1].running_mean)
    assert not torch.equal(model.head[0].running_mean, fresh.head[0].running_mean)
    assert not torch.equal(model.backbone[0].weight, fresh.backbone[0].weight)


def test_frozen_parameters_stay(tmp_path):
    model = tiny()
    model.backbone[0].requires_grad_(False)
    train(tmp_path, model=model, epochs=1)
    assert torch.equal(model.backbone[0].weight, tiny().backbone[0].weight)


def test_a_loss_that_is_no_number_stops_the_training_in_one_line(tmp_path):
    def nan(*arguments):
        return bce(*arguments)[0] * math.nan, {}

    with pytest.raises(InputError, match=r"^tiny: the loss became nan in epoch 1; lower the learning rate$"):
        train(tmp_path, nan)
    assert not (tmp_path / CHECKPOINT).exists() and not (tmp_path / WEIGHTS).exists()


@pytest.mark.parametrize(
    ("batch", "parts", "loss"),
    [(4, 3, bce), (2, 2, SegmentationLoss(PretendedUnderfittingLoss("none", None, None, "paper")))],
)
def test_a_batch_that_cannot_be_shared_is_refused_before_the_first_step(tmp_path, batch, parts, loss):
    what = f"a batch of {batch} images cannot be shared by 1 processes and {parts} micro_batches; give a multiple"
    with pytest.raises(InputError, match=f"^tiny: {what}"):
        train(tmp_path, loss, batch_size=batch, micro_batches=parts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["bytes", "empty", "other model", "no epoch", "list"])
def test_a_broken_checkpoint_is_named(tmp_path, kind):
    path = tmp_path / CHECKPOINT
    if kind == "bytes":
        path.write_bytes(b"PK\x03\x04 half a file")
    elif kind == "empty":
        path.touch()
    elif kind == "no epoch":
        model = tiny()
        optimizer = build_optimizer(model, model.backbone, SETTINGS)
        scheduler = build_scheduler(optimizer, SETTINGS, 6)
        parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
        save_tensors(path, {name: part.state_dict() for name, part in parts.items()})
    else:
        save_tensors(path, {"model": {"w": torch.zeros(1)}} if kind == "other model" else [1])
    with pytest.raises(InputError) as caught:
        train(tmp_path)
    assert str(caught.value).startswith(f"{path}: broken") and "\n" not in str(caught.value)


def schedule(kind, steps=20):
    model = tiny()
    chosen = replace(SETTINGS, schedule=kind)
    optimizer = build_optimizer(model, model.backbone, chosen)
    scheduler = build_scheduler(optimizer, chosen, steps)
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return np.array(rates)


def test_poly_falls_with_the_power_of_what_is_left():
    expected = 0.01 * (1 - np.arange(20) / 20) ** 0.9
    np.testing.assert_allclose(schedule("poly"), np.stack([expected, 5 * expected], 1), rtol=1e-6)


def test_onecycle_rises_for_15_percent_and_falls_to_almost_zero():
    rates = schedule("onecycle")
    np.testing.assert_allclose(rates[:, 1], 5 * rates[:, 0], rtol=1e-6)
    top = int(rates[:, 0].argmax())
    assert top in (2, 3) and 0.009 < rates[top, 0] <= 0.01
    assert (np.diff(rates[: top + 1, 0]) > 0).all() and (np.diff(rates[top:, 0]) < 0).all()
    assert 0 < rates[-1, 0] < 2e-4 and rates[0, 0] == pytest.approx(0.01 / 25)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimizer_groups_cover_every_trained_parameter_once(name, kind):
    model = tiny()
    model.backbone[0].bias.requires_grad_(False)
    optimizer = build_optimizer(model, model.backbone, replace(SETTINGS, optimizer=name))
    assert type(optimizer) is kind
    body, head = optimizer.param_groups
    assert {id(p) for p in head["params"]} == {id(p) for p in model.head.parameters()}
    trained = {id(p) for p in model.backbone.parameters()} - {id(model.backbone[0].bias)}
    assert {id(p) for p in body["params"]} == trained and len(body["params"]) == len(trained)
    assert (body["lr"], head["lr"], head["weight_decay"]) == (0.01, 0.05, 0.01)


def test_a_frozen_backbone_leaves_one_group():
    model = tiny()
    model.backbone.requires_grad_(False)
    assert [group["lr"] for group in build_optimizer(model, model.backbone, SETTINGS).param_groups] == [0.05]


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 3), st.integers(0, 3), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_every_epoch_visits_an_image_at_most_once(n, size, first, more, seed):
    batches = EpochBatches(n, size, range(first, first + more), seed)
    listed = list(batches)
    assert len(listed) == len(batches) and all(len(batch) == min(size, n) for batch in listed)
    for epoch in range(first, first + more):
        seen = [i for batch in listed for e, i in batch if e == epoch]
        assert len(set(seen)) == len(seen) == n // min(size, n) * min(size, n) and set(seen) <= set(range(n))
    later = list(EpochBatches(n, size, range(first + 1, first + more), seed))
    assert listed[len(listed) - len(later) :] == later  # what comes next does not depend on the start


def test_epochs_and_seeds_have_their_own_order():
    def order(epoch, seed):
        return [i for batch in EpochBatches(20, 4, range(epoch, epoch + 1), seed) for _, i in batch]

    assert len({tuple(order(*key)) for key in ((0, 0), (1, 0), (0, 1))}) == 3


def test_images_depend_on_seed_epoch_and_index_and_masks_replace_targets():
    mask = np.arange(120, dtype=np.uint8).reshape(10, 12)
    images = TrainingImages(lambda i: (PICTURES[i], mask, None), 5, partial(augment, settings=Augmentation((6, 6))), 3)
    picture, target = images[1, 2]
    assert picture.shape == (3, 6, 6) and target.shape == (6, 6) and target.dtype == torch.uint8
    assert torch.equal(images[1, 2][0], picture) and len(images) == 5
    assert len({images[epoch, 2][1].numpy().tobytes() for epoch in range(8)}) > 1


def test_log_round_trip(tmp_path):
    rows = [{"epoch": 1, "loss": 0.123456789, "lr": 1e-5}, {"epoch": 2, "loss": 0.1, "lr": 0.0}]
    write_log(tmp_path / LOG, rows)
    assert read_log(tmp_path / LOG) == {"epoch": [1, 2], "loss": [0.123456789, 0.1], "lr": [1e-5, 0.0]}
    write_log(tmp_path / LOG, [])
    assert read_log(tmp_path / LOG) == {}
    with pytest.raises(InputError, match="no training log"):
        read_log(tmp_path / "nothing.csv")


def test_a_row_is_the_mean_of_the_steps():
    steps = [{"loss": torch.tensor(v), "gate_open": torch.tensor(v > 1)} for v in (0.5, 1.5)]
    assert summarise(7, steps, 0.1, "x") == {"epoch": 7, "loss": 1.0, "gate_open": 0.5, "lr": 0.1}


def test_weights_of_another_model_are_refused(tmp_path):
    save_tensors(tmp_path / WEIGHTS, nn.Linear(2, 2).state_dict())
    with pytest.raises(InputError) as caught:
        load_weights(tiny(), tmp_path / WEIGHTS)
    assert str(tmp_path / WEIGHTS) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such weights file"):
        load_weights(tiny(), tmp_path / "none.pt")


def test_a_failed_save_leaves_the_earlier_file(tmp_path):
    save_tensors(tmp_path / WEIGHTS, {"a": torch.ones(2)})
    before = (tmp_path / WEIGHTS).read_bytes()
    with pytest.raises(Exception, match=r"pickle|local"):
        save_tensors(tmp_path / WEIGHTS, {"a": lambda: 0})
    assert (tmp_path / WEIGHTS).read_bytes() == before


def test_a_crop_has_the_labels_of_what_its_rough_mask_shows():
    masks = torch.zeros(3, 10, 10, dtype=torch.uint8)
    masks[0, :, :5] = 1  # half of the crop
    masks[1, 0, 0] = 2  # one of a hundred pixels: neither shown nor absent
    masks[2], masks[2, 0, 0] = IGNORE_INDEX, 2  # the only pixel inside the image
    targets, weights = crop_labels(masks, n_classes=4)
    assert targets.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert weights.tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 1]]


def test_the_classifiers_loss_leaves_out_what_is_in_doubt():
    masks = torch.zeros(2, 10, 10, dtype=torch.uint8)
    masks[0, :, :5], masks[1, 0, 0] = 1, 2
    logits = torch.tensor([[0.0, 1.0], [0.0, 9.0]])
    loss, _ = classifier_loss(lambda _: logits, torch.zeros(2, 3, 10, 10), masks, 0.0)
    by_hand = (np.log(2) + np.log1p(np.e) + np.log(2)) / 3
    assert loss.item() == pytest.approx(by_hand, abs=1e-6)
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    plain, _ = classifier_loss(lambda _: logits, torch.zeros(2, 3, 10, 10), labels, 0.0)
    assert plain.item() == pytest.approx((2 * np.log(2) + np.log1p(np.e) + np.log1p(np.exp(-9))) / 4, abs=1e-6)
