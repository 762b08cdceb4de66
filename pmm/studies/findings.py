"""What a study says, in sentences that its numbers write."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pmm.studies.masks import class_table, own_of, pick, table
from pmm.studies.records import EVEN, Cell, Record, compare, select, summarise
from pmm.studies.trainings import augment_gains, loss_gains


def each(found: Mapping[str, Record], sentence: Callable[[Record], str]) -> list[str]:
    """Say one sentence about each of several records, which their titles begin."""
    return [f"{title}: {sentence(record)}" for title, record in found.items()]


def smoothing_sentence(record: Record) -> str:
    """Say how the run's s stands to s = 0 at each alpha, and where the grid is highest."""
    own, (s, alphas, miou) = own_of(record), table(record, "s", "alpha")
    gain = miou[s.index(own["s"])] - miou[s.index(0.0)]
    row, column = np.unravel_index(np.nanargmax(miou), miou.shape)
    return (
        f"s = {own['s']:g} is better than s = 0 at {int((gain > EVEN).sum())} of {len(alphas)} values of alpha "
        f"({_points(gain[alphas.index(own['alpha'])])} at the run's alpha = {own['alpha']:g}); in hindsight the "
        f"grid is highest at s = {s[row]:g}, alpha = {alphas[column]:g} with {miou[row, column]:.1%}, "
        f"and with s = 0 its best is {np.nanmax(miou[s.index(0.0)]):.1%}."
    )


def methods_sentence(record: Record) -> str:
    """Say what each step brings, from threshold to joint CRF to PPMG to PPMG with smoothing, seed by seed.

    First with the run's CRFs, then with one Gaussian weight for all, since the released code's differ: 3 for the joint
    CRF, 10 in PPMG.
    """
    steps = {"threshold": "", "crf": "the joint CRF", "ppmg_s0": "PPMG without CVS", "ppmg": "PPMG with CVS"}
    params = record.manifest["params"]
    weights = {"threshold": None, "crf": params["crf_joint_gauss_compat"]}

    def cells(method: str, weight: float | None = None) -> list[Cell]:
        """Select a method's cells, with the run's CRF unless told."""
        own = weights.get(method, params["crf_gauss_compat"])
        return select(record.cells, method=method, gauss_compat=own if weight is None else weight)

    def gain(method: str, before: str, weight: float | None = None) -> str:
        """Say what a method gains over another."""
        found = compare(cells(method, weight), cells(before, weight))
        seeds = f"ahead in {found.ahead} of {found.seeds} seeds: " if found.seeds > 1 else ""
        return f"{_points(found.mean)} ({seeds}{found.verdict})"

    best = summarise(cells("threshold"), "method")[0]
    parts = [f"the CAM at its threshold reaches {best['mean']:.1%}"]
    parts += [f"{name} {gain(method, before)}" for (before, _), (method, name) in itertools.pairwise(steps.items())]
    parts.append(f"PPMG with CVS against the joint CRF {gain('ppmg', 'crf')}")
    said = f"Each with the setting that other images chose, and each against the one before: {'; '.join(parts)}."
    shared = {params["crf_gauss_compat"]} & {params["crf_joint_gauss_compat"]}  # by the run's CRFs: said already
    for weight in sorted({cell["gauss_compat"] for cell in record.cells} - {None} - shared):
        pair = f"without CVS {gain('ppmg_s0', 'crf', weight)}, with CVS {gain('ppmg', 'crf', weight)}"
        said += f" With the Gaussian weight {weight:g} in all CRFs, PPMG against the joint CRF: {pair}."
    return said


def class_sentence(record: Record) -> str:
    """Say which classes the run's s helps and which it hurts, against s = 0."""
    own, (names, s, iou) = own_of(record), class_table(record, "s")
    gain = iou[:, s.index(own["s"])] - iou[:, s.index(0.0)]
    most, least = (f"{_spoken(names[i])} ({_points(gain[i])})" for i in (np.nanargmax(gain), np.nanargmin(gain)))
    return (
        f"Against s = 0, s = {own['s']:g} raises the IoU of {int((gain > EVEN).sum())} of {len(names)} classes: "
        f"most for {most}, least for {least}."
    )


def background_sentence(alphas: Sequence[float], shares: Sequence[float], record: Record) -> str:
    """Say how the background shrinks with alpha, without a CRF and in the masks."""
    first, last = (pick(record, "alpha")[place] for place in (0, -1))
    return (
        f"From alpha = {alphas[0]:g} to {alphas[-1]:g} eq. 2 alone gives {shares[0]:.0%} and then {shares[-1]:.0%} of "
        f"the pixels to the background; in the masks of PPMG it is {first['background']:.0%} at alpha = "
        f"{first['alpha']:g} and {last['background']:.0%} at {last['alpha']:g}."
    )


def threshold_sentence(record: Record) -> str:
    """Say how far mIoU moves over t, for each variant."""
    variants, t, miou = table(record, "variant", "t")
    spans, tops = 100 * (np.nanmax(miou, axis=1) - np.nanmin(miou, axis=1)), np.nanargmax(miou, axis=1)
    parts = [
        f"{span:.1f} points in the variant {name}, highest at t = {t[top]:g}"
        for name, span, top in zip(variants, spans, tops, strict=True)
    ]
    return f"From t = {t[0]:g} to {t[-1]:g} mIoU spans {' and '.join(parts)}."


def variant_sentence(record: Record) -> str:
    """Say how far the two variants are apart at the run's t, and at most."""
    own, (variants, t, miou) = own_of(record), table(record, "variant", "t")
    gap = miou[variants.index("official")] - miou[variants.index("paper")]
    far = int(np.nanargmax(np.abs(gap)))
    return (
        f"Released code against equations: {_points(gap[t.index(own['t'])])} at the run's t = {own['t']:g}, "
        f"and {_points(gap[far])} at t = {t[far]:g}, where they are farthest apart."
    )


def crf_sentence(record: Record) -> str:
    """Say what the CRF brings, and which of the tried strengths is highest."""
    cells = {cell["crf_scale"]: cell["miou"] for cell in pick(record, "crf_scale")}
    best = max(cells, key=cells.get)
    off = f"{_points(cells[1.0] - cells[0.0])} against none" if 0.0 in cells else "without a partner that has none"
    return f"The run's CRF brings {off}; of the strengths tried the factor {best:g} is highest ({cells[best]:.1%})."


def augment_sentence(record: Record) -> str:
    """Say whether the gain of CVS at the run's alpha is larger with strong augmentation, seed by seed."""
    alpha = record.manifest["params"]["alpha"]
    strong, weak = (select(augment_gains(record), augment=name, alpha=alpha) for name in ("strong", "weak"))
    extra = compare(strong, weak, "gain")
    if not extra.seeds:
        return f"No seed has both augmentations at alpha = {alpha:g}."
    means = [statistics.fmean(c["gain"] for c in cells if c["seed"] in extra.gains) for cells in (strong, weak)]
    said = {"gains": "CVS gains more with strong augmentation", "loses": "CVS gains more with weak augmentation"}
    return (
        f"At alpha = {alpha:g} CVS brings {_points(means[0])} with strong and {_points(means[1])} with weak "
        f"augmentation (mean of {extra.seeds} seeds), more with strong in {extra.ahead} of them: "
        f"{said.get(extra.verdict, extra.verdict)}."
    )


def hindsight_sentence(record: Record) -> str:
    """Say where smoothing is ahead when each classifier takes its best alpha, with the run's s and with s = 0."""
    parts = []
    for augment in ("strong", "weak"):
        known = [cell for cell in select(record.cells, augment=augment) if cell["miou"] is not None]
        known.sort(key=lambda cell: cell["miou"])
        smoothed, plain = ({c["seed"]: c for c in known if (c["s"] > 0) == own}.values() for own in (True, False))
        gain = compare(smoothed, plain)  # of a seed's cells the last, its best, remains
        if gain.seeds:
            ahead = sum(value > EVEN for value in gain.gains.values())
            parts.append(f"{augment} {_points(gain.mean)}, ahead in {ahead} of {gain.seeds} seeds")
    return f"With the alpha that is best in hindsight on either side, smoothing brings: {'; '.join(parts)}."


def loss_sentences(record: Record) -> list[str]:
    """Say in one sentence a setting how it stands to cross-entropy on the same masks and seeds."""
    return [
        f"{_spoken(masks)} masks, {title}: {_points(gain.mean)}"
        f"{'' if gain.spread is None else f' (spread {100 * gain.spread:.1f})'} against cross-entropy, "
        f"better in {gain.ahead} of {gain.seeds} seeds: {gain.verdict}."
        for (masks, title), gain in loss_gains(record).items()
    ]


def verdicts_sentence(record: Record) -> str:
    """Count for each kind of masks how many losses gain, lose or do neither against cross-entropy."""
    found, parts = loss_gains(record), []
    for masks in dict.fromkeys(masks for masks, _ in found):
        gains = {title: gain for (kind, title), gain in found.items() if kind == masks}
        words = [gain.verdict for gain in gains.values()]
        best = max(gains, key=lambda title: gains[title].mean)
        parts.append(
            f"{_spoken(masks)} masks: of {len(gains)} settings {words.count('gains')} gain, {words.count('loses')} "
            f"lose, largest mean {_points(gains[best].mean)} ({best})"
        )
    return f"{'; '.join(parts)}." if parts else "No setting has cross-entropy on the same masks beside it."


def masks_sentence(record: Record) -> str:
    """Say what plain cross-entropy reaches on each kind of masks."""
    rows = summarise(select(record.cells, title="cross-entropy"), "masks")
    if not rows:
        return "No masks were trained on with plain cross-entropy."
    each = ", ".join(f"{row['mean']:.1%} on {_spoken(row['masks'])} masks" for row in rows)
    return f"Plain cross-entropy reaches {each} (mean of {min(row['seeds'] for row in rows)} seeds)."


def cyclic_sentence(record: Record, score: str) -> str:
    """Say how the last round stands to round 0, with and without the filter, seed by seed; as `round_lines`."""
    parts, last = [], max(cell["round"] for cell in record.cells)
    for filtered, name in ((True, "filtered by the labels"), (False, "not filtered")):
        cells = select(record.cells, filtered=filtered)
        gain = compare(select(cells, round=last), select(cells, round=0), score)
        parts.append(f"{name} {_points(gain.mean)}, better in {gain.ahead} of {gain.seeds} seeds ({gain.verdict})")
    label = {"masks_miou": "masks, train", "model_miou": "models, val"}[score]
    return f"{label}: round {last} against round 0, {'; '.join(parts)}."


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f} points"


def _spoken(name: str) -> str:
    return name.replace("_", " ")
