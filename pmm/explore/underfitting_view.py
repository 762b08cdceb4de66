"""The view of notebook 05: which pixels a trained model doubts, and what PUS makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pmm.explore import canvas
from pmm.explore.charts import BLUE, GREEN, GREY, VERMILION, Axes, Chart, Curve
from pmm.explore.sample import Sample
from pmm.explore.underfitting_state import KINDS, ModelOutput, UnderfittingState
from pmm.explore.view import View
from pmm.figures.training import HARD_RGB, WRONG_RGB, Doubted, split_doubted
from pmm.method import IGNORE_INDEX

KAPPAS = np.round(np.geomspace(0.05, 5, 33), 4)
TOP_WEIGHT = 2.0


def gate(output: ModelOutput, state: UnderfittingState) -> tuple[float, bool]:
    """Return the mean loss of the scene and whether the gate of eq. 10 is open."""
    valid = output.pseudo_mask != IGNORE_INDEX
    count = output.loss.size if KINDS[state.kind][1] == "official" else max(int(valid.sum()), 1)
    mean = float(output.loss[valid].sum(dtype=np.float64) / count)
    return mean, mean < state.beta


def gradient_weight(output: ModelOutput, state: UnderfittingState) -> np.ndarray:
    """Return how much each pixel teaches compared with the plain mean: the slope of the reshaped loss.

    Returns:
        (H, W) float32 >= 0; 1 everywhere while the gate is closed, 0 where the label is 255.
    """
    loss = output.loss
    weight = np.ones(loss.shape, np.float32)
    if gate(output, state)[1]:
        over, kind = loss >= state.kappa, state.kind
        if kind == "pow":
            safe = np.maximum(loss, np.float32(1e-6))
            weight = np.where(loss > 0, state.strength * safe ** np.float32(state.strength - 1), 0)
        elif kind == "clamp, paper":
            weight = np.where(over, state.kappa / np.maximum(loss, state.kappa), 1)
        else:
            weight = np.where(over, 0, 1)
    return np.where(output.pseudo_mask == IGNORE_INDEX, 0, weight).astype(np.float32)


def precision_recall(
    output: ModelOutput, truth: np.ndarray, kappas: np.ndarray = KAPPAS
) -> tuple[np.ndarray, np.ndarray]:
    """Judge "a loss of kappa or more means a wrong label" for several kappas.

    Args:
        output: loss and pseudo-mask.
        truth: (H, W) uint8 ground truth.
        kappas: (N,) increasing.

    Returns:
        Precision and recall, (N,) float64; NaN where nothing is doubted, or no label is wrong.
    """
    split = split_doubted(output.loss, output.pseudo_mask, truth, 0.0)
    wrong, judged = np.sort(output.loss[split.mislabelled]), np.sort(output.loss[split.evaluated])
    doubted_wrong = len(wrong) - np.searchsorted(wrong, kappas)
    doubted = len(judged) - np.searchsorted(judged, kappas)
    precision = np.divide(doubted_wrong, doubted, out=np.full(len(kappas), np.nan), where=doubted > 0)
    recall = doubted_wrong / len(wrong) if len(wrong) else np.full(len(kappas), np.nan)
    return precision, recall


def underfitting_view(sample: Sample, output: ModelOutput, state: UnderfittingState) -> View:
    """Draw labels, loss and doubted pixels, and below what PUS makes of them.

    Args:
        sample: the scene.
        output: what `model_output` returned for it.
        state: the setting.
    """
    mean, is_open = gate(output, state)
    weight = gradient_weight(output, state)
    split = None
    if sample.truth is not None:
        split = split_doubted(output.loss, output.pseudo_mask, sample.truth, state.doubt)
    doubted = (output.loss >= state.doubt) & (output.pseudo_mask != IGNORE_INDEX)
    numbers = {
        "mean_loss": mean, "open": is_open, "doubted": float(doubted.mean()), "teaches": float(weight.mean()),
        **_judged_numbers(split),
    }  # fmt: skip
    rows = [_maps(sample, output, state, split, doubted), _charts(sample, output, state, weight, split)]
    text = _text(state, numbers)
    return View(canvas.grid(rows, sample.legend()), text, ". ".join(text) + ".", numbers, _warning(state))


def _judged_numbers(split: Doubted | None) -> dict[str, float]:
    if split is None:
        return {}
    wrong, hard, mislabelled = (int(m.sum()) for m in (split.wrong, split.hard, split.mislabelled))
    return {
        "wrong": wrong,
        "hard": hard,
        "precision": wrong / (wrong + hard) if wrong + hard else float("nan"),
        "recall": wrong / mislabelled if mislabelled else float("nan"),
    }


def _text(state: UnderfittingState, n: dict[str, Any]) -> tuple[str, ...]:
    word = "open: PUS acts" if n["open"] else "closed: plain mean"
    sign = "<" if n["open"] else ">="
    lines = [f"mean loss {n['mean_loss']:.3f} {sign} beta {state.beta:.2f}, gate {word}"]
    what = f"pixels with a loss of {state.doubt:.2f} or more: {n['doubted']:.1%}"
    if "precision" in n and n["wrong"] + n["hard"]:
        recall = "" if np.isnan(n["recall"]) else f", which are {n['recall']:.0%} of all wrong labels"
        what += f"; {n['precision']:.0%} of them have a wrong label{recall}"
    lines.append(what)
    lines.append(f"the scene teaches {n['teaches']:.0%} of what it would without PUS (mean gradient weight)")
    return tuple(lines)


def _warning(state: UnderfittingState) -> str:
    if state.kind != "pow":
        return ""
    cut = "" if state.kappa <= 1 else f" It stays at 1, since {state.kappa:.2f} would raise high losses."
    return f"For pow, kappa is an exponent, not a loss.{cut} The outline is at a loss of 1, above which pow damps."


def _maps(
    sample: Sample, output: ModelOutput, state: UnderfittingState, split: Doubted | None, doubted: np.ndarray
) -> list[canvas.Panel]:
    image = sample.small_image()
    label = canvas.class_overlay(image, canvas.shrink(output.pseudo_mask, smooth=False))
    exact, parts = canvas.message("no exact mask"), canvas.message("no exact mask: cannot tell wrong from hard")
    if split is not None:
        exact = sample.small_truth()
        hard, wrong = canvas.shrink(split.hard), canvas.shrink(split.wrong)
        parts = canvas.paint(canvas.pale(image), (hard, HARD_RGB), (wrong, WRONG_RGB))
    top = 3 * state.doubt
    loss = canvas.heat(canvas.shrink(output.loss), top=top)
    loss = canvas.paint(loss, (canvas.border(canvas.shrink(doubted)), (86, 180, 233)))
    return [
        ("pseudo-mask: what it learns", label),
        ("exact mask (ground truth)", exact),
        (f"loss, {state.checkpoint} (bright = {top:.2g})", loss),
        ("orange: wrong, blue: right but hard", parts),
    ]


def _charts(
    sample: Sample, output: ModelOutput, state: UnderfittingState, weight: np.ndarray, split: Doubted | None
) -> list[canvas.Panel]:
    curves = canvas.message("precision and recall need an exact mask")
    if sample.truth is not None:
        curves = _precision_recall_chart(sample, output, state)
    return [
        ("gradient weight (bright = 1)", canvas.heat(canvas.shrink(weight))),
        ("how the loss is spread", _histogram(output, state, split)),
        ("loss >= kappa means wrong label?", curves),
        ("the gate of this scene", _gate_chart(output, state)),
    ]


def _histogram(output: ModelOutput, state: UnderfittingState, split: Doubted | None) -> np.ndarray:
    edges = np.linspace(0, 5, 41)
    valid = output.pseudo_mask != IGNORE_INDEX
    loss = np.minimum(output.loss, 4.999)
    total = max(int(valid.sum()), 1)
    heights = np.log10(1 + np.histogram(loss[valid], edges)[0])
    top = max(1.0, float(np.ceil(np.log10(total))))
    chart = Chart(Axes((0, 5), (0, top), "pixel loss (5: and more)", "log10 pixels", range(6), np.arange(0, top + 1)))
    centres = (edges[1:] + edges[:-1]) / 2
    plain = [(150, 150, 150) if c < state.doubt else HARD_RGB for c in centres]
    chart.bars(edges, heights, plain)
    if split is not None:
        wrong = np.log10(1 + np.histogram(loss[split.mislabelled], edges)[0])
        chart.curve(Curve(centres, wrong, VERMILION))
        chart.key(("line: wrong labels", VERMILION))
    name = "1" if state.kind == "pow" else f"kappa {state.kappa:.2f}"
    return chart.mark(state.doubt, name).picture()


def _precision_recall_chart(sample: Sample, output: ModelOutput, state: UnderfittingState) -> np.ndarray:
    curves = sample.remember("curves", state.checkpoint, lambda: precision_recall(output, sample.truth))
    precision, recall = curves
    ticks = (0, 0.5, 1)
    axes = Axes((0.05, 5), (0, 1), "kappa", "", (0.05, 0.2, 1, 5), ticks, log=True, percent=True)
    chart = Chart(axes).curve(Curve(KAPPAS, precision, VERMILION)).curve(Curve(KAPPAS, recall, GREEN))
    chart.key(("precision", VERMILION), ("recall", GREEN))
    return chart.mark(state.doubt).picture()


def _gate_chart(output: ModelOutput, state: UnderfittingState) -> np.ndarray:
    mean, is_open = gate(output, state)
    top = max(1.0, 1.2 * mean, 1.2 * state.beta)
    chart = Chart(Axes((0, top), (0, 1), "mean loss", "", (), (0,)))
    chart.span(0, state.beta, (214, 236, 226)).mark(state.beta, f"beta {state.beta:.2f}", GREY)
    chart.texts = [text for text in chart.texts if text[1] != "0" or text[3] == "ma"]
    chart.dot(mean, 0.4, GREEN if is_open else BLUE, 9)
    column, row = chart.place(mean, 0.4)
    anchor = "la" if column < chart.size[0] / 2 else "ra"
    shift = 14 if anchor == "la" else -14
    chart.texts.append(((column + shift, row - 9), f"{mean:.3f}", (25, 25, 25), anchor))
    word = "OPEN: PUS reshapes the loss" if is_open else "CLOSED: plain mean of the loss"
    chart.texts.append(((6, 3), word, GREEN if is_open else BLUE, "la"))
    return chart.picture()
