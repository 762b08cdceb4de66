"""Figures of notebook 05: the shapes of the losses, and the pixels whose label a trained model doubts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pmm.figures.masks import MARK_RGB, highlight
from pmm.figures.palette import LINES, UNKNOWN
from pmm.figures.panels import draw_image
from pmm.figures.style import HEAT, WIDTH, new_figure, styled, wrap
from pmm.method.losses import pus_clamp, pus_ignore, pus_pow

HARD_RGB = (0, 114, 178)
"""Blue: a doubted pixel whose label is right."""
WRONG_RGB = MARK_RGB
"""Vermilion: a doubted pixel whose label is wrong."""
LOOK = {
    "none": (LINES[4], "-", 1.6),
    "clamp, paper": (LINES[0], "-", 5.0),
    "clamp, official": (LINES[5], "--", 2.6),
    "pow": (LINES[2], "-.", 2.6),
    "ignore": (LINES[1], ":", 3.2),
}
"""Colour, dash and width of each shape; the two clamps lie on each other and must both be seen."""


@dataclass(frozen=True)
class Doubted:
    """The pixels of one image by two questions: is the loss kappa or more, is the label wrong?"""

    judged: np.ndarray
    """(H, W) bool: neither the label nor the ground truth is 255; the two below lie within."""
    doubted: np.ndarray
    """(H, W) bool: the loss is kappa or more."""
    mislabelled: np.ndarray
    """(H, W) bool: the label differs from the ground truth."""

    @property
    def wrong(self) -> np.ndarray:
        """Return the doubted pixels with a wrong label: PUS is meant for these."""
        return self.doubted & self.mislabelled

    @property
    def hard(self) -> np.ndarray:
        """Return the doubted pixels with a right label: the price of PUS."""
        return self.doubted & ~self.mislabelled


def loss_shapes(kappa: float, power: float) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Return the reshaped pixel losses by name, "none" being the plain loss.

    Args:
        kappa: pixel loss from which clamp and ignore act, > 0.
        power: exponent of pow, the kappa of eq. 12.
    """
    return {
        "none": lambda loss: loss,
        "clamp, paper": lambda loss: pus_clamp(loss, kappa, "paper"),
        "clamp, official": lambda loss: pus_clamp(loss, kappa, "official"),
        "pow": lambda loss: pus_pow(loss, power),
        "ignore": lambda loss: pus_ignore(loss, kappa),
    }


def value_and_slope(shape: Callable[[torch.Tensor], torch.Tensor], losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate a shape and its derivative with respect to the pixel loss, as training sees it.

    Args:
        shape: maps pixel losses to reshaped ones.
        losses: (N,) pixel losses, >= 0.

    Returns:
        Values and slopes, (N,) float32.
    """
    loss = torch.tensor(losses, dtype=torch.float32, requires_grad=True)
    value = shape(loss)
    (slope,) = torch.autograd.grad(value.sum(), loss)
    return value.detach().numpy(), slope.numpy()


@styled
def loss_shapes_figure(kappa: float, power: float, limit: float = 3.0) -> Figure:
    """Draw what each strategy makes of one pixel's loss, and with which slope the pixel still teaches.

    Args:
        kappa: pixel loss from which clamp and ignore act.
        power: exponent of pow.
        limit: largest pixel loss drawn.
    """
    losses = np.linspace(0.01, limit, 600, dtype=np.float32)
    figure, axes = new_figure(1, 2, 5.4)
    for name, shape in loss_shapes(kappa, power).items():
        colour, dash, width = LOOK[name]
        label = f"pow, exponent {power:g}" if name == "pow" else name
        for axis, y in zip(axes[0], value_and_slope(shape, losses), strict=True):
            axis.plot(losses, y, dash, color=colour, linewidth=width, label=label)
    _label(axes[0, 0], "pixel loss after the strategy", kappa, limit)
    _label(axes[0, 1], "slope: how much it teaches", kappa, 2.05)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _label(axis: Axes, title: str, kappa: float, top: float) -> None:
    axis.axvline(kappa, color="0.25", linestyle="--", linewidth=1.4)
    axis.annotate(f"kappa = {kappa:g}", (kappa, 0.97), xycoords=("data", "axes fraction"), xytext=(6, 0),
                  textcoords="offset points", va="top", fontsize=13)  # fmt: skip
    axis.set(title=title, xlabel="pixel loss L", ylim=(-0.05, top))
    axis.grid(True)


def split_doubted(loss: np.ndarray, pseudo_mask: np.ndarray, truth: np.ndarray, kappa: float) -> Doubted:
    """Split the pixels of one image by loss and by whether their pseudo-label is right.

    Args:
        loss: (H, W) float, per-pixel loss against the pseudo-mask.
        pseudo_mask: (H, W) uint8, the labels; 255 is not judged.
        truth: (H, W) uint8; 255 is not judged.
        kappa: pixel loss from which a label is doubted.
    """
    judged = (pseudo_mask != UNKNOWN) & (truth != UNKNOWN)
    return Doubted(judged, judged & (np.asarray(loss) >= kappa), judged & (pseudo_mask != truth))


def doubt_sentence(splits: Iterable[Doubted]) -> str:
    """Say how well a high loss finds wrong labels, over several images."""
    splits = list(splits)
    judged, doubted, mislabelled, wrong = (
        sum(int(getattr(split, name).sum()) for split in splits)
        for name in ("judged", "doubted", "mislabelled", "wrong")
    )
    if not doubted or not mislabelled:
        return f"On {len(splits)} scenes no pixel is doubted, or no label is wrong: nothing to compare."
    found, base = wrong / doubted, mislabelled / judged
    verdict = "points at wrong labels" if found > base else "does not point at wrong labels"
    return (
        f"On {len(splits)} scenes {doubted / judged:.1%} of the pixels are doubted. {found:.0%} of them "
        f"carry a wrong label, against {base:.0%} of all pixels: a high loss {verdict} here. "
        f"Doubt reaches {wrong / mislabelled:.0%} of all wrong labels."
    )


@styled
def doubted_figure(
    image: np.ndarray, masks: Mapping[str, np.ndarray], loss: np.ndarray, doubted: Doubted, kappa: float,
    class_names: tuple[str, ...],
) -> Figure:  # fmt: skip
    """Draw masks, the loss map and the doubted pixels of one image.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: title -> (H, W) uint8 mask, drawn first.
        loss: (H, W) float >= 0, per-pixel loss.
        doubted: what `split_doubted` returned.
        kappa: pixel loss from which a label is doubted; the colours of the loss map end at 3 kappa.
        class_names: index is the mask value.
    """
    wide = WIDTH / (len(masks) + 2.4)
    figure, axes = new_figure(1, len(masks) + 2, wide * image.shape[0] / image.shape[1] + 1.1)
    for axis, (title, mask) in zip(axes[0], masks.items(), strict=False):
        draw_image(axis, mask, class_names)
        axis.set_title(wrap(title, wide))
    drawn = axes[0, -2].imshow(loss, cmap=HEAT, vmin=0, vmax=3 * kappa)
    axes[0, -2].set_title(wrap("pixel loss", wide))
    axes[0, -1].imshow(highlight(image, (doubted.hard, HARD_RGB), (doubted.wrong, WRONG_RGB)))
    axes[0, -1].set_title(wrap("doubted pixels", wide))
    for axis in axes.flat:
        axis.set_axis_off()
    ticks = [0, kappa, 2 * kappa, 3 * kappa]
    figure.colorbar(drawn, ax=axes, label="pixel loss", ticks=ticks, fraction=0.03, pad=0.015)
    colours = {"doubted: label wrong": WRONG_RGB, "doubted: label right, but hard": HARD_RGB}
    patches = [Patch(facecolor=np.divide(rgb, 255), label=name) for name, rgb in colours.items()]
    figure.legend(handles=patches, loc="outside lower right", ncols=2)
    return figure
