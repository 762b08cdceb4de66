"""The explorer's widgets: the newest request wins, faults are shown, values come back as parameters."""

import io
import json
import threading

import numpy as np
import pytest
import yaml
from explorer_run import NAMES, TinyRun, image_of
from PIL import Image

from pmm.errors import InputError
from pmm.explore import explore, explore_masks, explore_smoothing, explore_underfitting
from pmm.explore.app import LatestWins, snippet
from pmm.explore.picker import Photograph, imagenet_names, read_upload
from pmm.explore.underfitting import STRATEGIES
from pmm.run.params import Params, load_params


@pytest.fixture
def run(tmp_path):
    return TinyRun(tmp_path)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def size_of(jpeg):
    return Image.open(io.BytesIO(jpeg)).size


def test_only_the_newest_request_is_served():
    done, failures, begun, go = [], [], threading.Event(), threading.Event()

    def work(request, is_stale):
        begun.set()
        assert go.wait(10)
        done.append((request, is_stale()))

    worker = LatestWins(work, failures.append)
    worker.ask(0)
    assert begun.wait(10)
    for request in range(1, 50):
        worker.ask(request)
    go.set()
    assert worker.wait(10)
    assert done == [(0, True), (49, False)] and not failures
    assert (worker.asked, worker.begun) == (50, 2)


def test_a_newer_request_ends_a_rest_at_once():
    rested, resting = [], threading.Event()

    def work(request, is_stale):
        resting.set()
        rested.append((request, worker.rests(30 if request == 0 else 0.01)))

    worker = LatestWins(work, pytest.fail)
    worker.ask(0)
    assert resting.wait(10)
    worker.ask(1)
    assert worker.wait(10)
    assert rested == [(0, False), (1, True)]


def test_a_failed_request_does_not_end_the_worker():
    done, failures = [], []

    def work(request, is_stale):
        done.append(1 / request)

    worker = LatestWins(work, failures.append)
    worker.ask(0)
    assert worker.wait(10)
    worker.ask(2)
    assert worker.wait(10)
    assert done == [0.5] and isinstance(failures[0], ZeroDivisionError)


def test_a_slider_changes_picture_numbers_and_parameters(run):
    explorer = explore_masks(run)
    assert explorer.worker.wait()
    panel = explorer.panel
    picture, words, chart = panel.main.picture.value, panel.main.words.value, panel.slow.picture.value
    panel.controls["alpha"].value = 8.0
    assert explorer.worker.wait() and not explorer.failures
    assert panel.main.picture.value != picture and panel.main.words.value != words and panel.slow.picture.value != chart
    assert "points against the previous setting" in panel.main.words.value
    assert size_of(panel.main.picture.value) == size_of(picture) == (1200, 444)
    assert 'role="img" aria-label="Pseudo-mask of scene0' in panel.main.words.value
    assert yaml.safe_load(panel.yaml.value)["alpha"] == 8.0
    panel.preset.value = "this run"
    assert explorer.worker.wait() and yaml.safe_load(panel.yaml.value)["alpha"] == run.params.alpha


def test_stale_settings_are_dropped_and_the_last_one_stands(run):
    explorer = explore_smoothing(run)
    for s in np.arange(0.05, 0.7, 0.02):
        explorer.panel.controls["s"].value = float(s)
    assert explorer.worker.wait()
    assert yaml.safe_load(explorer.panel.yaml.value)["s"] == 0.69
    assert explorer.worker.begun <= explorer.worker.asked


def test_another_scene_brings_its_own_classes(run):
    explorer = explore_smoothing(run)
    menu = explorer.panel.controls["class_id"]
    explorer.panel.controls["class_id"].value = 2
    assert explorer.worker.wait()
    explorer.picker.scenes.value = "scene1"
    assert explorer.worker.wait() and not explorer.failures
    assert menu.options == (("one", 1),) and menu.value == 1


def test_tabs_draw_what_is_in_front(run):
    explorer = explore(run)
    assert explorer.worker.wait()
    for number, panel in enumerate(explorer.panels):
        explorer.tabs.index = number
        assert explorer.worker.wait() and panel.view is not None
    assert not explorer.failures
    assert len(explorer.panel.main.picture.value) > 1000


def test_faults_are_shown_and_vanish_with_the_next_picture(run, monkeypatch):
    explorer = explore_underfitting(run)
    (run.run.path / "segmenter" / "pus" / "early.pt").unlink()
    explorer.panel.controls["checkpoint"].value = "early"
    assert explorer.worker.wait() and "kept no early weights" in explorer.panel.message.value
    assert explorer.problem.value == "" and explorer.panel.save() is None
    explorer.panel.controls["checkpoint"].value = "late"
    assert explorer.worker.wait() and explorer.panel.message.value == "" and explorer.panel.view is not None
    monkeypatch.setattr(explorer.panel, "draw", lambda *_: 1 / 0)
    explorer.panel.controls["kappa"].value = 3.0
    assert explorer.worker.wait() and "ZeroDivisionError" in explorer.problem.value


def test_the_first_picture_fails_loudly(run, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no CAMs here"):
        explore(TinyRun(tmp_path / "bare", cams=False))
    with pytest.raises(InputError, match="not trained"):
        explore_underfitting(TinyRun(tmp_path / "untrained", segmenter=False))
    monkeypatch.setattr("pmm.explore.smoothing.smoothing_view", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explore_smoothing(run)


def test_an_untrained_run_still_has_the_other_tabs(tmp_path):
    explorer = explore(TinyRun(tmp_path, segmenter=False))
    explorer.tabs.index = 2
    assert explorer.worker.wait() and "segmenter pus is not trained" in explorer.panel.message.value


def test_pages_without_a_kernel_get_a_picture(run):
    bundle = explore_smoothing(run)._repr_mimebundle_()
    assert bundle["text/html"].startswith("<figure") and 'alt="Activation map of' in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_save_writes_a_png_below_the_run(run):
    explorer = explore_smoothing(run)
    path = explorer.panel.save()
    assert path.parent == run.run.path / "figures" and path.read_bytes()[:4] == b"\x89PNG"
    assert str(path) in explorer.panel.saved.value
    entry = json.loads((path.parent / "captions.json").read_text())[path.stem]
    assert entry["notebook"] == "08" and "s 0." in entry["caption"] and entry["alt"] == explorer.panel.view.alt


def test_another_class_or_checkpoint_is_saved_beside_the_first(run):
    explorer = explore_smoothing(run)
    first = explorer.panel.save()
    explorer.panel.controls["class_id"].value = 2
    assert explorer.worker.wait()
    second = explorer.panel.save()
    assert first != second and first.is_file() and "_one_" in first.name and "_two_words_" in second.name
    explorer = explore_underfitting(run)
    late = explorer.panel.save()
    explorer.panel.controls["checkpoint"].value = "early"
    assert explorer.worker.wait()
    early = explorer.panel.save()
    assert late.is_file() and "_late_" in late.name and "_early_" in early.name


def test_a_saved_picture_is_captioned_by_the_setting_that_was_drawn(run, monkeypatch):
    explorer = explore_smoothing(run)
    monkeypatch.setattr(explorer.worker, "ask", lambda _: None)  # the new value is never drawn
    explorer.panel.controls["s"].value = 0.7
    path = explorer.panel.save()
    caption = json.loads((path.parent / "captions.json").read_text())[path.stem]["caption"]
    assert caption == f"Smoothing, scene0, one: s {run.params.s}, t {run.params.t}, variant {run.params.variant}."


def test_every_snippet_is_a_parameter_file(run, tmp_path):
    explorer = explore(run)
    assert explorer.worker.wait()
    settings = (
        [{"method": m} for m in ("ppmg", "crf", "threshold")],
        [{}],
        [{"kind": k, "kappa": 3.0} for k in STRATEGIES],
    )
    for panel, changes in zip(explorer.panels, settings, strict=True):
        for change in changes:
            text = snippet(panel.make_state(**{**panel.values(), **change}).parameters())
            (tmp_path / "own.yaml").write_text(text)
            assert load_params(tmp_path / "own.yaml") == Params(**yaml.safe_load(text))
    with pytest.raises(InputError, match="alpha"):
        snippet({"alpha": -1.0})


def test_a_junk_upload_is_one_line_and_a_scene_brings_back_the_picture(run):
    explorer = explore(run)
    assert explorer.worker.wait()
    explorer.picker.look_at_upload(b"no image at all", "notes.txt")
    assert explorer.worker.wait()
    told = explorer.panel.message.value
    assert "notes.txt: cannot be read as an image" in told and "/tmp" not in told
    explorer.picker.scenes.value = "scene2"
    assert explorer.worker.wait() and explorer.panel.message.value == "" and explorer.panel.view is not None


@pytest.mark.parametrize(("size", "expected"), [((1600, 900), (500, 281)), ((640, 1000), (320, 500))])
def test_a_huge_upload_is_made_smaller_and_says_so(size, expected):
    pixels, note = read_upload(encoded(Image.new("RGB", size, "red"), "JPEG"), "own.jpg")
    assert pixels.shape[1::-1] == expected and f"{size[0]} x {size[1]}" in note and "smaller" in note


def test_exif_rotation_and_transparency_are_applied():
    image = Image.new("RGB", (60, 40), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_upload(encoded(image, "JPEG", exif=exif), "turned.jpg")[0].shape == (60, 40, 3)
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert (read_upload(encoded(clear), "clear.png")[0] == 255).all()


@pytest.mark.parametrize("size", [(8, 8), (6000, 40)])
def test_uploads_that_are_too_small_are_refused(size):
    with pytest.raises(InputError, match=r"own\.png: .*pixels"):
        read_upload(encoded(Image.new("RGB", size)), "own.png")


def test_a_photograph_gets_a_cam_of_any_class_of_imagenet_and_colours_of_its_own():
    photograph = Photograph(encoded(Image.fromarray(image_of(0))), "own.png", len(NAMES))
    first, second = photograph.ranked[:2]
    both, alone = photograph.scene([first, second]), photograph.scene([second])
    assert both.cam.shape == (2, 48, 64) and both.truth is None and both.class_ids == (4, 5)
    assert np.isclose(both.cam.max(axis=(1, 2)), 1).all()
    assert alone.class_ids == (5,) and np.array_equal(alone.cam[0], both.cam[1])  # a class keeps its colour and its CAM
    assert photograph.scene([second]) is alone and photograph.shares[first] == max(photograph.shares)
    assert len(set(imagenet_names())) == 1000
