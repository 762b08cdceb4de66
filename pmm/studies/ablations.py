"""The longer comparison of the pretended under-fitting strategies: settings x seeds, mean and spread.

One cell of the grid is one training of the segmentation model; it is a stage of the run, so a finished cell
is reused and an interrupted grid goes on where it stopped. The committed results lie in
results/pus_ablations.json.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pmm.errors import InputError
from pmm.files import read_json, write_text
from pmm.run.folder import environment, project_root

RESULTS = Path("results") / "pus_ablations.json"
EVEN = 0.0005
"""Differences in mIoU below this, 0.05 points, count as none."""
ROW_KEYS = ("setting", "title", "masks", "seeds", "miou", "mean", "spread")


@dataclass(frozen=True)
class Setting:
    """One line of the comparison: which masks train the model and which parameters differ from the run's."""

    name: str
    title: str
    masks: str = "ppmg"
    changes: dict[str, Any] = field(default_factory=dict)


RUN_BETA_KAPPA = (0.3, 1.0)
"""What the demo trains with."""


def pus_changes(kind: str, beta: float, kappa: float, variant: str = "paper", warmup: float = 0.0) -> dict[str, Any]:
    """Return the parameters of one pretended under-fitting strategy."""
    return {"pus": kind, "pus_variant": variant, "beta": beta, "kappa": kappa, "pus_warmup": warmup}


SETTINGS = (
    Setting("ce", "cross-entropy", changes={"pus": "none"}),
    Setting("clamp_paper_03_1", "clamp, paper, 0.3/1", changes=pus_changes("clamp", 0.3, 1.0)),
    Setting("clamp_paper_05_05", "clamp, paper, 0.5/0.5", changes=pus_changes("clamp", 0.5, 0.5)),
    Setting("clamp_official_05_05", "clamp, official, 0.5/0.5", changes=pus_changes("clamp", 0.5, 0.5, "official")),
    Setting("pow_05_05", "pow, 0.5/0.5", changes=pus_changes("pow", 0.5, 0.5)),
    Setting("ignore_official_05_05", "ignore, official, 0.5/0.5", changes=pus_changes("ignore", 0.5, 0.5, "official")),
    Setting("noisy_ce", "cross-entropy", "threshold", {"pus": "none"}),
    Setting("noisy_clamp_paper_05_1", "clamp, paper, 0.5/1", "threshold", pus_changes("clamp", 0.5, 1.0)),
)
"""The two numbers of a title are beta and kappa; "threshold" masks are the noisier ones."""


def run_grid(
    experiment: Any, settings: Iterable[Setting] = SETTINGS, seeds: Sequence[int] | None = None
) -> dict[str, Any]:
    """Train every setting with every seed, or reuse what is trained, and summarise.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        settings: lines of the comparison, names must differ.
        seeds: None takes the run's `ablation_seeds`.

    Returns:
        {"manifest", "settings", "rows"} as `write_results` stores it; one row a setting.

    Raises:
        InputError: there are no seeds, or two settings share a name.
    """
    settings = list(settings)
    seeds = list(experiment.params.ablation_seeds if seeds is None else seeds)
    if not seeds:
        raise InputError("ablation_seeds: is empty; give at least one seed, three show a spread")
    if len({setting.name for setting in settings}) < len(settings):
        raise InputError("settings: two of them share a name; each needs its own folder")
    rows = [summarise(setting, {seed: _cell(experiment, setting, seed) for seed in seeds}) for setting in settings]
    manifest = {"environment": environment(), "params": experiment.params.model_dump()}
    return {"manifest": manifest, "settings": [asdict(setting) for setting in settings], "rows": rows}


def train_setting(experiment: Any, setting: Setting, seed: int) -> Any:
    """Train one setting with one seed, or reuse it; return its stage."""
    name = f"ablation/{setting.name}/seed{seed}"
    return experiment.segmenter(name, masks=setting.masks, **{**setting.changes, "seed": seed})


def _cell(experiment: Any, setting: Setting, seed: int) -> float:
    return float(train_setting(experiment, setting, seed).facts["val"]["miou"])


def summarise(setting: Setting, miou: Mapping[int, float]) -> dict[str, Any]:
    """Reduce one setting's scores to mean and spread.

    Args:
        setting: the line of the comparison.
        miou: seed -> val mIoU as a fraction; at least one.

    Returns:
        One row; `spread` is the sample standard deviation over the seeds, None for a single seed.
    """
    values = [round(float(value), 4) for value in miou.values()]
    return {
        "setting": setting.name,
        "title": setting.title,
        "masks": setting.masks,
        "seeds": [int(seed) for seed in miou],
        "miou": values,
        "mean": round(statistics.fmean(values), 4),
        "spread": round(statistics.stdev(values), 4) if len(values) > 1 else None,
    }


def write_results(results: Mapping[str, Any], path: str | Path) -> Path:
    """Write the comparison as JSON, whole or not at all; return the path."""
    path = Path(path)
    write_text(path, json.dumps(check_results(results, str(path)), indent=1) + "\n")
    return path


def load_results(path: str | Path | None = None) -> dict[str, Any] | None:
    """Read a comparison; None where the file does not exist.

    Args:
        path: None takes results/pus_ablations.json of the project.

    Raises:
        InputError: the file is no JSON object, or a part is missing or out of range.
    """
    path = project_root() / RESULTS if path is None else Path(path)
    return check_results(read_json(path), str(path)) if path.exists() else None


def check_results(results: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the comparison as a dict if it is complete, raise InputError naming `source` otherwise."""
    for key, kind in (("manifest", Mapping), ("settings", list), ("rows", list)):
        if not isinstance(results.get(key), kind):
            raise InputError(f"{source}: {key} is missing or of the wrong type; write it with write_results")
    for number, row in enumerate(results["rows"]):
        _check_row(row, f"{source}: row {number + 1}")
    return dict(results)


def _check_row(row: Any, where: str) -> None:
    missing = [key for key in ROW_KEYS if not isinstance(row, Mapping) or key not in row]
    if missing:
        raise InputError(f"{where}: {missing[0]} is missing; run the comparison again")
    values, seeds = row["miou"], row["seeds"]
    if not isinstance(values, list) or not isinstance(seeds, list) or not values or len(values) != len(seeds):
        raise InputError(f"{where}: seeds and miou are not two equally long lists; run the comparison again")
    if not all(isinstance(v, int | float) and math.isfinite(v) and 0 <= v <= 1 for v in [*values, row["mean"]]):
        raise InputError(f"{where}: miou holds something else than fractions 0..1; run the comparison again")


def differences(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare every setting with plain cross-entropy on the same masks and the same seeds.

    Returns:
        One dict a setting other than cross-entropy: setting, title, masks, seeds (their number), better
        (seeds that gained), mean (of the differences, a fraction), spread (their sample standard deviation).
    """
    base = {row["masks"]: _by_seed(row) for row in results["rows"] if row["title"] == "cross-entropy"}
    compared = []
    for row in results["rows"]:
        scores, plain = _by_seed(row), base.get(row["masks"], {})
        gains = [scores[seed] - plain[seed] for seed in scores if seed in plain]
        if row["title"] == "cross-entropy" or not gains:
            continue
        spread = statistics.stdev(gains) if len(gains) > 1 else None
        facts = {"seeds": len(gains), "better": sum(g > 0 for g in gains), "mean": statistics.fmean(gains)}
        compared.append({k: row[k] for k in ("setting", "title", "masks")} | facts | {"spread": spread})
    return compared


def _by_seed(row: Mapping[str, Any]) -> dict[int, float]:
    return dict(zip(row["seeds"], row["miou"], strict=True))


def verdict(difference: Mapping[str, Any]) -> str:
    """Word one difference: a gain or a loss only where every seed agrees and the mean exceeds the spread and EVEN."""
    mean, spread = difference["mean"], difference["spread"]
    if spread is None:
        return "one seed, no verdict"
    if max(abs(mean), spread) < EVEN:
        return "makes no difference"
    if abs(mean) <= spread or difference["better"] not in (0, difference["seeds"]):
        return "within the spread of the seeds"
    return "gains" if mean > 0 else "loses"


def findings(results: Mapping[str, Any]) -> list[str]:
    """Say in one sentence a setting how it stands to cross-entropy on the same masks and seeds."""
    sentences = []
    for d in differences(results):
        spread = "" if d["spread"] is None else f" (spread {100 * d['spread']:.1f})"
        sentences.append(
            f"{d['masks']} masks, {d['title']}: {100 * d['mean']:+.1f} points{spread} against cross-entropy, "
            f"better in {d['better']} of {d['seeds']} seeds: {verdict(d)}."
        )
    return sentences


def origin(results: Mapping[str, Any] | None) -> str:
    """Say in one line how the comparison was made, or that there is none."""
    if results is None:
        return f"{RESULTS.as_posix()} is absent: no longer comparison to show; ablation_seeds makes one."
    return f"The comparison: {_made_with(results)}."


def _made_with(results: Mapping[str, Any]) -> str:
    """Data set, split and training of the comparison, as far as its manifest tells."""
    get = results["manifest"].get("params", {}).get
    seeds = max((len(row["seeds"]) for row in results["rows"]), default=0)
    return (
        f"{get('dataset')}, {get('n_train')} training and {get('n_val')} images of split {get('val_split')}, "
        f"{get('seg_epochs')} epochs, {seeds} seeds, CRF: {'yes' if get('seg_crf') else 'no'}"
    )


def metrics_section(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the comparison as a section of metrics.json."""
    rows = [[row["masks"], row["title"], row["mean"], row["spread"], len(row["seeds"])] for row in results["rows"]]
    return {
        "title": "Pretended under-fitting: settings by seeds",
        "data": _made_with(results),
        "columns": ["training masks", "loss (beta/kappa)", "val mIoU, mean", "spread", "seeds"],
        "rows": rows,
        "note": "Spread: sample standard deviation over the seeds of the training; masks are the same.",
    }
