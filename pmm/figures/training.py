"""Figures of notebooks 05 and 06: shapes of the losses, trainings, the pixels whose label a trained model doubts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pmm.figures.masks import MARK_RGB, highlight, mask_rows
from pmm.figures.panels import draw_curves, draw_image, draw_marks
from pmm.figures.style import HEAT, LINES, WIDTH, CaptionedFigure, new_figure, styled, wrap
from pmm.method import IGNORE_INDEX
from pmm.method.losses import pus_clamp, pus_ignore, pus_pow
from pmm.run.experiment import Experiment

Log = Mapping[str, Sequence[float]]
HARD_RGB = (0, 114, 178)  # blue: a doubted pixel whose label is right
WRONG_RGB = MARK_RGB  # vermilion: a doubted pixel whose label is wrong
LOOK = {  # colour, dash and width of each shape; the two clamps lie on each other and must both be seen
    "none": (LINES[4], "-", 1.6),
    "clamp, paper": (LINES[0], "-", 5.0),
    "clamp, official": (LINES[5], "--", 2.6),
    "pow": (LINES[2], "-.", 2.6),
    "ignore": (LINES[1], ":", 3.2),
}


@dataclass(frozen=True)
class Doubted:
    """The pixels of one image by two questions: is the loss kappa or more, is the label wrong?"""

    evaluated: np.ndarray  # (H, W) bool: neither label nor ground truth is IGNORE_INDEX; the two below lie within
    doubted: np.ndarray  # (H, W) bool: the loss is kappa or more
    mislabelled: np.ndarray  # (H, W) bool: the label differs from the ground truth

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

    Clamp and ignore act from a pixel loss of `kappa` > 0 on; `power` is the exponent of pow, the kappa of eq. 12.
    """
    return {
        "none": lambda loss: loss,
        "clamp, paper": partial(pus_clamp, kappa=kappa, variant="paper"),
        "clamp, official": partial(pus_clamp, kappa=kappa, variant="official"),
        "pow": partial(pus_pow, kappa=power),
        "ignore": partial(pus_ignore, kappa=kappa),
    }


def value_and_slope(shape: Callable[[torch.Tensor], torch.Tensor], losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a shape's values and slopes over (N,) pixel losses >= 0, as training sees them: two (N,) float32."""
    loss = torch.tensor(losses, dtype=torch.float32, requires_grad=True)
    value = shape(loss)
    (slope,) = torch.autograd.grad(value.sum(), loss)
    return value.detach().numpy(), slope.numpy()


@styled
def loss_shapes_figure(kappa: float, power: float, limit: float = 3.0) -> CaptionedFigure:
    """Draw what each strategy of `loss_shapes` makes of a pixel loss up to `limit`, and with which slope it teaches."""
    losses = np.linspace(0.01, limit, 600, dtype=np.float32)
    figure, axes = new_figure(1, 2, 5.4)
    for name, shape in loss_shapes(kappa, power).items():
        colour, dash, width = LOOK[name]
        label = f"pow, exponent {power:g}" if name == "pow" else name
        for axis, y in zip(axes[0], value_and_slope(shape, losses), strict=True):
            axis.plot(losses, y, dash, color=colour, linewidth=width, label=label)
    titles = {"pixel loss after the strategy": limit, "slope: how much it teaches": 2.05}
    for axis, (title, top) in zip(axes[0], titles.items(), strict=True):
        draw_marks(axis, {f"kappa = {kappa:g}": kappa})
        axis.set(title=title, xlabel="pixel loss L", ylim=(-0.05, top))
        axis.grid(True)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure.say(
        f"Left: the loss of one pixel after each strategy, kappa {kappa:g}. Right: its slope.",
        "Two panels over the pixel loss. Both clamps have the same values; above kappa the paper's slope falls "
        "as kappa over L, that of the released one is zero as with ignore.",
    )


def split_doubted(loss: np.ndarray, pseudo_mask: np.ndarray, truth: np.ndarray, kappa: float) -> Doubted:
    """Split the pixels of one image by loss and by whether their pseudo-label is right.

    Args:
        loss: (H, W) float, per-pixel loss against the pseudo-mask.
        pseudo_mask: (H, W) uint8, the labels.
        truth: (H, W) uint8, the ground truth.
        kappa: pixel loss from which a label is doubted.
    """
    evaluated = (pseudo_mask != IGNORE_INDEX) & (truth != IGNORE_INDEX)
    return Doubted(evaluated, evaluated & (np.asarray(loss) >= kappa), evaluated & (pseudo_mask != truth))


def doubt_shares(splits: Iterable[Doubted]) -> list[float | None]:
    """Say how well a high loss finds wrong labels, over several images; None where there is nothing to divide by.

    Returns:
        Shares 0..1: of the pixels that are doubted; of the doubted that carry a wrong label (precision); of all pixels
        that do (what doubt at random would find); of the wrong labels that are doubted (recall).
    """
    splits, questions = list(splits), ("evaluated", "doubted", "mislabelled", "wrong")
    pixels, doubted, mislabelled, wrong = (sum(int(getattr(one, q).sum()) for one in splits) for q in questions)
    parts = ((doubted, pixels), (wrong, doubted), (mislabelled, pixels), (wrong, mislabelled))
    return [part / whole if whole else None for part, whole in parts]


def doubt_section(splits: Mapping[str, Iterable[Doubted]], data: str, kappa: float) -> dict[str, Any]:
    """Return `doubt_shares` of several models as a section of metrics.json; `data` says on what they were measured."""
    columns = ["model", "doubted", "of these wrong", "of all pixels wrong", "wrong ones doubted"]
    note = f"Doubted: a loss of {kappa:g} or more. To look at: ground truth tells which labels are wrong."
    rows = [[name, *doubt_shares(found)] for name, found in splits.items()]
    title = "Does a high loss find wrong labels?"
    return {"title": title, "data": data, "columns": columns, "rows": rows, "note": note}


@styled
def doubted_figure(
    image: np.ndarray, masks: Mapping[str, np.ndarray], loss: np.ndarray, doubted: Doubted, kappa: float,
    class_names: Sequence[str],
) -> CaptionedFigure:  # fmt: skip
    """Draw masks, the loss map and the doubted pixels of one image.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: title -> (H, W) uint8 mask, drawn first.
        loss, kappa: as in `split_doubted`, which returned `doubted`; the colours of the loss map end at 3 kappa.
        class_names: index is the mask value.
    """
    wide = WIDTH / (len(masks) + 2.4)
    figure, axes = new_figure(1, len(masks) + 2, wide * image.shape[0] / image.shape[1] + 1.1)
    for axis, mask in zip(axes[0], masks.values(), strict=False):
        draw_image(axis, mask, class_names)
    drawn = axes[0, -2].imshow(loss, cmap=HEAT, vmin=0, vmax=3 * kappa)
    draw_image(axes[0, -1], highlight(image, (doubted.hard, HARD_RGB), (doubted.wrong, WRONG_RGB)))
    for axis, title in zip(axes[0], (*masks, "pixel loss", "doubted pixels"), strict=True):
        axis.set_title(wrap(title, wide))
        axis.set_axis_off()
    ticks = [0, kappa, 2 * kappa, 3 * kappa]
    figure.colorbar(drawn, ax=axes, label="pixel loss", ticks=ticks, fraction=0.03, pad=0.015)
    colours = {"doubted: label wrong": WRONG_RGB, "doubted: label right, but hard": HARD_RGB}
    patches = [Patch(facecolor=np.divide(rgb, 255), label=name) for name, rgb in colours.items()]
    figure.legend(handles=patches, loc="outside lower right", ncols=2)
    return figure.say(
        f"One image: {', '.join(masks)}, loss of the trained model, and the pixels it doubts.",
        f"Doubted: {doubted.wrong.sum()} wrong labels, {doubted.hard.sum()} right ones.",
    )


@styled
def training_figure(logs: Mapping[str, Log], beta: float | None = None) -> CaptionedFigure:
    """Draw the untouched mean loss of each training; below, when the gate of PUS was open, what it doubted.

    `logs` maps a title to the columns of log.csv: epoch, mean_loss, gate_open, over_kappa; `beta` is a line across.
    """
    gated = {title: log for title, log in logs.items() if any(log.get("gate_open", ()))}
    figure, axes = new_figure(1 + bool(gated), 1, 4.4 + 2.6 * bool(gated), sharex=True)
    draw_curves(axes[0, 0], {title: (log["epoch"], log["mean_loss"]) for title, log in logs.items()})
    axes[0, 0].set_ylabel("mean loss, untouched")
    axes[0, 0].set_ylim(bottom=0)
    if beta is not None:
        axes[0, 0].axhline(beta, color="0.25", linestyle="--", linewidth=1.8)
        place = {"xycoords": ("axes fraction", "data"), "xytext": (0, 4), "textcoords": "offset points"}
        axes[0, 0].annotate(f"beta = {beta:g}", (0.01, beta), **place, fontsize=13)
    for line, (title, log) in zip(axes[0, 0].get_lines(), logs.items(), strict=False):
        if title in gated:
            _draw_gate(axes[1, 0], log, line.get_color())
    axes[-1, 0].set_xlabel("epoch")
    axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    below = "; below, how often the gate of PUS was open and how many pixels it doubted" if gated else ""
    ends = "; ".join(f"{title} from {x['mean_loss'][0]:.3f} to {x['mean_loss'][-1]:.3f}" for title, x in logs.items())
    gates = "".join(f" {title}: {gate_sentence(log)}" for title, log in gated.items())
    return figure.say(f"Mean loss of each training{below}.", f"Curves of the mean loss over the epochs: {ends}.{gates}")


def _draw_gate(axis: Axes, log: Log, colour: str) -> None:
    axis.plot(log["epoch"], log["gate_open"], "-", color=colour, marker="s", label="steps with the gate open")
    axis.plot(log["epoch"], log["over_kappa"], ":", color="0.3", marker="^", label="pixels at kappa or above")
    axis.set(ylabel="share", ylim=(-0.04, 1.04))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axis.grid(True)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def gate_sentence(log: Log) -> str:
    """Say when the gate of PUS was open, from a training's log."""
    opened, epochs = log.get("gate_open", []), log["epoch"]
    first = next((epoch for epoch, share in zip(epochs, opened, strict=False) if share > 0), None)
    if first is None:
        return "The gate never opened: the mean loss stayed at beta or above, so PUS was plain cross-entropy."
    over = log["over_kappa"][-1]
    return (
        f"The gate first opened in epoch {first:g} and was open in {sum(opened) / len(opened):.0%} of all "
        f"steps ({opened[-1]:.0%} in the last epoch, with {over:.1%} of the pixels at kappa or above)."
    )


def predictions_figure(experiment: Experiment, titles: Mapping[str, str], image_ids: Sequence[str]) -> CaptionedFigure:
    """Draw a row for each image, at least one: photograph, a prediction a model, ground truth if there is one.

    `titles` maps the name of a trained segmentation model to its title.
    """
    rows: dict[str, dict[str, np.ndarray]] = {image_id: {} for image_id in image_ids}
    for name, title in titles.items():  # one model after the other, so that each is loaded once
        for image_id, row in rows.items():
            row[title] = experiment.predict(name, image_id)
    return mask_rows(experiment.data, rows).say("Predictions on validation images.")


def rounds_sentence(what: str, section: Mapping[str, Any]) -> str:
    """Say in words how the first and the last row of a recorded table differ in mIoU."""
    rows = [row for row in section["rows"] if row[1] is not None]
    if len(rows) < 2:
        return f"{what}: nothing to compare."
    gain = 100 * (rows[-1][1] - rows[0][1])
    verdict = "higher" if gain > 0.05 else "lower" if gain < -0.05 else "the same"
    return f"{what}: {rows[-1][0]} is {verdict} ({gain:+.1f} points) against {rows[0][0]}."
