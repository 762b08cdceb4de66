"""Backbones, the CAM classifier, the segmentation model, the one training loop, inference, devices."""

# What training a network imports when it begins, seconds in all; the notebooks' kernels import it beforehand.
LATE_IMPORTS = {
    "classifier": ("timm", "torchvision.transforms.v2", "sklearn.metrics"),
    "segmenter": ("segmentation_models_pytorch", "torchvision.transforms.v2"),
}
