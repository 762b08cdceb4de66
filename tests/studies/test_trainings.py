"""The studies that train, with a stand-in for the experiment."""

from types import SimpleNamespace

import numpy as np
import pytest

from pmm.errors import InputError
from pmm.run.params import Params
from pmm.studies import findings, trainings
from pmm.studies.records import Record, check_record, load_record, metrics_section, origin
from pmm.studies.trainings import LOSS_TITLES, MASKS, SETTINGS, LossSetting, loss_settings, run_losses

PLAIN = LossSetting("ppmg")
CLAMP = LossSetting("ppmg", "clamp", "paper", 0.2, 1.0)


class Losses:
    """Scores 0.50 + 0.01 * seed, and 0.03 more for a clamp; remembers what it was asked for."""

    def __init__(self, seeds=(0, 1, 2), masked=True):
        self.params = Params(ablation_seeds=list(seeds))
        self.data = SimpleNamespace(name="fake", has_mask=lambda _: masked)
        self.train_ids = self.val_ids = ["a"]
        self.inputs_mark = "fake"
        self.calls = []

    def segmenter(self, name, masks, **changes):
        self.calls.append((name, masks, changes))
        miou = 0.5 + 0.01 * changes["seed"] + 0.03 * (changes["pus"] == "clamp")
        return SimpleNamespace(facts={"val": {"miou": miou}})


@pytest.fixture
def record():
    return run_losses(Losses(), [PLAIN, CLAMP])


def scored(settings, scores):
    """A record in which each setting has the scores of seeds 0, 1, ..."""
    cells = [
        {"masks": s.masks, "title": s.title, "pus": s.pus, "seed": seed, "miou": miou}
        for s in settings
        for seed, miou in enumerate(scores(s))
    ]
    return Record({"params": Params().model_dump()}, cells)


def test_every_cell_is_one_named_training():
    experiment = Losses(seeds=(0, 7))
    run_losses(experiment, [CLAMP])
    changes = {"pus": "clamp", "pus_variant": "paper", "beta": 0.2, "kappa": 1.0, "pus_warmup": 0.0}
    assert experiment.calls == [
        ("ablation/ppmg/clamp_paper_0.2_1/seed0", "ppmg", {**changes, "seed": 0}),
        ("ablation/ppmg/clamp_paper_0.2_1/seed7", "ppmg", {**changes, "seed": 7}),
    ]


def test_the_run_s_own_models_are_trained_once():
    params = Params(seed=3)
    own = trainings.own_loss(params)
    assert (own.pus, own.beta, own.kappa) == (params.pus, params.beta, params.kappa)
    named = {setting.name(params, 3) for setting in (PLAIN, own, LossSetting("ground_truth"))}
    assert named == {"ce", "pus", "ground_truth"}
    assert own.name(params, 0).startswith("ablation/ppmg/") and PLAIN.name(params, 0).startswith("ablation/ppmg/")
    assert CLAMP.name(params, 3) == "ablation/ppmg/clamp_paper_0.2_1/seed3"
    assert LossSetting("threshold").name(params, 3).startswith("ablation/threshold/")
    assert trainings.own_loss(Params(pus="none")) == PLAIN
    warmed = trainings.own_loss(Params(pus_warmup=0.5))
    assert warmed is None  # no setting of the comparison warms up


def test_no_seed_no_truth_and_the_same_setting_twice_are_refused():
    for run in (run_losses, trainings.run_rounds, trainings.run_augmentations):
        with pytest.raises(InputError, match="ablation_seeds"):
            run(Losses(seeds=()))
    with pytest.raises(InputError, match="the same"):
        run_losses(Losses(), [PLAIN, PLAIN])
    with pytest.raises(InputError, match="val_split"):
        run_losses(Losses(masked=False), [PLAIN])


def test_committed_settings_are_valid_parameters_and_each_has_its_own_folder():
    for settings in (SETTINGS, loss_settings()):
        assert len({(s.masks, s.title) for s in settings}) == len(set(settings)) == len(settings)
        for setting in settings:
            Params(**setting.changes)
        for masks in {setting.masks for setting in settings}:
            assert LossSetting(masks) in settings


def test_the_committed_studies_hold_these_settings():
    keys = ("masks", "pus", "variant", "beta", "kappa")
    for name in ("training_ablations", "voc2012_animals_training_ablations"):
        cells = load_record(name).cells
        tried = [LossSetting(*(cell[key] for key in keys)) for cell in cells]
        assert tried[::3] == tried[1::3] == tried[2::3] and [cell["seed"] for cell in cells[:3]] == [0, 1, 2]
        assert [cell["title"] for cell in cells] == [setting.title for setting in tried]
        assert set(tried) <= set(loss_settings())


def test_the_record_is_whole_and_differences_are_taken_seed_by_seed(record):
    check_record(vars(record), "here")
    ((key, gain),) = trainings.loss_gains(record).items()
    assert key == ("ppmg", "clamp, paper, 0.2/1") and gain.seeds == gain.ahead == 3
    assert gain.mean == pytest.approx(0.03) and gain.spread == pytest.approx(0, abs=1e-9)


def test_difference_stays_within_the_same_masks(record):
    for cell in record.cells[3:]:
        cell["masks"] = "threshold"
    assert trainings.loss_gains(record) == {}


def test_sentences_and_section_follow_the_numbers(record):
    (sentence,) = findings.loss_sentences(record)
    assert "+3.0 points" in sentence and "3 of 3" in sentence and sentence.endswith("gains.")
    assert "3 seeds" in origin(record, "training_ablations") and origin(record, "").startswith("this run")
    section = metrics_section(record)
    assert section["rows"][1] == ["ppmg", "clamp, paper, 0.2/1", 0.54, 0.01, 3]
    assert len(section["columns"]) == len(section["rows"][0])


def test_the_long_comparison_extends_that_of_notebook_05():
    found = loss_settings()
    assert set(SETTINGS) <= set(found) and len(found) == 32
    for masks in MASKS:
        assert set(LOSS_TITLES) <= {s.title for s in found if s.masks == masks}


def test_each_fine_mask_has_every_beta_and_kappa():
    record = scored(loss_settings(), lambda _: (0.5, 0.6))
    for masks in trainings.FINE_MASKS:
        betas, kappas, gains = trainings.gain_table(record, masks)
        assert gains.shape == (len(betas), len(kappas)) == (3, 3) and np.allclose(gains, 0)
    assert np.isnan(trainings.gain_table(record, "threshold")[2]).sum() == 8


def test_verdicts_are_counted_by_masks():
    scores = {"cross-entropy": (0.50, 0.51, 0.52), "clamp, paper, 0.3/1": (0.55, 0.56, 0.57)}
    settings = [s for s in loss_settings() if s.masks == "noisy" and s.title in scores]
    said = findings.verdicts_sentence(scored(settings, lambda s: scores[s.title]))
    assert said == "noisy masks: of 1 settings 1 gain, 0 lose, largest mean +5.0 points (clamp, paper, 0.3/1)."
    assert findings.masks_sentence(scored(settings, lambda s: scores[s.title])) == (
        "Plain cross-entropy reaches 51.0% on noisy masks (mean of 3 seeds)."
    )
    assert findings.masks_sentence(scored(settings[1:], lambda s: scores[s.title])).startswith("No masks")


class Rounds(Losses):
    """Filtered students gain 2 points a round, the others lose 1; remembers what was trained on what."""

    def __init__(self, seeds=(0, 1)):
        super().__init__(seeds)
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


def test_the_cyclic_rounds_follow_each_other():
    experiment = Rounds(seeds=(7,))
    record = check_record(vars(trainings.run_rounds(experiment, rounds=2)), "here")
    root, teacher = "ablation/cyclic/seed7", trainings.own_loss(experiment.params).name(experiment.params, 7)
    assert teacher.startswith("ablation/") and list(dict.fromkeys(experiment.predicted)) == [
        (teacher, f"{root}/filtered1", True),
        (f"{root}/filtered1", f"{root}/filtered2", True),
        (teacher, f"{root}/free1", False),
        (f"{root}/free1", f"{root}/free2", False),
    ]
    assert {name for name, _, changes in experiment.trained if "pus" not in changes} == {teacher}
    assert all(masks == name for name, masks, _ in experiment.trained if name[-1].isdigit() and "cyclic" in name)
    assert len(record.cells) == 2 * 3


def test_cyclic_sentences_follow_the_numbers():
    record = trainings.run_rounds(Rounds(), rounds=3)
    said = findings.cyclic_sentence(record, "model_miou")
    assert "round 3 against round 0, filtered by the labels +6.0 points, better in 2 of 2 seeds (gains)" in said
    assert "not filtered -3.0 points, better in 0 of 2 seeds (loses)" in said
    assert "-3.0 points" in findings.cyclic_sentence(record, "masks_miou")
    rounds, values = trainings.round_lines(record, "model_miou")[False]
    assert rounds == [0, 1, 2, 3] and values[0] == pytest.approx([40.0, 40.1])


def augmentations(extra, alpha=0.5):
    cells = [
        {"augment": a, "seed": seed, "s": s, "alpha": 0.5, "c_v": 0.4, "miou": 0.5 + gain * (s > 0) + 0.001 * seed}
        for seed in range(3)
        for a, gain in (("weak", 0.01), ("strong", 0.01 + extra))
        for s in (0.0, 0.3)
    ]
    return Record({"params": Params(alpha=alpha).model_dump()}, cells)


@pytest.mark.parametrize(
    "extra, words", [(0.03, "more with strong augmentation"), (-0.03, "more with weak"), (0.0, "makes no difference")]
)
def test_the_verdict_on_augmentation_follows_the_numbers(extra, words):
    record = augmentations(extra)
    assert words in findings.augment_sentence(record)
    assert trainings.augment_lines(record)["strong"] == ([0.5], [pytest.approx([100 * (0.01 + extra)] * 3)])
    assert "No seed" in findings.augment_sentence(augmentations(extra, alpha=8.0))


def test_in_hindsight_each_side_takes_its_own_alpha():
    cells = [
        {"augment": "weak", "seed": seed, "s": s, "alpha": alpha, "miou": miou - 0.03 * seed * (s > 0)}
        for seed in range(2)
        for (s, alpha), miou in {(0.0, 0.5): 0.50, (0.0, 1.0): 0.60, (0.3, 0.5): 0.62, (0.3, 1.0): 0.40}.items()
    ]
    said = findings.hindsight_sentence(Record({}, cells))
    assert said.endswith("smoothing brings: weak +0.5 points, ahead in 1 of 2 seeds.")  # +2 and -1 points


def test_ways_are_compared_seed_by_seed():
    scores = {
        ("threshold", None): 0.5,
        ("crf", 3): 0.6,
        ("crf", 10): 0.55,
        ("ppmg_s0", 3): 0.62,
        ("ppmg_s0", 10): 0.61,
        ("ppmg", 3): 0.58,
        ("ppmg", 10): 0.65,
    }
    cells = [
        {"method": m, "gauss_compat": w, "seed": seed, "miou": v + 0.01 * seed}
        for (m, w), v in scores.items()
        for seed in range(3)
    ]
    said = findings.methods_sentence(Record({"params": Params().model_dump()}, cells))
    assert "its threshold reaches 51.0%" in said and "the joint CRF +10.0 points (ahead in 3 of 3 seeds: gains)" in said
    assert "PPMG with CVS against the joint CRF +5.0 points (ahead in 3 of 3 seeds: gains). " in said
    assert "weight 3 in all CRFs, PPMG against the joint CRF: without CVS +2.0 points" in said
    assert said.endswith("with CVS +10.0 points (ahead in 3 of 3 seeds: gains).")
