"""Pseudo-mask Matters in Weakly-supervised Semantic Segmentation, reproduced step by step."""

__version__ = "0.1.0"
