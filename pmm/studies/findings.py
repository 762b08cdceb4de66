"""What a grid of notebook 07 says, in one sentence that its numbers write."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pmm.studies.ablations import EVEN, differences, verdict
from pmm.studies.mask_grid import class_table, own_of, pick, table
from pmm.studies.training_grids import augment_gains, cyclic_lines


def smoothing_sentence(results: Mapping[str, Any]) -> str:
    """Say how the run's s stands to s = 0 at each alpha, and where the grid is highest."""
    own, (s, alphas, miou) = own_of(results), table(results, "s", "alpha")
    gain = miou[s.index(own["s"])] - miou[s.index(0.0)]
    row, column = np.unravel_index(np.nanargmax(miou), miou.shape)
    return (
        f"s = {own['s']:g} is better than s = 0 at {int((gain > EVEN).sum())} of {len(alphas)} values of alpha "
        f"({_points(gain[alphas.index(own['alpha'])])} at the run's alpha = {own['alpha']:g}); in hindsight the "
        f"grid is highest at s = {s[row]:g}, alpha = {alphas[column]:g} with {miou[row, column]:.1%}, "
        f"and with s = 0 its best is {np.nanmax(miou[s.index(0.0)]):.1%}."
    )


def class_sentence(results: Mapping[str, Any]) -> str:
    """Say which classes the run's s helps and which it hurts, against s = 0."""
    own, (names, s, iou) = own_of(results), class_table(results, "s")
    gain = iou[:, s.index(own["s"])] - iou[:, s.index(0.0)]
    best, worst = int(np.nanargmax(gain)), int(np.nanargmin(gain))
    return (
        f"Against s = 0, s = {own['s']:g} raises the IoU of {int((gain > EVEN).sum())} of {len(names)} classes: "
        f"most for {_spoken(names[best])} ({_points(gain[best])}), least for {_spoken(names[worst])} "
        f"({_points(gain[worst])})."
    )


def background_sentence(alphas: Sequence[float], shares: Sequence[float], results: Mapping[str, Any]) -> str:
    """Say how the background shrinks with alpha, without a CRF and in the masks."""
    cells = pick(results, alpha="any")
    cells = sorted(cells, key=lambda cell: cell["alpha"])
    return (
        f"From alpha = {alphas[0]:g} to {alphas[-1]:g} eq. 2 alone gives {shares[0]:.0%} and then {shares[-1]:.0%} of "
        f"the pixels to the background; in the masks of PPMG it is {cells[0]['background']:.0%} at alpha = "
        f"{cells[0]['alpha']:g} and {cells[-1]['background']:.0%} at {cells[-1]['alpha']:g}."
    )


def threshold_sentence(results: Mapping[str, Any]) -> str:
    """Say how far mIoU moves over t, for each variant."""
    variants, t, miou = table(results, "variant", "t")
    parts = [
        f"{100 * (np.nanmax(row) - np.nanmin(row)):.1f} points in the variant {name}, "
        f"highest at t = {t[int(np.nanargmax(row))]:g}"
        for name, row in zip(variants, miou, strict=True)
    ]
    return f"From t = {t[0]:g} to {t[-1]:g} mIoU spans {' and '.join(parts)}."


def variant_sentence(results: Mapping[str, Any]) -> str:
    """Say how far the two variants are apart at the run's t, and at most."""
    own, (variants, t, miou) = own_of(results), table(results, "variant", "t")
    gap = miou[variants.index("official")] - miou[variants.index("paper")]
    far = int(np.nanargmax(np.abs(gap)))
    return (
        f"Released code against equations: {_points(gap[t.index(own['t'])])} at the run's t = {own['t']:g}, "
        f"and {_points(gap[far])} at t = {t[far]:g}, where they are farthest apart."
    )


def crf_sentence(results: Mapping[str, Any]) -> str:
    """Say what the CRF brings, and which of the tried strengths is highest."""
    cells = {cell["crf"]: cell["miou"] for cell in pick(results, crf="any")}
    best = max(cells, key=lambda factor: cells[factor])
    off = f"{_points(cells[1.0] - cells[0.0])} against none" if 0.0 in cells else "without a partner that has none"
    return f"The run's CRF brings {off}; of the strengths tried the factor {best:g} is highest ({cells[best]:.1%})."


def augment_sentence(results: Mapping[str, Any], alpha: float) -> str:
    """Say whether the gain of CVS is larger with strong augmentation than with weak, seed by seed."""
    gains = augment_gains(results)
    at = {
        name: {seed: dict(zip(*line, strict=True))[alpha] for seed, line in lines.items() if alpha in line[0]}
        for name, lines in gains.items()
    }
    pairs = [(at["strong"][seed], weak) for seed, weak in at.get("weak", {}).items() if seed in at.get("strong", {})]
    if not pairs:
        return f"No seed has both augmentations at alpha = {alpha:g}."
    strong, weak = (statistics.fmean(values) for values in zip(*pairs, strict=True))
    extra = [s - w for s, w in pairs]
    facts = {"mean": statistics.fmean(extra), "better": sum(e > 0 for e in extra), "seeds": len(extra)}
    word = verdict(facts | {"spread": statistics.stdev(extra) if len(extra) > 1 else None})
    said = {"gains": "CVS gains more with strong augmentation", "loses": "CVS gains more with weak augmentation"}
    return (
        f"At alpha = {alpha:g} CVS brings {_points(strong)} with strong and {_points(weak)} with weak augmentation "
        f"(mean of {len(pairs)} seeds), more with strong in {facts['better']} of them: {said.get(word, word)}."
    )


def hindsight_sentence(results: Mapping[str, Any]) -> str:
    """Say where smoothing is ahead when each classifier takes its best alpha, with the run's s and with s = 0."""
    best: dict[tuple[str, int], dict[bool, float]] = {}
    for cell in results["cells"]:
        found, smoothed = best.setdefault((cell["augment"], cell["seed"]), {}), cell["s"] > 0
        found[smoothed] = max(found.get(smoothed, 0.0), cell["miou"])
    gains = {key: found[True] - found[False] for key, found in best.items() if len(found) == 2}
    parts = []
    for augment in ("strong", "weak"):
        each = [gain for (name, _), gain in sorted(gains.items()) if name == augment]
        if each:
            ahead = sum(gain > EVEN for gain in each)
            parts.append(f"{augment} {_points(statistics.fmean(each))}, ahead in {ahead} of {len(each)} seeds")
    return f"With the alpha that is best in hindsight on either side, smoothing brings: {'; '.join(parts)}."


def pus_sentence(results: Mapping[str, Any]) -> str:
    """Count for each kind of masks how many losses gain, lose or do neither against cross-entropy."""
    found = differences(results)
    parts = []
    for masks in dict.fromkeys(d["masks"] for d in found):
        lines = [d for d in found if d["masks"] == masks]
        words = [verdict(d) for d in lines]
        best = max(lines, key=lambda d: d["mean"])
        parts.append(
            f"{masks} masks: of {len(lines)} settings {words.count('gains')} gain, {words.count('loses')} lose, "
            f"largest mean {_points(best['mean'])} ({best['title']})"
        )
    return f"{'; '.join(parts)}." if parts else "No setting has cross-entropy on the same masks beside it."


def masks_sentence(results: Mapping[str, Any]) -> str:
    """Say what plain cross-entropy reaches on each kind of masks."""
    rows = [row for row in results["rows"] if row["title"] == "cross-entropy"]
    if not rows:
        return "No masks were trained on with plain cross-entropy."
    each = ", ".join(f"{row['mean']:.1%} on {row['masks']} masks" for row in rows)
    return f"Plain cross-entropy reaches {each} (mean of {min(len(row['seeds']) for row in rows)} seeds)."


def cyclic_sentence(results: Mapping[str, Any], what: str) -> str:
    """Say how the last round stands to round 0, with and without the filter, seed by seed."""
    parts, lines = [], cyclic_lines(results, what)
    for filtered, (_, values) in lines.items():
        change = [(last - first) / 100 for first, last in zip(values[0], values[-1], strict=True)]
        facts = {"mean": statistics.fmean(change), "better": sum(c > 0 for c in change), "seeds": len(change)}
        word = verdict(facts | {"spread": statistics.stdev(change) if len(change) > 1 else None})
        name = "filtered by the labels" if filtered else "not filtered"
        parts.append(f"{name} {_points(facts['mean'])}, better in {facts['better']} of {len(change)} seeds ({word})")
    label = {"masks": "masks, train", "model": "models, val"}[what]
    return f"{label}: round {lines[True][0][-1]} against round 0, {'; '.join(parts)}."


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f} points"


def _spoken(name: str) -> str:
    return name.replace("_", " ")
