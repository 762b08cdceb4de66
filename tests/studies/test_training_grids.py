"""The grids that train, with a stand-in for the experiment; and once for real, on the smallest one."""

from types import SimpleNamespace

import numpy as np
import pytest

from pmm.errors import InputError
from pmm.run.params import Params
from pmm.studies import findings as grid_words
from pmm.studies import training_grids as grids
from pmm.studies.ablations import SETTINGS, run_grid, summarise
from pmm.studies.grids import check_grid


def test_the_long_grid_extends_the_settings_of_notebook_05():
    found = grids.pus_settings()
    by_name = {setting.name: setting for setting in found}
    assert all(by_name[setting.name] == setting for setting in SETTINGS)
    assert len(by_name) == len({(s.masks, s.title) for s in found}) == len(found)
    for masks in grids.MASKS:
        assert set(grids.KIND_TITLES) <= {s.title for s in found if s.masks == masks}
    for setting in found:
        Params(**setting.changes)


def test_each_fine_mask_has_every_beta_and_kappa():
    rows = [summarise(s, {0: 0.5, 1: 0.6}) for s in grids.pus_settings()]
    for masks in grids.FINE_MASKS:
        betas, kappas, gains = grids.gain_table({"rows": rows}, masks)
        assert gains.shape == (len(betas), len(kappas)) == (3, 3) and np.allclose(gains, 0)
    assert np.isnan(grids.gain_table({"rows": rows}, "threshold")[2]).sum() == 8


def test_pus_sentence_counts_verdicts():
    scores = {"cross-entropy": (0.50, 0.51, 0.52), "clamp, paper, 0.3/1": (0.55, 0.56, 0.57)}
    settings = [s for s in grids.pus_settings() if s.masks == "noisy" and s.title in scores]
    rows = [summarise(s, dict(enumerate(scores[s.title]))) for s in settings]
    said = grid_words.pus_sentence({"rows": rows})
    assert said == "noisy masks: of 1 settings 1 gain, 0 lose, largest mean +5.0 points (clamp, paper, 0.3/1)."
    assert grid_words.masks_sentence({"rows": rows}) == (
        "Plain cross-entropy reaches 51.0% on noisy masks (mean of 3 seeds)."
    )
    assert grid_words.masks_sentence({"rows": rows[1:]}).startswith("No masks")


class FakeExperiment:
    """Filtered students gain 2 points a round, the others lose 1; remembers what was trained on what."""

    def __init__(self, seeds=(0, 1)):
        self.params = Params(ablation_seeds=list(seeds))
        self.data = SimpleNamespace(name="fake")
        self.train_ids = self.val_ids = ["a"]
        self.trained, self.predicted = [], []

    def pseudo_masks(self, method):
        return SimpleNamespace(facts={"miou": 0.6})

    def segmenter(self, name, masks, **changes):
        self.trained.append((name, masks, changes))
        step = 0.02 if "filtered" in name else -0.01 if "free" in name else 0.0
        number = int(name[-1]) if step else 0
        return SimpleNamespace(facts={"val": {"miou": 0.4 + 0.001 * changes["seed"] + step * number}})

    def cyclic_masks(self, number, teacher, name, filtered):
        self.predicted.append((teacher, name, filtered))
        return SimpleNamespace(facts={"miou": 0.6 - 0.01 * number})


def test_the_cyclic_grid_goes_round_by_round():
    experiment = FakeExperiment(seeds=(7,))
    results = check_grid(grids.run_cyclic_grid(experiment, rounds=2), "cyclic_ablations", "here")
    root = "ablation/cyclic/seed7"
    assert experiment.predicted == [
        (f"{root}/teacher", f"{root}/filtered1", True),
        (f"{root}/filtered1", f"{root}/filtered2", True),
        (f"{root}/teacher", f"{root}/free1", False),
        (f"{root}/free1", f"{root}/free2", False),
    ]
    assert [name for name, _, changes in experiment.trained if "pus" not in changes] == [f"{root}/teacher"]
    assert all(masks == name for name, masks, _ in experiment.trained[2:])
    assert len(results["cells"]) == 2 * 3


def test_cyclic_sentences_follow_the_numbers():
    results = grids.run_cyclic_grid(FakeExperiment(), rounds=3)
    said = grid_words.cyclic_sentence(results, "model")
    assert "round 3 against round 0, filtered by the labels +6.0 points, better in 2 of 2 seeds (gains)" in said
    assert "not filtered -3.0 points, better in 0 of 2 seeds (loses)" in said
    assert "-3.0 points" in grid_words.cyclic_sentence(results, "masks")
    lines = grids.named_rounds(results, "model")
    assert lines["not filtered"][0] == [0, 1, 2, 3] and lines["not filtered"][1][0] == pytest.approx([40.0, 40.1])


def augment_results(extra):
    cells = [
        {"augment": a, "seed": seed, "s": s, "alpha": 0.5, "c_v": 0.4, "miou": 0.5 + gain * (s > 0) + 0.001 * seed}
        for seed in range(3)
        for a, gain in (("weak", 0.01), ("strong", 0.01 + extra))
        for s in (0.0, 0.3)
    ]
    return {"manifest": {"params": Params().model_dump()}, "cells": cells}


@pytest.mark.parametrize(
    "extra, words", [(0.03, "more with strong augmentation"), (-0.03, "more with weak"), (0.0, "makes no difference")]
)
def test_the_verdict_on_augmentation_follows_the_numbers(extra, words):
    results = augment_results(extra)
    assert words in grid_words.augment_sentence(results, 0.5)
    assert grids.augment_lines(results)["strong"] == ([0.5], [pytest.approx([100 * (0.01 + extra)] * 3)])
    assert "No seed" in grid_words.augment_sentence(results, 8.0)


def test_in_hindsight_each_side_takes_its_own_alpha():
    cells = [
        {"augment": "weak", "seed": seed, "s": s, "alpha": alpha, "miou": miou - 0.03 * seed * (s > 0)}
        for seed in range(2)
        for (s, alpha), miou in {(0.0, 0.5): 0.50, (0.0, 1.0): 0.60, (0.3, 0.5): 0.62, (0.3, 1.0): 0.40}.items()
    ]
    said = grid_words.hindsight_sentence({"cells": cells})
    assert said.endswith("smoothing brings: weak +0.5 points, ahead in 1 of 2 seeds.")  # +2 and -1 points


def test_no_seeds_are_refused():
    for run in (grids.run_cyclic_grid, grids.run_augment_grid, run_grid):
        with pytest.raises(InputError, match="ablation_seeds"):
            run(FakeExperiment(seeds=()))
