"""The studies that train: losses on clean and on wrong masks, augmentation of the classifier, cyclic rounds.

Each training is a stage of the run, so a finished one is reused and an interrupted study goes on where it stopped.
All raise InputError where `ablation_seeds` is empty; `path` is as in `records.gather`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pmm.errors import InputError
from pmm.method.smoothing import coefficient_of_variation
from pmm.run.experiment import Experiment
from pmm.run.folder import Stage
from pmm.run.params import Params, check_params
from pmm.studies.masks import axes, chosen_and_judged, evaluated_ids, own_cell, run_mask_grid, ways
from pmm.studies.records import Cell, Difference, Record, compare, gather, manifest, seeds_of, select

MASKS = ("ground_truth", "ppmg", "threshold", "noisy")  # clean, two kinds of pseudo-masks, with known errors
FINE_MASKS = ("noisy",)  # on which the paper's clamp is tried with every beta and kappa
BETAS = (0.15, 0.3, 0.6)
KAPPAS = (0.5, 1.0, 2.0)
ROUNDS = 3


@dataclass(frozen=True)
class LossSetting:
    """One line of the comparison of losses: the masks that train a model, and the loss, cross-entropy by default."""

    masks: str
    pus: str = "none"
    variant: str | None = None
    beta: float | None = None
    kappa: float | None = None

    @property
    def title(self) -> str:
        """Name of the loss; its two numbers are beta and kappa, and pow is the same in both variants."""
        if self.pus == "none":
            return "cross-entropy"
        return f"{self.pus}{'' if self.pus == 'pow' else f', {self.variant}'}, {self.beta:g}/{self.kappa:g}"

    @property
    def changes(self) -> dict[str, Any]:
        """The parameters that differ from the run's."""
        gate = {"pus_variant": self.variant, "beta": self.beta, "kappa": self.kappa, "pus_warmup": 0.0}
        return {"pus": self.pus} | (gate if self.pus != "none" else {})

    def name(self, params: Params, seed: int) -> str:
        """Folder of its model below `segmenter/`; that of notebook 05 where both are the same: it is trained once."""
        if seed == params.seed and self.pus == "none" and self.masks in ("ground_truth", params.seg_masks):
            return "ce" if self.masks == params.seg_masks else self.masks
        if seed == params.seed and self == own_loss(params):
            return "pus"
        return f"ablation/{self.masks}/{self.title.replace(', ', '_').replace('/', '_')}/seed{seed}"

    def miou(self, experiment: Experiment, seed: int) -> float | None:
        """Train a segmentation model, or reuse it; return its val mIoU, a fraction."""
        return _val(experiment.segmenter(self.name(experiment.params, seed), self.masks, **self.changes, seed=seed))


def own_loss(params: Params) -> LossSetting | None:
    """Return the run's PUS on the run's masks; None where it warms up, as no setting does."""
    plain = LossSetting(params.seg_masks)
    gate = {"variant": params.pus_variant, "beta": params.beta, "kappa": params.kappa}
    return None if params.pus_warmup else plain if params.pus == "none" else replace(plain, pus=params.pus, **gate)


def _val(stage: Stage) -> float | None:
    return stage.facts.get("val", {}).get("miou")


SETTINGS = (  # the comparison of notebook 05; the masks called threshold are the noisier ones
    LossSetting("ppmg"),
    LossSetting("ppmg", "clamp", "paper", 0.3, 1.0),
    LossSetting("ppmg", "clamp", "paper", 0.5, 0.5),
    LossSetting("ppmg", "clamp", "official", 0.5, 0.5),
    LossSetting("ppmg", "pow", "paper", 0.5, 0.5),
    LossSetting("ppmg", "ignore", "official", 0.5, 0.5),
    LossSetting("threshold"),
    LossSetting("threshold", "clamp", "paper", 0.5, 1.0),
)
# the losses that notebook 07 tries on all of `MASKS`, as `LossSetting` takes them
LOSSES = (("none",), ("clamp", "paper", 0.3, 1.0), ("ignore", "paper", 0.3, 1.0), ("pow", "paper", 0.3, 0.5))
# what photographs asked for beyond these: a gate that opens earlier, and the joint CRF's masks
LATER = (
    LossSetting("ppmg", "clamp", "paper", 0.5, 1.0),
    LossSetting("ppmg", "ignore", "paper", 0.5, 1.0),
    LossSetting("crf"),
)
LOSS_TITLES = tuple(LossSetting("ppmg", *loss).title for loss in LOSSES)


def loss_settings() -> list[LossSetting]:
    """List the long comparison, each once: `SETTINGS`, `LOSSES` x `MASKS`, beta x kappa of the clamp, `LATER`."""
    found = [*SETTINGS, *(LossSetting(masks, *loss) for masks in MASKS for loss in LOSSES)]
    found += [LossSetting(masks, "clamp", "paper", b, k) for masks in FINE_MASKS for b in BETAS for k in KAPPAS]
    return sorted(dict.fromkeys([*found, *LATER]), key=lambda setting: (*MASKS, "crf").index(setting.masks))


def run_losses(experiment: Experiment, settings: Iterable[LossSetting] = SETTINGS, path: Path | None = None) -> Record:
    """Train every setting, no two the same, with every seed of `ablation_seeds`, or reuse what is trained.

    Returns:
        A cell has the setting, its title, seed and miou, on the val split, to four digits.

    Raises:
        InputError: two settings are the same, or no validation image has a ground truth.
    """
    settings, seeds = list(settings), seeds_of(experiment)
    if len(set(settings)) < len(settings):
        raise InputError("settings: two of them are the same; each needs its own folder")
    images = sum(experiment.data.has_mask(i) for i in experiment.val_ids)
    if not images:
        raise InputError("val_split: no image has a ground truth; losses cannot be compared without")

    def trained(own: LossSetting, seed: int) -> list[Cell]:
        """Train and evaluate one model."""
        return [{"miou": round(float(own.miou(experiment, seed)), 4)}]

    pairs = ((own, seed) for own in settings for seed in seeds)
    units = ((asdict(own) | {"title": own.title, "seed": seed}, partial(trained, own, seed)) for own, seed in pairs)
    return gather(_of_models(experiment, "losses", images), units, path)


def _of_models(experiment: Experiment, study: str, images: int) -> dict[str, Any]:
    method = f"segmentation models, {experiment.params.seg_epochs} epochs"
    return manifest(experiment, study, "val", images, seeds_of(experiment), method, experiment.params.seg_crf)


def loss_gains(record: Record) -> dict[tuple[str, str], Difference]:
    """Compare every loss with cross-entropy on the same masks and seeds: (masks, title) -> difference."""
    found = {}
    for masks, title in dict.fromkeys((cell["masks"], cell["title"]) for cell in record.cells):
        cells = select(record.cells, masks=masks)
        gain = compare(select(cells, title=title), select(cells, pus="none"))
        if gain.seeds and title != "cross-entropy":
            found[masks, title] = gain
    return found


def gain_table(record: Record, masks: str) -> tuple[list[float], list[float], np.ndarray]:
    """Lay out what the paper's clamp gains over cross-entropy on one kind of masks.

    Returns:
        betas, kappas, (betas, kappas) mean gain in val mIoU as fractions; NaN where a setting is not in the record.
    """
    gains = {title: gain.mean for (kind, title), gain in loss_gains(record).items() if kind == masks}
    titles = [[LossSetting(masks, "clamp", "paper", beta, kappa).title for kappa in KAPPAS] for beta in BETAS]
    return list(BETAS), list(KAPPAS), np.array([[gains.get(title, np.nan) for title in row] for row in titles])


def run_augmentations(experiment: Experiment, path: Path | None = None) -> Record:
    """Measure CVS on the CAMs of classifiers trained with weak and with strong augmentation.

    A seed makes its own scenes, classifier and CAMs; both augmentations share the scenes. Each classifier other
    than the run's own lives in a run folder of its own below `ablation/`.

    Returns:
        A cell has augment, seed, s (0 or the run's), alpha, miou, c_v (mean over the channels with a foreground, of all
        images that judge) and val_map of the classifier.

    Raises:
        InputError: no training image has a ground truth.
    """
    seeds = seeds_of(experiment)
    images = len(evaluated_ids(experiment, experiment.params.ablation_scenes))
    made = manifest(experiment, "augment", "judge", images, seeds, "PPMG", crf=True)
    pairs = ({"augment": augment, "seed": seed} for seed in seeds for augment in ("weak", "strong"))
    return gather(made, ((pair, partial(_augment_cells, experiment, **pair)) for pair in pairs), path)


def run_methods(experiment: Experiment, path: Path | None = None) -> Record:
    """Compare the ways to make pseudo-masks on the CAMs of one classifier a seed, each setting chosen apart.

    Returns:
        A cell has method, gauss_compat (None without a CRF), seed and what `masks.chosen_and_judged` finds.

    Raises:
        InputError: no training image has a ground truth.
    """
    images, seeds = len(evaluated_ids(experiment, None)), seeds_of(experiment)
    made = manifest(experiment, "methods", "judge", images, seeds, "pseudo-masks", crf=True)
    found = ({"method": m, "gauss_compat": w, "seed": k} for k in seeds for m, w in ways(experiment.params))
    return gather(made, ((way, partial(_method_cell, experiment, **way)) for way in found), path)


def _method_cell(experiment: Experiment, method: str, gauss_compat: float | None, seed: int) -> list[Cell]:
    return [chosen_and_judged(_sibling(experiment, experiment.params.cls_augment, seed), method, gauss_compat)]


def _sibling(experiment: Experiment, augment: str, seed: int) -> Experiment:
    """The run with another classifier, in a run folder of its own below `ablation/`; the run itself for its own.

    A sibling makes CAMs of the images that judge alone.
    """
    p = experiment.params
    if (augment, seed) == (p.cls_augment, p.seed):
        return experiment
    if p.cam_dir:
        raise InputError(f"cam_dir = {p.cam_dir}: CAMs from elsewhere have one seed; leave ablation_seeds = [{p.seed}]")
    changes = {"cls_augment": augment, "seed": seed, "run_name": f"{augment}_seed{seed}"}
    changes["runs_dir"] = str(experiment.run.path.resolve() / "ablation")
    return Experiment(check_params({**p.model_dump(), **changes}, "ablation"), judges_alone=True)


def _augment_cells(experiment: Experiment, augment: str, seed: int) -> Iterator[Cell]:
    p, sibling = experiment.params, _sibling(experiment, augment, seed)
    facts = {"c_v": _mean_variation(sibling)}
    own = own_cell(p)
    settings = dict.fromkeys(replace(own, s=s, alpha=alpha) for s in (0.0, own.s) for alpha in axes(p)["alpha"])
    grid = run_mask_grid(sibling, list(settings))
    facts["val_map"] = sibling.classifier().facts.get("val_map")
    for cell in grid.cells if grid else []:
        yield facts | {name: cell[name] for name in ("s", "alpha", "miou")}


def _mean_variation(experiment: Experiment) -> float:
    cams = (experiment.cam(i)[1] for i in experiment.judge_ids)
    found = np.concatenate([coefficient_of_variation(cam, experiment.params.t) for cam in cams])
    found = found[found > 0]  # channels with a foreground
    return float(found.mean()) if found.size else float("nan")


def augment_gains(record: Record) -> list[Cell]:
    """Subtract s = 0 from the run's s: cells with augment, alpha, seed and gain, a fraction."""
    gains = []
    for augment, alpha in sorted({(cell["augment"], cell["alpha"]) for cell in record.cells}):
        cells = select(record.cells, augment=augment, alpha=alpha)
        gain = compare([cell for cell in cells if cell["s"] > 0], select(cells, s=0.0))
        gains += [{"augment": augment, "alpha": alpha, "seed": seed, "gain": g} for seed, g in gain.gains.items()]
    return gains


def augment_lines(record: Record) -> dict[str, tuple[list[float], list[list[float]]]]:
    """Gather the gain of CVS in points: augmentation -> (alphas, one list of seeds' gains an alpha)."""
    lines: dict[str, dict[float, list[float]]] = {"weak": {}, "strong": {}}
    for cell in augment_gains(record):
        lines[cell["augment"]].setdefault(cell["alpha"], []).append(100 * cell["gain"])
    return {augment: (list(line), list(line.values())) for augment, line in lines.items()}


def run_rounds(experiment: Experiment, rounds: int = ROUNDS, path: Path | None = None) -> Record:
    """Train rounds 0..rounds with and without filtering by the images' labels.

    Round 0 is a model with the run's loss on the run's masks, the teacher of both branches; later rounds learn
    with plain cross-entropy, as in notebook 06. The cell of round 0 holds the cross-entropy model.

    Returns:
        A cell has filtered, seed, round, masks_miou (of the masks trained on, train) and model_miou (val, with
        cross-entropy).
    """
    made = _of_models(experiment, "cyclic", len(experiment.val_ids))
    places = [(f, s, k) for s in seeds_of(experiment) for f in (True, False) for k in range(rounds + 1)]
    branches = ({"filtered": filtered, "seed": seed, "round": number} for filtered, seed, number in places)
    return gather(made, ((own, partial(_round, experiment, *own.values())) for own in branches), path)


def _round(experiment: Experiment, filtered: bool, seed: int, number: int) -> Iterator[Cell]:
    masks = experiment.params.seg_masks
    if number == 0:
        first = LossSetting(masks).miou(experiment, seed)  # also in the comparison of losses
        yield {"masks_miou": experiment.pseudo_masks(masks).facts.get("miou"), "model_miou": first}
        return
    root, branch = f"ablation/cyclic/seed{seed}", "filtered" if filtered else "free"
    teacher = f"{root}/{branch}{number - 1}"
    if number == 1:
        own = own_loss(experiment.params)
        teacher = own.name(experiment.params, seed) if own else f"{root}/teacher"
        experiment.segmenter(teacher, masks=masks, seed=seed)
    else:
        list(_round(experiment, filtered, seed, number - 1))  # reused; trained if its cell came from a file
    name = f"{root}/{branch}{number}"
    masks_miou = experiment.cyclic_masks(number, teacher, name, filtered).facts.get("miou")
    model = experiment.segmenter(name, masks=name, seed=seed, pus="none")
    yield {"masks_miou": masks_miou, "model_miou": _val(model)}


def round_lines(record: Record, score: str) -> dict[bool, tuple[list[int], list[list[float]]]]:
    """Gather "masks_miou" or "model_miou" in per cent: filtered -> (rounds, one list of seeds' values a round).

    A value is NaN where a cell has none.
    """
    rounds = sorted({cell["round"] for cell in record.cells})
    lines = {}
    for filtered in (True, False):
        found = [[c[score] for c in select(record.cells, filtered=filtered, round=number)] for number in rounds]
        lines[filtered] = rounds, [[float("nan") if v is None else 100 * v for v in values] for values in found]
    return lines
