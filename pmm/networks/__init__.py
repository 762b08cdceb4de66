"""Backbones, the CAM classifier, the segmentation model, the one training loop, inference, devices."""
