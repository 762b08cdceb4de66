"""The view of notebook 05: which pixels a trained model doubts, and what PUS makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pmm.errors import InputError
from pmm.explore import drawing
from pmm.explore.app import Drawn, Panel, Question, less_or_more, menu, only_change, slider
from pmm.explore.drawing import BLUE, GREEN, GREY, VERMILION, Chart, View
from pmm.explore.picker import ExplorerScene
from pmm.figures.training import HARD_RGB, WRONG_RGB, Doubted, split_doubted
from pmm.method import IGNORE_INDEX
from pmm.method.losses import PretendedUnderfittingLoss
from pmm.networks.training import EARLY
from pmm.run.experiment import Experiment

STRATEGIES = {
    "clamp, paper": ("clamp", "paper"),
    "clamp, released code": ("clamp", "official"),
    "pow": ("pow", "paper"),
    "ignore": ("ignore", "paper"),
}  # name in the menu -> kind and variant of `pmm.method.losses`
CHECKPOINTS = ("early", "late")
POW_PIVOT = 1.0  # L ** kappa damps losses above this and lifts those below, whatever the exponent
SMALLEST_LOSS = 1e-6  # a positive loss below it counts as it: the slope of pow runs to infinity at 0
KAPPAS = np.round(np.geomspace(0.05, 5, 33), 4)
WHY = {
    "kappa": (
        "A larger kappa doubts fewer pixels, so fewer lose their weight",
        "A smaller kappa doubts more pixels, and those lose their weight",
    ),
}  # parameter -> what a larger and a smaller value does
WHY_POW = {
    "kappa": (
        "A larger power is nearer to 1, the plain loss",
        "A smaller power damps losses above 1 and lifts those below, however small",
    ),
}  # the same of pow, where kappa doubts nothing
PRESETS = {
    "gate always open": {"beta": 2.0},
    "gate closed": {"beta": 0.0},
    "doubt much": {"kappa": 0.3, "beta": 2.0},
    "doubt little": {"kappa": 3.0, "beta": 2.0},
    "ignore": {"kind": "ignore", "beta": 2.0},
    "early model": {"checkpoint": "early", "beta": 2.0},
}
SKY, MINT, SOFT_GREY = (86, 180, 233), (214, 236, 226), (150, 150, 150)


@dataclass(frozen=True)
class PusState:
    """One setting of the sliders."""

    kind: str = "clamp, paper"  # one of STRATEGIES
    kappa: float = 1.0  # loss from which a label is doubted, > 0; for pow the exponent, at most 1
    beta: float = 0.3  # >= 0, PUS acts while the mean loss is below it
    checkpoint: str = "late"  # or "early"

    def __post_init__(self) -> None:
        if self.kind not in STRATEGIES:
            raise InputError(f"kind: {self.kind!r} is unknown; choose one of {', '.join(STRATEGIES)}")
        if self.checkpoint not in CHECKPOINTS:
            raise InputError(f"checkpoint: {self.checkpoint!r} is unknown; choose early or late")
        if not self.kappa > 0:
            raise InputError(f"kappa: {self.kappa} is not positive; give a pixel loss, such as 1.0")
        if not self.beta >= 0:
            raise InputError(f"beta: {self.beta} is negative; give a mean loss, such as 0.3")

    @property
    def strength(self) -> float:
        """kappa in use: with an exponent above 1 pow would raise high losses, so it stays at 1."""
        return min(self.kappa, 1.0) if self.kind == "pow" else self.kappa

    @property
    def doubt(self) -> float:
        """Loss from which a pixel is damped."""
        return POW_PIVOT if self.kind == "pow" else self.kappa

    def parameters(self) -> dict[str, Any]:
        """Return the setting under the names of `pmm.run.params.Params`."""
        pus, variant = STRATEGIES[self.kind]
        return {"pus": pus, "pus_variant": variant, "kappa": self.strength, "beta": self.beta}


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """What does not depend on the sliders: a trained model's loss against its pseudo-mask."""

    pseudo_mask: np.ndarray  # (H, W) uint8, what the model learned from
    loss: np.ndarray  # (H, W) float32 >= 0, 0 where the mask is IGNORE_INDEX

    @property
    def valid(self) -> np.ndarray:
        """(H, W) bool, the pixels that have a label."""
        return self.pseudo_mask != IGNORE_INDEX


def model_output(experiment: Experiment, scene: ExplorerScene, checkpoint: str, name: str = "pus") -> ModelOutput:
    """Return the loss map of a trained segmenter on a training image; remembered for each image and checkpoint.

    Raises:
        InputError: it is not trained, names the command that trains it; or the early weights were not kept.
    """
    trained, early = experiment.run.recorded(f"segmenter/{name}"), checkpoint == "early"
    masks = experiment.params.seg_masks
    if trained is None:
        raise InputError(
            f"{experiment.run.path}: segmenter {name} is not trained; train it first: make demo, "
            "or pmm run PARAMS.yaml --only 05"
        )

    def make() -> ModelOutput:
        """Run the model on the image."""
        if early and not (trained.folder / EARLY).exists():
            raise InputError(
                f"checkpoint = early: segmenter {name} kept no early weights ({EARLY}); choose late, or train it anew"
            )
        loss = experiment.loss_map(name, scene.id, masks, early=early)
        return ModelOutput(experiment.pseudo_mask(masks, scene.id), loss)

    return scene.remember("model", (name, checkpoint), make)


@dataclass(frozen=True, eq=False)
class Lesson:
    """What PUS makes of the losses of one image."""

    mean_loss: float
    is_open: bool  # the gate of eq. 10: PUS reshapes the loss
    weight: np.ndarray  # (H, W) float32 >= 0, how much a pixel teaches compared with the plain mean; 0 without a label
    split: Doubted | None  # the doubted pixels by whether their label is right; None without ground truth


def lesson(scene: ExplorerScene, output: ModelOutput, state: PusState) -> Lesson:
    """Ask `PretendedUnderfittingLoss` for gate and gradient of an image; without PUS every weight is 1."""
    kind, variant = STRATEGIES[state.kind]
    pus = PretendedUnderfittingLoss(kind, state.beta, state.strength, variant)
    slope = _slope(pus, output)
    plain = _slope(PretendedUnderfittingLoss("none", None, None, variant), output)
    weight = np.divide(slope, plain, out=np.zeros_like(slope), where=output.valid)
    split = None
    if scene.truth is not None:
        split = split_doubted(output.loss, output.pseudo_mask, scene.truth, state.doubt)
    return Lesson(float(pus.last_state.mean_loss), bool(pus.last_state.is_open), weight, split)


def _slope(loss: PretendedUnderfittingLoss, output: ModelOutput) -> np.ndarray:
    positive = np.where(output.loss > 0, output.loss.clip(SMALLEST_LOSS), 0).astype(np.float32)
    pixels = torch.from_numpy(positive).requires_grad_()
    (slope,) = torch.autograd.grad(loss.reduce(pixels, torch.from_numpy(output.valid)), pixels)
    return slope.numpy()


def precision_recall(
    output: ModelOutput, truth: np.ndarray, kappas: np.ndarray = KAPPAS
) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate "a loss of kappa or more means a wrong label" for several kappas.

    Args:
        output: loss and pseudo-mask.
        truth: (H, W) uint8 ground truth.
        kappas: (N,) increasing.

    Returns:
        Precision and recall, (N,) float64; NaN where nothing is doubted, or no label is wrong.
    """
    split = split_doubted(output.loss, output.pseudo_mask, truth, 0.0)
    doubted_wrong, doubted = (_reaching(output.loss[part], kappas) for part in (split.mislabelled, split.evaluated))
    return _ratio(doubted_wrong, doubted), _ratio(doubted_wrong, split.mislabelled.sum())


def _reaching(losses: np.ndarray, kappas: np.ndarray) -> np.ndarray:
    """Count for each kappa the losses that are as high."""
    return len(losses) - np.searchsorted(np.sort(losses), kappas)


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> np.ndarray:
    """Divide counts; NaN by 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0)


def underfitting_view(scene: ExplorerScene, output: ModelOutput, state: PusState) -> View:
    """Draw labels, loss and doubted pixels, and below what PUS makes of them; output as `model_output` returns it."""
    learned = lesson(scene, output, state)
    reached = float(((output.loss >= state.doubt) & output.valid).mean())
    numbers = {"mean_loss": learned.mean_loss, "open": learned.is_open, "reached": reached}
    numbers["doubted"] = reached if learned.is_open else 0.0
    numbers["teaches"] = float(learned.weight.mean())
    if learned.split is not None:
        wrong, hard, all_wrong = (int(getattr(learned.split, n).sum()) for n in ("wrong", "hard", "mislabelled"))
        numbers |= {"wrong": wrong, "hard": hard}
        numbers |= {"precision": float(_ratio(wrong, wrong + hard)), "recall": float(_ratio(wrong, all_wrong))}
    rows = [_maps(scene, output, state, learned), _charts(scene, output, state, learned)]
    text = _text(state, numbers)
    warning = ""
    if state.kind == "pow":
        cut = "" if state.kappa <= 1 else f" It stays at 1, since {state.kappa:.2f} would raise high losses."
        warning = (
            f"For pow, kappa is an exponent, not a loss.{cut} The outline is at a loss of 1, above which pow damps."
        )
    return View(drawing.grid(rows, scene.legend()), text, ". ".join(text) + ".", numbers, warning, state.checkpoint)


def _text(state: PusState, n: dict[str, Any]) -> tuple[str, ...]:
    word, sign = ("open: PUS acts", "<") if n["open"] else ("closed: plain mean", ">=")
    what = (
        f"pixels with a loss of {state.doubt:.2f} or more{'' if n['open'] else ', not doubted now'}: {n['reached']:.1%}"
    )
    if "precision" in n and n["wrong"] + n["hard"]:
        recall = "" if np.isnan(n["recall"]) else f", which are {n['recall']:.0%} of all wrong labels"
        what += f"; {n['precision']:.0%} of them have a wrong label{recall}"
    return (
        f"mean loss {n['mean_loss']:.3f} {sign} beta {state.beta:.2f}, gate {word}",
        what,
        f"the scene teaches {n['teaches']:.0%} of what it would without PUS (mean gradient weight)",
    )


def _maps(scene: ExplorerScene, output: ModelOutput, state: PusState, learned: Lesson) -> list[drawing.Cell]:
    top, title = 3 * state.doubt, "orange: wrong, blue: hard"
    loss, split = drawing.heat(drawing.shrink(output.loss), top=top), learned.split
    if not learned.is_open:
        title, parts = "none is doubted", drawing.message("the gate is closed: every pixel teaches with its whole loss")
    elif split is None:
        parts = drawing.message("no ground truth: cannot tell wrong from hard")
    else:
        hard, wrong = drawing.shrink(split.hard), drawing.shrink(split.wrong)
        parts = drawing.paint(drawing.pale(scene.small_image()), (hard, HARD_RGB), (wrong, WRONG_RGB))
    if learned.is_open:
        loss = drawing.paint(loss, (drawing.border(drawing.shrink((output.loss >= state.doubt) & output.valid)), SKY))
    return [
        ("photograph", scene.small_image()),
        ("pseudo-mask, its label", scene.small_mask(output.pseudo_mask)),
        ("ground truth", scene.small_truth("no ground truth")),
        (f"loss, {state.checkpoint} (bright = {top:.2g})", loss),
        (title, parts),
    ]


def _charts(scene: ExplorerScene, output: ModelOutput, state: PusState, learned: Lesson) -> list[drawing.Cell]:
    return [
        ("gradient weight (bright = 1)", drawing.heat(drawing.shrink(learned.weight))),
        ("how the loss is spread", _histogram(output, state, learned)),
        ("loss >= kappa means wrong label?", _precision_recall_chart(scene, output, state)),
        ("the gate of this scene", _gate_chart(learned, state.beta)),
    ]


def _histogram(output: ModelOutput, state: PusState, learned: Lesson) -> np.ndarray:
    edges, loss = np.linspace(0, 5, 41), np.minimum(output.loss, 4.999)
    centres = (edges[1:] + edges[:-1]) / 2
    top = max(1.0, float(np.ceil(np.log10(max(int(output.valid.sum()), 1)))))
    chart = Chart(
        (0, 5),
        (0, top),
        "pixel loss (5: and more)",
        "log10 pixels",
        range(6),
        np.arange(0, top + 1),
        size=drawing.QUARTER,
    )
    heights = np.log10(1 + np.histogram(loss[output.valid], edges)[0])
    doubted = learned.is_open * (centres >= state.doubt)
    chart.bars(edges, heights, [HARD_RGB if one else SOFT_GREY for one in doubted])
    if learned.split is not None:
        chart.curve(centres, np.log10(1 + np.histogram(loss[learned.split.mislabelled], edges)[0]), VERMILION)
        chart.key(("line: wrong labels", VERMILION))
    return chart.mark(state.doubt, "1" if state.kind == "pow" else f"kappa {state.kappa:.2f}").picture()


def _precision_recall_chart(scene: ExplorerScene, output: ModelOutput, state: PusState) -> np.ndarray:
    if scene.truth is None:
        return drawing.message("precision and recall need ground truth", drawing.QUARTER)
    curves = scene.remember("curves", state.checkpoint, lambda: precision_recall(output, scene.truth))
    chart = Chart((0.05, 5), (0, 1), "kappa", "", (0.05, 0.2, 1, 5), (0, 0.5, 1), True, True, drawing.QUARTER)
    chart.curve(KAPPAS, curves[0], VERMILION).curve(KAPPAS, curves[1], GREEN)
    return chart.key(("precision", VERMILION), ("recall", GREEN)).mark(state.doubt).picture()


def _gate_chart(learned: Lesson, beta: float) -> np.ndarray:
    mean, colour = learned.mean_loss, GREEN if learned.is_open else BLUE
    chart = Chart((0, max(1.0, 1.2 * mean, 1.2 * beta)), (0, 1), "mean loss", yticks=(), size=drawing.QUARTER)
    chart.span(0, beta, MINT).mark(beta, f"beta {beta:.2f}", GREY).dot(mean, 0.4, colour, 9)
    column, row = chart.place(mean, 0.4)
    anchor, shift = ("la", 14) if column < chart.size[0] / 2 else ("ra", -14)
    chart.text(column + shift, row - 9, f"{mean:.3f}", anchor=anchor)
    word = "OPEN: PUS reshapes the loss" if learned.is_open else "CLOSED: the plain mean"
    return chart.text(6, 3, word, colour).picture()


def underfitting_question(before: Drawn, now: Drawn) -> Question:
    """Ask for the gate where beta or the model changed, and else how much of the scene still teaches."""
    first, second = before.view.numbers, now.view.numbers
    if (before.state.beta, before.state.checkpoint) != (now.state.beta, now.state.checkpoint):
        sign, right = ("<", "open") if second["open"] else (">=", "closed")
        why = f"Mean loss {second['mean_loss']:.3f} {sign} beta {now.state.beta:.2f}: PUS acts while it is below"
        text = f"beta {now.state.beta:.2f}, {now.state.checkpoint} model: is the gate of this scene open or closed?"
        return Question(text, right, why, ("open", "closed"))
    why = "The gate is closed: the loss stays a plain mean, whatever kappa says"
    if second["open"]:
        why = only_change(before.state, now.state, WHY_POW if now.state.kind == "pow" else WHY)
    settings = (f"{drawn.state.kind}, kappa {drawn.state.kappa:.2f}" for drawn in (before, now))
    text = f"{' becomes '.join(settings)}. How much does the scene still teach?"
    right = less_or_more(first["teaches"], second["teaches"])
    return Question(text, right, f"It teaches {first['teaches']:.1%} -> {second['teaches']:.1%}. {why}")


def underfitting_panel(experiment: Experiment) -> Panel:
    """Return the sliders of kind, kappa, checkpoint and beta."""
    p = experiment.params
    names = {pair: name for name, pair in STRATEGIES.items()}
    likely = next((n for n, (kind, _) in STRATEGIES.items() if kind == p.pus), "clamp, paper")
    controls = {
        "kind": menu("kind", STRATEGIES, names.get((p.pus, p.pus_variant), likely)),
        "checkpoint": menu("model", CHECKPOINTS, "late"),
        "kappa": slider("kappa", p.kappa, 0.05, 5, 0.05),
        "beta": slider("beta, gate", p.beta, 0, 2, 0.02),
    }

    def draw(scene: ExplorerScene, state: PusState, _: object) -> View:
        """Run the model, where it has not been asked yet, and draw."""
        if scene.id not in experiment.train_ids:
            raise InputError(f"{scene.id}: a photograph of your own has no label to doubt; choose a scene")
        return underfitting_view(scene, model_output(experiment, scene, state.checkpoint), state)

    question = underfitting_question
    return Panel(experiment, "Under-fitting", "underfitting", controls, PusState, draw, question, PRESETS)
