"""CAMs of whole images against a computation by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pmm.errors import InputError
from pmm.networks.devices import seeded
from pmm.networks.inference import (
    GPU_BATCH,
    cam_batch_size,
    cams_in_batches,
    equal_sizes,
    multi_scale_cam,
    scaled_batch,
    unflip,
)
from pmm.threads import map_images

STATISTICS = ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
IMAGE = np.random.default_rng(1).integers(0, 256, (40, 48, 3), dtype=np.uint8)


class Maps(nn.Module):
    """Three class maps at a fourth of the size."""

    def __init__(self):
        super().__init__()
        with seeded(2):
            self.layer = nn.Conv2d(3, 3, 5, stride=4, padding=2)

    def maps(self, images):
        return self.layer(images)


def cam(image=IMAGE, class_ids=(1, 3), scales=(1.0,), flip=False, model=None):
    return multi_scale_cam(model or Maps(), image, class_ids, scales=scales, flip=flip, statistics=STATISTICS)


def test_one_scale_equals_the_computation_by_hand():
    mean, std = (np.array(values, np.float32) for values in STATISTICS)
    x = torch.from_numpy(((IMAGE / np.float32(255) - mean) / std).transpose(2, 0, 1).copy())[None]
    with torch.no_grad():
        maps = Maps().layer(x).clamp(min=0)
    maps = F.interpolate(maps, (40, 48), mode="bilinear", align_corners=False)[0].numpy()
    for i, class_id in enumerate((3, 1)):
        channel = maps[class_id - 1]
        expected = (channel - channel.min()) / (channel.max() - channel.min())
        np.testing.assert_allclose(cam(class_ids=(3, 1))[i], expected, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
def test_values_fill_0_to_1_for_the_present_classes_alone(flip):
    before = IMAGE.copy()
    out = cam(class_ids=(2,), scales=(0.75, 1.0, 1.5), flip=flip)
    assert out.shape == (1, 40, 48) and out.dtype == np.float32
    assert out.min() == 0 and out.max() == 1
    both = cam(class_ids=(1, 2), scales=(0.75, 1.0, 1.5), flip=flip)
    np.testing.assert_allclose(both[1], out[0], atol=1e-6)  # a class does not depend on the others
    np.testing.assert_array_equal(IMAGE, before)


def test_with_flip_a_mirrored_image_has_the_mirrored_cam():
    straight = cam(scales=(1.0, 1.5), flip=True)
    mirrored = cam(IMAGE[:, ::-1], scales=(1.0, 1.5), flip=True)
    np.testing.assert_allclose(mirrored[:, :, ::-1], straight, atol=5e-3)  # the scaled image is rounded
    assert not np.allclose(cam(IMAGE[:, ::-1])[:, :, ::-1], cam(), atol=1e-2)  # without, it has not


def test_scales_are_summed_before_they_are_normalised():
    class Size(nn.Module):
        """A map that is constant, but for a peak at the left in small and at the right in large images."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def maps(self, images):
            out = torch.zeros(1, 1, 4, 4)
            large = images.shape[-1] > 48
            out[..., 3 if large else 0] = 3.0 if large else 1.0
            return out

    out = cam(class_ids=(1,), scales=(1.0, 2.0), model=Size())[0]
    assert out[0, 0] == pytest.approx(1 / 3, abs=1e-6) and out[0, -1] == pytest.approx(1)


def test_negative_evidence_counts_as_none():
    model = Maps()
    nn.init.zeros_(model.layer.weight)
    model.layer.bias.data = torch.tensor([-1.0, 0.0, -2.0])
    assert not cam(model=model).any()


@pytest.mark.parametrize(("scale", "size"), [(1.0, (40, 48)), (0.5, (32, 32)), (1.5, (60, 72)), (0.9, (36, 43))])
def test_batches_have_the_scaled_size_with_the_mirror_image_second(scale, size):
    picture = torch.from_numpy(IMAGE.transpose(2, 0, 1).copy())[None]
    before = picture.clone()
    batch = scaled_batch(picture, scale, True, STATISTICS, torch.device("cpu"))
    assert batch.shape == (2, 3, *size) and batch.dtype == torch.float32
    assert torch.equal(batch[0], batch[1].flip(-1))
    assert torch.equal(picture, before)
    alone = scaled_batch(picture, scale, False, STATISTICS, torch.device("cpu"))
    assert torch.equal(alone, batch[:1])


def test_unflip_mirrors_the_second_back():
    maps = torch.arange(6.0).reshape(1, 1, 2, 3)
    pair = torch.cat([maps, maps.flip(-1)])
    assert torch.equal(unflip(pair, True), maps.repeat(2, 1, 1, 1))
    assert torch.equal(unflip(pair, False), pair)


def test_a_gpu_takes_batches_and_a_processor_an_image_a_thread_unless_told():
    assert cam_batch_size(0, torch.device("cpu")) == 1
    assert cam_batch_size(0, torch.device("cuda")) == cam_batch_size(0, torch.device("mps")) == GPU_BATCH
    assert cam_batch_size(5, torch.device("cpu")) == cam_batch_size(5, torch.device("cuda")) == 5


def test_batches_hold_images_of_one_size_in_order():
    assert equal_sizes("abcdefg", [1, 2, 1, 1, 2, 3, 1], 3) == [["a", "c", "d"], ["b", "e"], ["f"], ["g"]]
    assert equal_sizes("abc", [1, 1, 1], 1) == [["a"], ["b"], ["c"]]
    assert equal_sizes([], [], 4) == []


SIZES = [(40, 48), (48, 40), (40, 48), (40, 48), (33, 50), (40, 48), (48, 40)]
IMAGES = [np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8) for i, size in enumerate(SIZES)]
IDS = [(1, 3), (2,), (), (3, 1), (1, 2, 3), (2,), ()]


def batched(batch_size, flip=True, load=lambda i: (IMAGES[i], IDS[i])):
    """Compute the CAMs of all images in batches: what was saved, and the order."""
    saved = {}

    def save(key, class_ids, cam):
        saved[key] = (class_ids, cam)

    options = {"scales": (0.75, 1.0, 1.5), "flip": flip, "statistics": STATISTICS}
    batches = equal_sizes(range(len(SIZES)), SIZES, batch_size)
    return saved, list(cams_in_batches(Maps(), batches, load, save, **options)), batches


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_cams_in_batches_equal_those_of_single_images(batch_size, flip):
    before = torch.get_num_threads()
    saved, order, batches = batched(batch_size, flip)
    assert order == [key for batch in batches for key in batch] and set(saved) == set(range(len(SIZES)))
    model = Maps()  # outside of the threads: it draws from torch's global generator
    alone = map_images(lambda i: cam(IMAGES[i], IDS[i], (0.75, 1.0, 1.5), flip, model), range(len(SIZES)))
    for i, (expected, ids) in enumerate(zip(alone, IDS, strict=True)):
        assert saved[i][0] == ids and saved[i][1].shape == expected.shape and saved[i][1].dtype == np.float32
        np.testing.assert_allclose(saved[i][1], expected, atol=1e-5)
    assert torch.get_num_threads() == before


def test_an_image_that_cannot_be_read_stops_the_batches_with_its_own_error():
    def load(i):
        if i == 3:
            raise InputError("3.jpg: cannot be read")
        return IMAGES[i], IDS[i]

    with pytest.raises(InputError, match=r"^3\.jpg: cannot be read$"):
        batched(2, load=load)


def test_a_cam_that_cannot_be_saved_stops_the_batches():
    def save(*_):
        raise OSError("disk full")

    options = {"scales": (1.0,), "flip": False, "statistics": STATISTICS}
    with pytest.raises(OSError, match="disk full"):
        list(cams_in_batches(Maps(), [[0], [3], [5]], lambda i: (IMAGES[i], IDS[i]), save, **options))
