"""Figures of trainings: loss and gate over the epochs, and settings compared over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pmm.figures.masks import exact_panel
from pmm.figures.palette import LINES
from pmm.figures.panels import Panel
from pmm.figures.style import new_figure, styled

Log = Mapping[str, Sequence[float]]
DASHES = ("-", "--", "-.", ":")


@styled
def training_figure(logs: Mapping[str, Log], beta: float | None = None) -> Figure:
    """Draw the untouched mean loss of each training; below, when the gate of PUS was open, what it doubted.

    Args:
        logs: title -> columns of log.csv: epoch, mean_loss, gate_open, over_kappa.
        beta: drawn as a line across the losses, None for none.
    """
    gated = {title: log for title, log in logs.items() if any(log.get("gate_open", ()))}
    figure, axes = new_figure(1 + bool(gated), 1, 4.4 + 2.6 * bool(gated), sharex=True)
    for position, (title, log) in enumerate(logs.items()):
        dash, colour = DASHES[position % len(DASHES)], LINES[position % len(LINES)]
        axes[0, 0].plot(log["epoch"], log["mean_loss"], dash, color=colour, marker="o", label=title)
        if title in gated:
            _draw_gate(axes[1, 0], log, colour)
    _finish_losses(axes[0, 0], beta)
    axes[-1, 0].set_xlabel("epoch")
    axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


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


def prediction_panels(experiment: Any, titles: Mapping[str, str], image_ids: Sequence[str]) -> list[Panel]:
    """Return a row of panels for each image: photograph, one prediction a model, exact mask if there is one.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        titles: name of a trained segmentation model -> title.
        image_ids: images to predict.
    """
    panels = []
    for image_id in image_ids:
        panels.append(("scene", experiment.data.image(image_id)))
        panels += [(title, experiment.predict(name, image_id)) for name, title in titles.items()]
        panels += exact_panel(experiment.data, image_id)
    return panels


def rounds_sentence(what: str, section: Mapping[str, Any]) -> str:
    """Say in words how the first and the last row of a recorded table differ in mIoU."""
    rows = [row for row in section["rows"] if row[1] is not None]
    if len(rows) < 2:
        return f"{what}: nothing to compare."
    gain = 100 * (rows[-1][1] - rows[0][1])
    verdict = "higher" if gain > 0.05 else "lower" if gain < -0.05 else "the same"
    return f"{what}: {rows[-1][0]} is {verdict} ({gain:+.1f} points) against {rows[0][0]}."


def _draw_gate(axis: Axes, log: Log, colour: str) -> None:
    axis.plot(log["epoch"], log["gate_open"], "-", color=colour, marker="s", label="steps with the gate open")
    axis.plot(log["epoch"], log["over_kappa"], ":", color="0.3", marker="^", label="pixels at kappa or above")
    axis.set_ylabel("share")
    axis.set_ylim(-0.04, 1.04)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axis.grid(True)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _finish_losses(axis: Axes, beta: float | None) -> None:
    axis.set_ylabel("mean loss, untouched")
    axis.set_ylim(bottom=0)
    axis.grid(True)
    if beta is not None:
        axis.axhline(beta, color="0.25", linestyle="--", linewidth=1.8)
        axis.annotate(f"beta = {beta:g}", (0.01, beta), xycoords=("axes fraction", "data"), xytext=(0, 4),
                      textcoords="offset points", fontsize=13)  # fmt: skip
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=2.4)
