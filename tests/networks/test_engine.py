"""ONNX Runtime computes what PyTorch does; where it cannot, PyTorch steps in aloud."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from pmm.data.scenes import compose_scene
from pmm.errors import InputError, MissingDependency
from pmm.method.pseudo_mask import cyclic_pseudo_mask, threshold_pseudo_mask
from pmm.networks.devices import place, seeded
from pmm.networks.engine import OnnxNetwork, accelerate, choose_engine
from pmm.networks.inference import class_probabilities, multi_scale_cam
from pmm.networks.models import (
    EMBEDDED_BACKBONE,
    CamClassifier,
    create_segmenter,
    image_statistics,
    load_imagenet,
)
from pmm.threads import limit_threads, map_images

CPU = torch.device("cpu")
OPTIONS = {"flip": True, "statistics": image_statistics(EMBEDDED_BACKBONE)}
SCENES = [compose_scene("train", i, width=w, height=h, seed=0) for i, (w, h) in enumerate([(128, 96), (90, 117)])]
IMAGES = [scene.image for scene in SCENES]


@pytest.fixture(scope="module")
def networks():
    """Return the classifier, and the same by ONNX Runtime."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    with seeded(0):
        model = CamClassifier(EMBEDDED_BACKBONE, 5)
    load_imagenet(model.backbone, EMBEDDED_BACKBONE)
    model = place(model.eval(), CPU)
    return model, accelerate(model, "onnxruntime")


def cams(model, image):
    return multi_scale_cam(model, image, (1, 4), scales=(0.5, 1.0), **OPTIONS)


@pytest.mark.parametrize("image", IMAGES)
def test_cams_equal_those_of_pytorch_and_so_do_masks(networks, image):
    model, fast = networks
    assert isinstance(fast, OnnxNetwork)
    expected, found = cams(model, image), cams(fast, image)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    masks = [threshold_pseudo_mask(cam, (1, 4), 0.5) for cam in (expected, found)]
    assert (masks[0] == masks[1]).mean() >= 0.999


def test_threads_and_neighbours_do_not_change_a_bit(networks):
    _, fast = networks
    one, three = (list(map_images(lambda i: cams(fast, i), IMAGES * 2, workers=n)) for n in (1, 3))
    assert all(map(np.array_equal, one, three))
    batch = torch.randn(3, 3, 64, 96)
    with limit_threads(1):
        alone = [fast.maps(image) for image in batch.split(1)]
    with limit_threads(3):
        assert torch.equal(fast.maps(batch), torch.cat(alone))


def test_predictions_equal_those_of_pytorch(networks):
    with seeded(1):
        model = create_segmenter("deeplabv3plus", EMBEDDED_BACKBONE, 6, channels=16, rates=[2, 3, 4], weights="")
    model = place(model.eval(), CPU)
    fast = accelerate(model, "onnxruntime")
    assert isinstance(fast, OnnxNetwork)
    both = [class_probabilities(m, IMAGES[1], scales=[0.75, 1.0], **OPTIONS) for m in (model, fast)]
    np.testing.assert_allclose(both[1], both[0], atol=1e-4)
    masks = [cyclic_pseudo_mask(found, (1, 2)) for found in both]
    assert (masks[0] == masks[1]).mean() >= 0.999


class Frozen(nn.Module):
    """The image's width becomes a constant when it is traced."""

    def maps(self, images):
        return images * float(images.shape[3])


class Refused(nn.Module):
    """Something that no converter knows."""

    def maps(self, images):
        return torch.special.bessel_j0(images)


@pytest.mark.parametrize(("model", "reason"), [(Frozen(), "off by"), (Refused(), "bessel")])
def test_a_network_that_cannot_be_converted_stays_with_pytorch_aloud(networks, capsys, model, reason):
    assert accelerate(model, "onnxruntime") is model
    said = capsys.readouterr().out.strip()
    assert said.startswith("inference: by PyTorch; ONNX Runtime does not take this network (") and reason in said
    assert "\n" not in said


def test_torch_is_the_network_itself(networks, capsys):
    assert accelerate(networks[0], "torch") is networks[0] and not capsys.readouterr().out


@pytest.mark.parametrize("package", ["onnxruntime", "onnx"])
def test_a_missing_package_is_said_and_refused_where_it_was_asked_for(monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert choose_engine("auto", CPU) == "torch"
    said = capsys.readouterr().out
    assert said.startswith("inference: by PyTorch; ") and "pip install" in said and said.count("\n") == 1
    with pytest.raises(MissingDependency, match=rf"^inference = onnxruntime: .*pip install .*{package}") as caught:
        choose_engine("onnxruntime", CPU)
    assert "\n" not in str(caught.value)
    assert choose_engine("torch", CPU) == "torch" and not capsys.readouterr().out


def test_auto_takes_it_on_a_processor_alone(networks, capsys):
    assert choose_engine("auto", CPU) == choose_engine("onnxruntime", CPU) == "onnxruntime"
    assert choose_engine("auto", torch.device("cuda")) == "torch"
    with pytest.raises(InputError, match=r"^inference = onnxruntime: it computes on the processor, not on cuda"):
        choose_engine("onnxruntime", torch.device("cuda"))
    assert not capsys.readouterr().out


def test_a_network_that_cannot_be_converted_does_not_block_a_notebook():
    """The converter prints the graph; the pipe of a notebook is read by a thread that waits for the interpreter."""
    code = """
import os, sys
from pmm.networks.engine import accelerate
from pmm.networks.models import create_segmenter
model = create_segmenter("pspnet", "tf_efficientnet_lite0", 21, output_stride=16).eval()
reading, writing = os.pipe()  # nobody reads
kept = os.dup(2)
os.dup2(writing, 1), os.dup2(writing, 2)
found = accelerate(model, "onnxruntime")
os.write(kept, b"by PyTorch" if found is model else b"converted")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr.endswith("by PyTorch")
