"""The stages of a run, on the smallest experiment that does everything."""

import json
import re
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from tiny import params

from pmm.data.cams import write_foreign_cams
from pmm.data.images import write_jpeg, write_mask
from pmm.errors import InputError
from pmm.files import without_nan
from pmm.method.cam import normalize_cam
from pmm.networks import training
from pmm.networks.models import embedded_imagenet_state
from pmm.run import compute
from pmm.run import experiment as stages
from pmm.run.checks import check_cams
from pmm.run.experiment import Experiment
from pmm.run.params import Params
from pmm.studies import trainings


def run_all(folder):
    """Make every kind of stage, and return the experiment with what the stages found out."""
    experiment = Experiment(params(folder))
    stages = [experiment.classifier(), *map(experiment.pseudo_masks, ("threshold", "crf", "ppmg_s0", "ppmg"))]
    stages.append(experiment.segmenter("pus"))
    stages.append(experiment.cyclic_masks(1, "pus"))
    stages.append(experiment.segmenter("round1", masks="cyclic1", pus="none"))
    return experiment, {stage.name: stage.facts for stage in stages}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_all(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def no_training(monkeypatch):
    for module in (training, compute):
        monkeypatch.setattr(module, "fit", lambda *a, **k: pytest.fail("trained again"))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_stage_leaves_its_files_and_facts(finished):
    experiment, facts = finished
    path = experiment.run.path
    ids = experiment.train_ids
    assert len(ids) == 4 and len(experiment.val_ids) == 2
    for name in ("classifier", "segmenter/pus", "segmenter/round1"):
        kept = sorted(p.name for p in (path / name).iterdir() if p.is_file())
        assert kept == [".files.json", ".stage.json", "early.pt", "log.csv", "weights.pt"]
    for name in ("threshold", "crf", "ppmg_s0", "ppmg", "cyclic1"):
        assert {p.stem for p in (path / "masks" / name).glob("*.png")} == set(ids)
        assert facts[f"masks/{name}"]["images"] == 4 and 0 <= facts[f"masks/{name}"]["miou"] <= 1
    assert facts["classifier"]["images"] == 4 and 0 <= facts["classifier"]["val_map"] <= 1
    assert facts["segmenter/pus"]["val"]["images"] == 2
    assert experiment.run.recorded("segmenter/round1").settings["pus"] == "none"
    assert set(experiment.run.manifest()["stages"]) >= {"dataset", "cams", *facts}


def test_results_are_read_in_the_agreed_form(finished):
    experiment, _ = finished
    first = experiment.train_ids[0]
    class_ids, cam = experiment.cam(first)
    assert tuple(class_ids) == experiment.data.labels(first)
    assert cam.shape == (len(class_ids), 64, 64) and 0 <= cam.min() <= cam.max() <= 1
    probabilities = experiment.probabilities("pus", first)
    assert probabilities.shape == (experiment.n_classes, 64, 64)
    np.testing.assert_array_equal(experiment.predict("pus", first), probabilities.argmax(0))
    loss = experiment.loss_map("pus", first, "ppmg")
    assert loss.shape == (64, 64) and not loss[experiment.pseudo_mask("ppmg", first) == 255].any()
    assert {"epoch", "loss", "lr", "gate_open", "over_kappa"} <= set(experiment.log("segmenter/pus"))
    np.testing.assert_array_equal(experiment.pseudo_mask("ground_truth", first), experiment.data.mask(first))


@pytest.fixture
def half_done(finished, tmp_path):
    """A copy of the run whose CAMs of the last two images are missing, to go on in batches."""
    run = finished[0].run.path
    shutil.copytree(run, tmp_path / run.name)
    record = tmp_path / run.name / "cams" / ".stage.json"
    record.write_text(record.read_text().replace('"finished": true', '"finished": false'))
    for image_id in finished[0].train_ids[2:]:
        (tmp_path / run.name / "cams" / f"{image_id}.npz").unlink()
    return Experiment(params(tmp_path, cam_batch_size=3))


def test_batches_of_cams_go_on_where_single_images_stopped(finished, half_done, no_training):
    ids = half_done.train_ids
    kept = [half_done.run.path / "cams" / f"{i}.npz" for i in ids[:2]]
    before = [path.stat().st_mtime_ns for path in kept]
    half_done.cams()
    assert [path.stat().st_mtime_ns for path in kept] == before
    for image_id in ids:
        (class_ids, cam), (expected_ids, expected) = half_done.cam(image_id), finished[0].cam(image_id)
        np.testing.assert_array_equal(class_ids, expected_ids)
        np.testing.assert_allclose(cam, expected, atol=1e-3)  # the files hold float16


@pytest.mark.parametrize("batch", [1, 3])
def test_an_unreadable_image_stops_the_cams_with_its_name(half_done, no_training, batch):
    experiment = Experiment(half_done.params.model_copy(update={"cam_batch_size": batch}))
    broken = experiment.data.image_path(experiment.train_ids[-1])
    broken.write_bytes(broken.read_bytes()[:600])  # the header is whole; before, it would be composed again
    with pytest.raises(InputError, match=f"^{re.escape(str(broken))}: cannot be read as an image"):
        experiment.cams()
    assert experiment.run.recorded("cams") is None


def test_the_best_epoch_on_val_teaches_only_where_it_is_asked_for(finished, tmp_path):
    assert finished[0].teacher_note == "" and not list(finished[0].run.path.glob("segmenter/*/epoch*.pt"))
    shutil.copytree(finished[0].run.path, tmp_path / "tiny")
    experiment = Experiment(params(tmp_path, cyclic_teacher="best_on_val", seg_epochs=3))
    trained = experiment.segmenter("pus")
    assert sorted(path.name for path in trained.folder.glob("epoch*.pt")) == ["epoch1.pt", "epoch2.pt", "epoch3.pt"]
    masks = experiment.cyclic_masks(1, "pus")
    chosen = experiment.run.recorded("segmenter/pus/teacher").facts
    assert len(chosen["miou"]) == 3 and chosen["epoch"] == int(np.argmax(chosen["miou"])) + 1
    best = experiment.load_segmenter("pus", f"epoch{chosen['epoch']}.pt")
    image_id = experiment.train_ids[0]
    np.testing.assert_array_equal(
        experiment.cyclic_mask("pus", image_id), experiment.cyclic_mask("pus", image_id, model=best)
    )
    assert "pixel labels chose it" in experiment.teacher_note
    assert (
        experiment.cyclic_masks(1, "pus").reused and masks.fingerprint == experiment.cyclic_masks(1, "pus").fingerprint
    )


def test_cyclic_masks_hold_only_the_images_classes_if_filtered(finished):
    experiment, _ = finished
    for image_id in experiment.train_ids:
        mask = experiment.pseudo_mask("cyclic1", image_id)
        assert set(np.unique(mask)) <= {0, *experiment.data.labels(image_id)}
        np.testing.assert_array_equal(mask, experiment.cyclic_mask("pus", image_id))
    free = [experiment.cyclic_mask("pus", i, filtered=False) for i in experiment.train_ids]
    predicted = [experiment.predict("pus", i) for i in experiment.train_ids]
    np.testing.assert_array_equal(free, predicted)


def test_a_model_is_used_as_it_was_trained_and_not_as_the_run_says(finished, tmp_path, monkeypatch):
    own = {"seg_scales": [0.5, 1.0], "seg_flip": True, "seg_crf": True}
    loss = {"pixel_loss": "bce", "seg_background_margin": 0.7}
    shutil.copytree(finished[0].run.path, tmp_path / "tiny")
    experiment, seen = Experiment(params(tmp_path)), []

    def watch(name):
        """Note the options of each call."""
        called = getattr(stages, name)
        monkeypatch.setattr(stages, name, lambda *a, **k: (seen.append({"call": name, **k}), called(*a, **k))[1])

    for name in ("class_probabilities", "pixel_loss_map", "DenseCRF"):
        watch(name)
    experiment.segmenter("other", **own, **loss)
    assert (seen[0]["scales"], seen[0]["flip"]) == ([0.5, 1.0], True)
    assert sorted(call["call"] for call in seen) == ["DenseCRF"] * 2 + ["class_probabilities"] * 2  # both val scenes
    seen.clear()
    first = experiment.train_ids[0]
    probabilities = experiment.probabilities("other", first)
    np.testing.assert_array_equal(experiment.predict("other", first), probabilities.argmax(0))
    experiment.loss_map("other", first, "ppmg")
    assert (seen[0]["scales"], seen[0]["flip"], seen[1]["call"]) == ([0.5, 1.0], True, "DenseCRF")
    assert (seen[-1]["pixel_loss"], seen[-1]["background_margin"]) == ("bce", 0.7)
    seen.clear()
    experiment.predict("pus", first)
    assert [call["call"] for call in seen] == ["class_probabilities"] and seen[0]["scales"] == [1.0]


def test_another_way_to_predict_trains_nothing_and_the_crf_stands_beside(finished, tmp_path, no_training):
    shutil.copytree(finished[0].run.path, tmp_path / "tiny")
    before = finished[1]["segmenter/pus"]["val"]
    with_crf = Experiment(params(tmp_path, seg_crf=True))
    found = with_crf.segmenter("pus")
    refined = found.facts["val"].pop("with_crf")
    assert found.reused and without_nan(found.facts["val"]) == without_nan(before)
    score = compute.evaluate_masks(with_crf.data, with_crf.val_ids, partial(with_crf.predict, "pus"), "again")
    assert without_nan(score) == without_nan(refined) != without_nan(before)
    assert "with_crf" not in Experiment(params(tmp_path)).segmenter("pus").facts["val"]


def test_other_weights_under_the_same_name_are_not_taken_for_the_old_ones(tmp_path):
    weights = tmp_path / "own.pt"
    torch.save(embedded_imagenet_state(), weights)
    own = params(tmp_path, weights=str(weights))
    assert not Experiment(own).classifier().reused and Experiment(own).classifier().reused
    state = embedded_imagenet_state()
    torch.save({**state, "conv_stem.weight": state["conv_stem.weight"] + 1}, weights)
    assert not Experiment(own).classifier().reused
    moved = tmp_path / "moved.pt"
    weights.rename(moved)
    assert Experiment(params(tmp_path, weights=str(moved))).classifier().reused


def test_the_engine_is_part_of_the_cams_and_auto_keeps_what_was_begun(finished, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    shutil.copytree(finished[0].run.path, tmp_path / "tiny")
    by = {name: Experiment(params(tmp_path, inference=name)) for name in ("auto", "onnxruntime", "torch")}
    first = by["auto"].cams()
    assert first.reused and "inference" not in first.settings  # PyTorch's, as those of runs before the parameter
    masks = by["auto"].cyclic_masks(1, "pus")
    assert masks.reused
    fast = by["onnxruntime"].cams()
    assert not fast.reused and fast.settings["inference"] == "onnxruntime" and fast.fingerprint != first.fingerprint
    assert by["auto"].cams().reused  # the fast ones now
    assert not by["onnxruntime"].cyclic_masks(1, "pus").reused
    back = by["torch"].cams()
    assert back.reused and back.fingerprint == first.fingerprint  # from `replaced`
    for i in by["torch"].train_ids:
        kept = next((tmp_path / "tiny" / "replaced").glob(f"cams_*/{i}.npz"))
        np.testing.assert_allclose(compute.load_cams(kept)[1], by["torch"].cam(i)[1], atol=1e-3)  # float16


def test_cams_that_torch_began_are_not_finished_by_another_engine(finished, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    shutil.copytree(finished[0].run.path, tmp_path / "tiny")
    record = tmp_path / "tiny" / "cams" / ".stage.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"finished": False}))
    one = Experiment(params(tmp_path, inference="auto"))
    (one.run.path / "cams" / f"{one.train_ids[0]}.npz").unlink()
    assert one.cams().settings == json.loads(record.read_text())["settings"]
    assert "inference" not in one.cams().settings


def test_a_run_of_other_data_is_left_alone(tmp_path):
    Experiment(params(tmp_path)).dataset_stage  # noqa: B018
    before = contents(tmp_path)
    with pytest.raises(
        InputError, match=r"^dataset = folder: .*tiny was made with dataset = scenes; give the same, or"
    ):
        Experiment(params(tmp_path, dataset="folder", data_dir=str(tmp_path)))
    assert contents(tmp_path) == before


def test_a_second_experiment_reuses_everything(finished, no_training, capsys):
    experiment, facts = finished
    before = contents(experiment.run.path)
    capsys.readouterr()
    assert run_all(experiment.run.path.parent)[1] == json.loads(json.dumps(without_nan(facts)))
    said = capsys.readouterr().out
    assert "computing" not in said and said.count("reused") == 12
    assert contents(experiment.run.path) == before


def test_a_changed_s_makes_only_the_ppmg_masks_anew(finished, no_training, capsys):
    path = finished[0].run.path
    before = contents(path)
    other = Experiment(params(path.parent, s=0.9))
    capsys.readouterr()
    for method in ("threshold", "crf", "ppmg_s0", "ppmg"):
        other.pseudo_masks(method)
    lines = capsys.readouterr().out.splitlines()
    computed = {line.split(":")[0] for line in lines if "computing" in line}
    assert Experiment(params(path.parent)).pseudo_masks("ppmg").reused  # brought back
    assert computed == {"masks/ppmg"}
    pictures = {n: data for n, data in contents(path).items() if n.endswith(".png") and not n.startswith("replaced/")}
    assert pictures == {name: data for name, data in before.items() if name.endswith(".png")}


def test_two_fresh_runs_of_one_seed_are_the_same(finished, tmp_path):
    first, facts = finished
    second, other = run_all(tmp_path)
    assert json.dumps(facts, sort_keys=True) == json.dumps(other, sort_keys=True)
    for pattern in ("masks/*/*.png", "*/log.csv", "segmenter/*/log.csv", "dataset/scenes/JPEGImages/*"):
        files = sorted(p.relative_to(first.run.path) for p in first.run.path.glob(pattern))
        assert files and files == sorted(p.relative_to(second.run.path) for p in second.run.path.glob(pattern))
        for file in files:
            assert (first.run.path / file).read_bytes() == (second.run.path / file).read_bytes(), file
    a, b = (torch.load(e.run.path / "segmenter/round1/weights.pt", weights_only=True) for e in (first, second))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_what_has_not_been_made_is_named(finished):
    experiment, _ = finished
    for call in (
        lambda: experiment.cyclic_masks(2, "nobody"),
        lambda: experiment.load_segmenter("nobody"),
        lambda: experiment.predict("nobody", experiment.train_ids[0]),
        lambda: experiment.segmenter("x", masks="cyclic9"),
        lambda: experiment.segmenter("x", kappa=-1.0),
        lambda: experiment.pseudo_masks("magic"),
        lambda: experiment.log("segmenter/nobody"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"^teacher = nobody: not trained in "):
        experiment.cyclic_masks(2, "nobody")


def own_folder(root, table):
    for name in ("a", "b", "c"):
        write_jpeg(root / "own" / "images" / f"{name}.jpg", np.full((64, 64, 3), 90, np.uint8))
    (root / "own" / "labels.csv").write_text(table, encoding="utf-8")
    return params(root / "runs", dataset="folder", data_dir=str(root / "own"), val_split="")


def test_images_without_a_label_are_skipped_and_counted_aloud(tmp_path, capsys):
    experiment = Experiment(own_folder(tmp_path, "image,labels\na,cat\nb,\nc,cat dog\n"))
    assert experiment.train_ids == ["a", "c"] and experiment.val_ids == []
    assert experiment.train_ids == ["a", "c"]
    assert capsys.readouterr().out == "train: 1 of 3 images have no label and are skipped\n"


def test_a_changed_photograph_label_or_ground_truth_is_not_taken_for_the_old_one(tmp_path):
    table, folder = "image,labels\na,cat\nb,dog\nc,cat dog\n", tmp_path / "own"
    own = own_folder(tmp_path, table)

    def marks():
        experiment = Experiment(own)
        return experiment._splits, experiment.truth_marks

    first = marks()
    assert marks() == first
    (folder / "labels.csv").write_text(table.replace("b,dog", "b,cat"), encoding="utf-8")
    relabelled = marks()
    assert relabelled[0] != first[0] and relabelled[1] == first[1]
    write_jpeg(folder / "images" / "a.jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    assert marks()[0] not in (first[0], relabelled[0])
    write_mask(folder / "masks" / "a.png", np.ones((64, 64), np.uint8))
    assert marks()[1] != first[1]  # masks and models are scored anew, the classifier stays
    assert Experiment(params(tmp_path)).truth_marks == []  # composed scenes are known by what composes them


def test_a_split_without_any_label_is_refused(tmp_path):
    own = own_folder(tmp_path, "image,labels\na,\nb,\n")
    (tmp_path / "own" / "classes.txt").write_text("cat\n")
    with pytest.raises(InputError, match=r"^train_split = train: none of its 2 images has a label$"):
        _ = Experiment(own).train_ids


def test_one_labelled_image_cannot_train_a_segmenter(tmp_path, no_training):
    experiment = Experiment(own_folder(tmp_path, "image,labels\na,cat\nb,\n"))
    with pytest.raises(InputError, match=r"^train_split = train: only 1 image has a label; label at least 2$"):
        experiment._train_segmenter(experiment.params, "ppmg", tmp_path, "x")


def test_relative_paths_count_from_the_projects_root(tmp_path, monkeypatch):
    for folder in ("notebooks", "params"):
        (tmp_path / folder).mkdir()
    state = embedded_imagenet_state()
    torch.save({**state, "conv_stem.weight": state["conv_stem.weight"] + 1}, tmp_path / "own.pt")
    own_folder(tmp_path, "image,labels\na,cat\n")
    monkeypatch.chdir(tmp_path / "notebooks")  # where a notebook runs
    own = params("runs", dataset="folder", data_dir="own", val_split="", weights="own.pt")
    experiment = Experiment(own)
    assert experiment.run.path == tmp_path / "runs" / "tiny" and experiment.train_ids == ["a"]
    expected = state["conv_stem.weight"] + 1
    assert torch.equal(experiment.new_classifier(pretrained=True).backbone.conv_stem.weight, expected)
    assert torch.equal(experiment.new_segmenter(own, pretrained=True).encoder.model.conv_stem.weight, expected)
    missing = params("runs", dataset="folder", data_dir="own", val_split="", weights="none.pt")
    with pytest.raises(InputError, match=r"none\.pt: no such weights file; check the name$"):
        Experiment(missing).new_classifier(pretrained=True)


def test_noisy_masks_are_ground_truth_with_a_known_share_changed(tmp_path):
    experiment = Experiment(params(tmp_path, ablation_noise=0.5))
    stage = experiment.noisy_masks()
    assert stage.facts["images"] == 4 and not experiment.noisy_masks().facts["miou"] > 0.95
    for image_id in experiment.train_ids:
        truth, noisy = experiment.data.mask(image_id), experiment.pseudo_mask("noisy", image_id)
        objects = (truth > 0) & (truth < 255)
        assert np.array_equal(noisy[~objects], truth[~objects]) and 0.2 < (noisy != truth)[objects].mean() < 0.8
    assert Experiment(params(tmp_path, ablation_noise=0.5)).noisy_masks().reused
    assert not Experiment(params(tmp_path, ablation_noise=0.2)).noisy_masks().reused


@pytest.mark.slow
def test_the_grids_that_train_run_and_resume(tmp_path, monkeypatch):
    from pmm.studies.trainings import loss_settings, run_augmentations, run_losses, run_rounds

    changes = {"ablation_seeds": [0], "ablation_alpha": [0.5, 1.0]}
    noisy = [s for s in loss_settings() if s.masks == "noisy"][:2]

    def run():
        experiment = Experiment(params(tmp_path, **changes))
        return [
            run_augmentations(experiment, tmp_path / "augment.json").cells,
            run_rounds(experiment, rounds=2, path=tmp_path / "rounds.json").cells,
            run_losses(experiment, noisy, tmp_path / "losses.json").cells,
        ]

    first = run()
    assert [len(part) for part in first] == [2 * 2 * 2, 2 * 3, 2]
    monkeypatch.setattr(compute, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert run() == first


def test_settings_are_taken_by_prefix():
    p = Params(cls_epochs=3, seg_epochs=9, seg_optimizer="sgd", seed=8, loader_workers=2)
    cls = stages.training_settings(p, "cls")
    assert (cls.epochs, cls.optimizer) == (3, "adamw")
    seg = stages.training_settings(p, "seg")
    assert (seg.epochs, seg.optimizer, seg.seed, seg.loader_workers, seg.lr) == (9, "sgd", 8, 2, p.seg_lr)


def own_voc(root, **changes):
    """Five images in the VOC layout; SBD's two, c and d, have no mask, f shows no animal."""
    folder, shown = root / "voc", {"a": "cat", "b": "dog", "c": "dog", "d": "cat", "e": "cat", "f": "car"}
    (folder / "Annotations").mkdir(parents=True)
    for number, (image_id, name) in enumerate(shown.items()):
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        write_jpeg(folder / "JPEGImages" / f"{image_id}.jpg", noise)
        (folder / "Annotations" / f"{image_id}.xml").write_text(f"<a><object><name>{name}</name></object></a>")
    for image_id, value in (("a", 8), ("b", 12), ("e", 8)):
        write_mask(folder / "SegmentationClass" / f"{image_id}.png", np.full((64, 64), value, np.uint8))
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, ids in {"train": "abf", "train_aug": "abcdf", "val": "e", "sbd": "cd", "most": "abc"}.items():
        (lists / f"{split}.txt").write_text("\n".join(ids))
    given = {"dataset": "voc", "data_dir": str(folder), "train_split": "train_aug", "judge_split": "train"}
    return params(root / "runs", **{**given, "classes": ["dog", "cat"], "data_name": "pets", **changes})


def test_masks_are_made_for_all_training_images_and_judged_on_the_judges(tmp_path, capsys):
    experiment = Experiment(own_voc(tmp_path))
    assert (experiment.train_ids, experiment.val_ids) == (["a", "b", "c", "d"], ["e"])
    assert experiment.judge_ids == ["a", "b"] and experiment.n_classes == 3
    assert experiment.describe("judge") == "pets, train, 2 images, seed 0, no CRF"
    assert experiment.describe("train") == "pets, train_aug, 4 images, seed 0, no CRF"
    left_out = "images show other classes, and are left out"
    assert capsys.readouterr().out.splitlines() == [f"train_aug: 1 of 5 {left_out}", f"train: 1 of 3 {left_out}"]
    stage = experiment.pseudo_masks("threshold")
    assert sorted(path.stem for path in stage.folder.glob("*.png")) == ["a", "b", "c", "d"]
    assert stage.facts["images"] == 2 and set(stage.facts["iou"]) == {"background", "cat", "dog"}
    assert "left out" not in capsys.readouterr().out


def test_a_study_may_make_the_cams_of_the_judges_alone(tmp_path):
    experiment = Experiment(own_voc(tmp_path), judges_alone=True)
    found = {i: experiment.cam(i)[1] for i in experiment.judge_ids}
    folder = experiment.run.path / "cams_judged"
    assert sorted(path.stem for path in folder.glob("*.npz")) == ["a", "b"] and experiment.run.recorded("cams") is None
    assert experiment.cams().reused
    whole = Experiment(experiment.params)
    assert all(np.array_equal(whole.cam(i)[1], cam) for i, cam in found.items())  # of a classifier that is reused
    assert len(list((experiment.run.path / "cams").glob("*.npz"))) == 4


def test_a_run_starts_from_the_cams_of_another_project_and_trains_no_classifier(tmp_path, no_training):
    given = own_voc(tmp_path)
    maps = {i: normalize_cam(np.random.default_rng(n).random((1, 64, 64))) for n, i in enumerate("abcd")}
    for image_id, key in (("a", 7), ("b", 11), ("c", 11), ("d", 7)):  # VOC's cat and dog, counted from 0
        write_foreign_cams(tmp_path / "irn" / f"{image_id}.npy", [key + 1], maps[image_id], "irn")
    run = Experiment(given.model_copy(update={"cam_dir": str(tmp_path / "irn")}))
    assert run.data.class_names == ("background", "cat", "dog")
    for image_id, own in zip("abcd", (1, 2, 2, 1), strict=True):
        ids, cam = run.cam(image_id)
        assert ids.tolist() == [own]
        np.testing.assert_allclose(cam, maps[image_id], atol=1e-3)  # kept as float16
    assert set(np.unique(run.pseudo_mask("ppmg", "b"))) <= {0, 2} and run.run.recorded("classifier") is None
    assert Experiment(run.params).cams().reused
    assert "4 files" in check_cams(run.params, run.data)
    with pytest.raises(InputError, match=r"cam_dir = .*irn: CAMs from elsewhere have one seed; .* = \[0\]$"):
        trainings._sibling(run, "strong", 1)
    write_foreign_cams(tmp_path / "irn" / "a.npy", [12], maps["a"], "irn")
    again = Experiment(run.params.model_copy(update={"run_name": "again"}))
    with pytest.raises(InputError, match=r"a\.npy: its keys 11 are not the image's classes 8"):
        again.cams()
    (tmp_path / "irn" / "d.npy").unlink()
    with pytest.raises(InputError, match=r"irn: no CAM for 1 of 4 images: d; add them$"):
        Experiment(run.params).cams()
    with pytest.raises(InputError, match="no such folder of CAMs"):
        Experiment(run.params.model_copy(update={"cam_dir": str(tmp_path / "gone")})).cams()


def test_judges_that_cannot_judge_are_told_in_one_line(tmp_path, capsys):
    experiment = Experiment(own_voc(tmp_path, judge_split="val"))
    with pytest.raises(InputError, match=r"^judge_split = val: none of its 1 images is in train_split = train_aug$"):
        _ = experiment.judge_ids
    experiment = Experiment(experiment.params.model_copy(update={"judge_split": "sbd"}))
    with pytest.raises(
        InputError, match=r"^judge_split = sbd: none of its 2 images has a mask; add .*c\.png and others$"
    ):
        _ = experiment.judge_ids
    capsys.readouterr()
    experiment = Experiment(experiment.params.model_copy(update={"judge_split": "most"}))
    assert experiment.judge_ids == ["a", "b"]
    assert capsys.readouterr().out.splitlines()[1:] == ["most: 1 of 3 images have no mask and judge nothing"]
    experiment = Experiment(experiment.params.model_copy(update={"judge_split": ""}))
    assert experiment.judge_ids == ["a", "b"] and experiment.describe("judge").startswith("pets, train_aug, 2 images")


def test_only_the_ground_truth_that_judges_or_teaches_is_in_the_fingerprints(tmp_path):
    own, masks = own_voc(tmp_path), tmp_path / "voc" / "SegmentationClass"

    def marks():
        experiment = Experiment(own)
        return experiment.truth_marks, experiment._train_truth_marks

    first = marks()
    write_mask(masks / "c.png", np.full((64, 64), 12, np.uint8))
    second = marks()
    assert second[0] == first[0] and second[1] != first[1]
    write_mask(masks / "a.png", np.random.default_rng(0).integers(0, 2, (64, 64)))
    assert marks()[0] != first[0]
    unjudged = Experiment(own.model_copy(update={"judge_split": ""}))
    assert unjudged.truth_marks == unjudged._train_truth_marks == marks()[1]


def test_scenes_choose_their_classes_too(finished, tmp_path):
    whole = finished[0]
    shown = {i: [whole.data.class_names[c] for c in whole.data.labels(i)] for i in whole.train_ids}
    first = whole.train_ids[0]
    required = shown[first][:1]
    experiment = Experiment(params(tmp_path, require_any=required, val_split=""))
    assert experiment.train_ids == [i for i, names in shown.items() if required[0] in names]
    assert experiment._splits != Experiment(params(tmp_path / "other", val_split=""))._splits
    judged = Experiment(params(tmp_path / "judged", judge_split="train"))
    assert judged.judge_ids == judged.train_ids and judged.truth_marks


def test_cams_may_have_a_finer_map_than_the_training(tmp_path):
    coarse = Experiment(params(tmp_path, cls_output_stride=32, cam_output_stride=8))
    image_id = coarse.train_ids[0]
    model = coarse.load_classifier()
    with torch.no_grad():
        assert model.maps(torch.zeros(1, 3, 64, 64)).shape[2:] == (8, 8)
    fine, made = coarse.cam(image_id)[1], coarse.cams().fingerprint
    same = Experiment(params(tmp_path, cls_output_stride=32))
    assert same.classifier().reused and same.cams().fingerprint != made  # trained once, for both maps
    assert not np.array_equal(same.cam(image_id)[1], fine)


def test_multi_crop_training_goes_on_from_the_first_classifier(tmp_path):
    plain = Experiment(params(tmp_path))
    before = plain.cam(plain.train_ids[0])[1]
    crops = Experiment(params(tmp_path, multicrop_epochs=1, multicrop_cam_scales=[1.0]))
    first = {name: value.clone() for name, value in plain.load_classifier().state_dict().items()}
    stage = crops.classifier()
    assert stage.name == "classifier_multicrop" and crops.first_classifier().reused
    assert crops.rough_masks().facts["images"] == len(crops.judge_ids)
    learned = crops.load_classifier().state_dict()
    assert {k for k in first if not torch.equal(first[k], learned[k])} >= {"head.weight"}
    assert torch.equal(first["backbone.conv_stem.weight"], learned["backbone.conv_stem.weight"])
    assert not np.array_equal(crops.cam(crops.train_ids[0])[1], before)
    again = Experiment(params(tmp_path, multicrop_epochs=1, multicrop_cam_scales=[1.0]))
    assert again.classifier().reused and again.cams().reused
    assert len(crops.log(stage.name)["loss"]) == 1
