"""CAMs of torch-cam and grad-cam, as these packages return them, on a photograph: `pmm.ppmg` takes them."""

import numpy as np
import pytest
import timm
import torch

import pmm
from pmm.networks.devices import prepare_images
from pmm.networks.models import EMBEDDED_BACKBONE, embedded_imagenet_state, image_statistics

CAT, DOG = 281, 207  # ImageNet's tabby and golden retriever; only one of them is in the photograph


@pytest.fixture(scope="module")
def photograph():
    data = pytest.importorskip("skimage.data")
    return data.chelsea()  # a cat's face, (300, 451, 3)


@pytest.fixture(scope="module")
def model():
    model = timm.create_model(EMBEDDED_BACKBONE, pretrained=False)
    model.load_state_dict(embedded_imagenet_state())
    return model.eval()


def model_input(image):
    picture = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    return prepare_images(picture, *image_statistics(EMBEDDED_BACKBONE), torch.device("cpu"))


def torch_cam(model, image):
    methods = pytest.importorskip("torchcam.methods")
    outputs = []
    for target in (CAT, DOG):
        with methods.LayerCAM(model, [model.blocks[4], model.blocks[6]]) as extractor:
            outputs.append(extractor(target, model(model_input(image))))
    return outputs


def grad_cam(model, image):
    package = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    with package.GradCAM(model=model, target_layers=[model.blocks[6]]) as extractor:
        classes = [[targets.ClassifierOutputTarget(k)] for k in (CAT, DOG)]
        return [extractor(input_tensor=model_input(image), targets=each) for each in classes]


@pytest.mark.parametrize("package", [torch_cam, grad_cam], ids=["torch-cam", "grad-cam"])
def test_what_the_package_returns_becomes_a_cam_and_a_mask(model, photograph, package):
    outputs = package(model, photograph)
    cam = pmm.cam_of_layers(outputs, photograph.shape[:2])
    assert cam.shape == (2, *photograph.shape[:2]) and cam.dtype == np.float32 and cam.min() >= 0
    assert cam.max(axis=(1, 2)).tolist() == [1, 1]
    rows, columns = np.nonzero(cam[0] > 0.7)
    assert 60 < rows.mean() < 240 and 100 < columns.mean() < 350  # the cat's map peaks on its face
    mask = pmm.ppmg(photograph, cam[:1], [8], s=0.3, alpha=1.0, t=0.05)
    assert set(np.unique(mask)) == {0, 8} and 0.1 < (mask == 8).mean() < 0.95
    assert cam[0][mask == 8].mean() > cam[0][mask == 0].mean() + 0.1


def test_layers_are_added_at_the_images_size_and_a_class_is_a_channel():
    fine, coarse = np.array([[0.0, 4.0], [0.0, 0.0]]), torch.tensor([[[-3.0, 1.0]]])
    cam = pmm.cam_of_layers([[fine, coarse], fine[None]], (2, 2))
    assert cam.tolist() == [[[0, 1], [0, 0.5]], [[0, 1], [0, 0]]]
    assert pmm.cam_of_layers([], (2, 3)).shape == (0, 2, 3)
    for wrong, found in (([np.zeros((2, 3, 3))], r"\(2, 3, 3\)"), ([[]], "none"), ([np.zeros((0, 3))], r"\(0, 3\)")):
        with pytest.raises(pmm.errors.InputError, match=f"^outputs: maps .* got {found}$"):
            pmm.cam_of_layers(wrong, (4, 4))
    with pytest.raises(pmm.errors.InputError, match=r"^outputs: "):
        pmm.cam_of_layers([np.full((2, 2), np.nan)], (4, 4))
