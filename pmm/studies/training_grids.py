"""The grids of notebook 07 that train: augmentation of the classifier, losses on four kinds of masks, cyclic rounds.

Each training is a stage of the run, so a finished one is reused and an interrupted grid goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pmm.method.smoothing import coefficient_of_variation
from pmm.run.params import check_params
from pmm.studies.ablations import RUN_BETA_KAPPA, SETTINGS, Setting, differences, pus_changes, train_setting
from pmm.studies.grids import gather, seeds_of
from pmm.studies.mask_grid import axes, own_cell, run_mask_grid
from pmm.studies.sweeps import judged_ids

MASKS = ("exact", "ppmg", "threshold", "noisy")
"""What the losses are trained on: clean masks, two kinds of pseudo-masks, exact masks with known errors."""
KINDS = {
    "ce": ("cross-entropy", {"pus": "none"}),
    "clamp_paper_03_1": ("clamp, paper, 0.3/1", pus_changes("clamp", *RUN_BETA_KAPPA)),
    "ignore_paper_03_1": ("ignore, paper, 0.3/1", pus_changes("ignore", *RUN_BETA_KAPPA)),
    "pow_03_05": ("pow, 0.3/0.5", pus_changes("pow", 0.3, 0.5)),
}
KIND_TITLES = tuple(title for title, _ in KINDS.values())
BETAS = (0.15, 0.3, 0.6)
KAPPAS = (0.5, 1.0, 2.0)
FINE_MASKS = ("noisy",)
"""Masks on which the paper's clamp is tried with every beta and kappa."""
ROUNDS = 3
SHORT = {"threshold": "noisy_"}
"""`ablations.SETTINGS` names the settings of the threshold masks so."""


def pus_settings() -> list[Setting]:
    """List the long grid: those of `ablations.SETTINGS`, kinds of loss x masks, beta x kappa of the paper's clamp."""
    found = {(s.masks, s.title): s for s in SETTINGS}
    lines = [(masks, name, *line) for masks in MASKS for name, line in KINDS.items()]
    lines += [(masks, *_clamp(beta, kappa)) for masks in FINE_MASKS for beta in BETAS for kappa in KAPPAS]
    for masks, name, title, changes in lines:
        found.setdefault((masks, title), _setting(masks, name, title, changes))
    return sorted(found.values(), key=lambda s: MASKS.index(s.masks))


def _clamp(beta: float, kappa: float) -> tuple[str, str, dict[str, Any]]:
    name = f"clamp_paper_{beta:g}_{kappa:g}".replace(".", "")
    return name, f"clamp, paper, {beta:g}/{kappa:g}", pus_changes("clamp", beta, kappa)


def _setting(masks: str, name: str, title: str, changes: dict[str, Any]) -> Setting:
    prefix = "" if masks == "ppmg" else SHORT.get(masks, f"{masks}masks_")
    return Setting(prefix + name, title, masks, changes)


def run_augment_grid(experiment: Any) -> dict[str, Any]:
    """Measure CVS on the CAMs of classifiers trained with weak and with strong augmentation.

    A seed makes its own scenes, classifier and CAMs; both augmentations share the scenes. Each classifier other
    than the run's own lives in a run folder of its own below `ablation/`.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.

    Returns:
        As `grids.gather`; a cell has augment, seed, s (0 or the run's), alpha, miou, c_v (mean over the channels
        with a foreground) and val_map of the classifier.

    Raises:
        InputError: `ablation_seeds` is empty, or no training image has a ground truth.
    """
    seeds, cells = seeds_of(experiment), []
    judged_ids(experiment, 1)  # complains before anything is trained
    for seed in seeds:
        for augment in ("weak", "strong"):
            cells += _augment_cells(_sibling(experiment, augment, seed), augment, seed)
    p = experiment.params
    data = f"{experiment.data.name}, at most {p.ablation_scenes} images of split {p.train_split}"
    return gather(experiment, cells, f"{data}, {len(seeds)} seeds, PPMG")


def _sibling(experiment: Any, augment: str, seed: int) -> Any:
    """Return the run with another augmentation and seed: the run itself where nothing differs."""
    p = experiment.params
    if (augment, seed) == (p.cls_augment, p.seed):
        return experiment
    changes = {"cls_augment": augment, "seed": seed, "run_name": f"{augment}_seed{seed}"}
    changes["runs_dir"] = str(experiment.run.path.resolve() / "ablation")
    return type(experiment)(check_params({**p.model_dump(), **changes}, "augment"))


def _augment_cells(sibling: Any, augment: str, seed: int) -> Iterator[dict[str, Any]]:
    p, c_v = sibling.params, mean_variation(sibling)
    own = own_cell(p)
    settings = [type(own)(s, alpha, own.t, own.variant, 1.0) for s in (0.0, own.s) for alpha in axes(p)["alpha"]]
    grid = run_mask_grid(sibling, list(dict.fromkeys(settings)))
    skill = sibling.classifier().facts.get("val_map")
    for cell in grid["cells"] if grid else []:
        facts = {"augment": augment, "seed": seed, "c_v": c_v, "val_map": skill}
        yield facts | {name: cell[name] for name in ("s", "alpha", "miou")}


def mean_variation(experiment: Any) -> float:
    """Return the mean c_v of all training CAMs' channels that have a foreground; NaN if none has."""
    cams = (experiment.cam(i)[1] for i in experiment.train_ids)
    found = np.concatenate([coefficient_of_variation(cam, experiment.params.t) for cam in cams])
    found = found[found > 0]
    return float(found.mean()) if found.size else float("nan")


def run_cyclic_grid(experiment: Any, rounds: int = ROUNDS) -> dict[str, Any]:
    """Train rounds 0..rounds with and without filtering by the images' labels.

    Round 0 is a model with the run's loss on the run's masks, the teacher of both branches; later rounds learn
    with plain cross-entropy, as in notebook 06. The cell of round 0 holds the cross-entropy model.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        rounds: the last round.

    Returns:
        As `grids.gather`; a cell has filtered, seed, round, masks (mIoU of the masks trained on, train) and model
        (val mIoU with cross-entropy).

    Raises:
        InputError: `ablation_seeds` is empty.
    """
    seeds = seeds_of(experiment)
    cells = [cell for seed in seeds for cell in _cyclic_cells(experiment, seed, rounds)]
    p, data = experiment.params, experiment.data
    judged = f"{len(experiment.train_ids)} images of split {p.train_split}, {len(experiment.val_ids)} of {p.val_split}"
    return gather(experiment, cells, f"{data.name}, {judged}, {len(seeds)} seeds, no CRF on the predictions")


def _cyclic_cells(experiment: Any, seed: int, rounds: int) -> Iterator[dict[str, Any]]:
    p, root = experiment.params, f"ablation/cyclic/seed{seed}"
    masks = experiment.pseudo_masks(p.seg_masks)
    experiment.segmenter(f"{root}/teacher", masks=p.seg_masks, seed=seed)
    plain = train_setting(experiment, _setting(p.seg_masks, "ce", *KINDS["ce"]), seed)  # also in the grid of losses
    for filtered in (True, False):
        cell = {"filtered": filtered, "seed": seed}
        teacher = f"{root}/teacher"
        yield cell | {"round": 0, "masks": masks.facts.get("miou"), "model": _val(plain)}
        for number in range(1, rounds + 1):
            name = f"{root}/{'filtered' if filtered else 'free'}{number}"
            predicted = experiment.cyclic_masks(number, teacher, name, filtered)
            student = experiment.segmenter(name, masks=name, seed=seed, pus="none")
            yield cell | {"round": number, "masks": predicted.facts.get("miou"), "model": _val(student)}
            teacher = name


def _val(stage: Any) -> float | None:
    return stage.facts.get("val", {}).get("miou")


def cyclic_lines(results: Mapping[str, Any], what: str) -> dict[bool, tuple[list[int], list[list[float]]]]:
    """Gather one number in per cent over the rounds: filtered -> (rounds, one list of seeds' values a round).

    Args:
        results: as `run_cyclic_grid` returned.
        what: "masks" or "model".
    """
    rounds = sorted({cell["round"] for cell in results["cells"]})
    return {
        filtered: (rounds, [_values(results["cells"], what, filtered, number) for number in rounds])
        for filtered in (True, False)
    }


def named_rounds(results: Mapping[str, Any], what: str) -> dict[str, tuple[list[int], list[list[float]]]]:
    """Return `cyclic_lines` with names for a figure."""
    names = {True: "filtered by the image's labels", False: "not filtered"}
    return {names[filtered]: line for filtered, line in cyclic_lines(results, what).items()}


def _values(cells: Sequence[dict[str, Any]], what: str, filtered: bool, number: int) -> list[float]:
    chosen = (c for c in cells if c["filtered"] is filtered and c["round"] == number)
    return [float("nan") if c[what] is None else 100 * float(c[what]) for c in chosen]


def augment_gains(results: Mapping[str, Any]) -> dict[str, dict[int, tuple[list[float], list[float]]]]:
    """Subtract s = 0 from the run's s: augment -> seed -> (alphas, gains in mIoU as fractions)."""
    gains: dict[str, dict[int, tuple[list[float], list[float]]]] = {}
    cells = {(c["augment"], c["seed"], c["alpha"], c["s"] > 0): c["miou"] for c in results["cells"]}
    for augment, seed, alpha, smoothed in sorted(cells):
        plain = cells.get((augment, seed, alpha, False))
        if smoothed and plain is not None and cells[augment, seed, alpha, True] is not None:
            alphas, values = gains.setdefault(augment, {}).setdefault(seed, ([], []))
            alphas.append(alpha)
            values.append(cells[augment, seed, alpha, True] - plain)
    return gains


def gain_table(results: Mapping[str, Any], masks: str) -> tuple[list[float], list[float], np.ndarray]:
    """Lay out what the paper's clamp gains over cross-entropy on one kind of masks.

    Returns:
        betas, kappas, (betas, kappas) mean gain in val mIoU as fractions; NaN where a setting is not in the grid.
    """
    found = {d["title"]: d["mean"] for d in differences(results) if d["masks"] == masks}
    gains = [[found.get(f"clamp, paper, {beta:g}/{kappa:g}", np.nan) for kappa in KAPPAS] for beta in BETAS]
    return list(BETAS), list(KAPPAS), np.array(gains, dtype=float)


def augment_lines(results: Mapping[str, Any]) -> dict[str, tuple[list[float], list[list[float]]]]:
    """Gather the gain of CVS in points: augmentation -> (alphas, one list of seeds' gains an alpha)."""
    lines = {}
    for augment, seeds in sorted(augment_gains(results).items(), reverse=True):
        alphas = sorted({alpha for found, _ in seeds.values() for alpha in found})
        at = [[dict(zip(*line, strict=True)).get(alpha) for line in seeds.values()] for alpha in alphas]
        lines[augment] = (alphas, [[100 * gain for gain in gains if gain is not None] for gains in at])
    return lines
