"""The explorer's widgets: the newest request wins, faults are shown, values come back as parameters."""

import base64
import io
import json
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from explorer_run import NAMES, TinyRun, image_of
from PIL import Image

from pmm.cli import main
from pmm.errors import InputError
from pmm.explore import explore, explore_masks, explore_smoothing, explore_underfitting
from pmm.explore.app import LatestWins, snippet
from pmm.explore.picker import Photograph, imagenet_names, read_upload
from pmm.explore.underfitting import STRATEGIES
from pmm.run.folder import project_root
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


def moved(explorer, **values):
    """Set controls of the panel in front, and wait for what comes of it."""
    for name, value in values.items():
        explorer.panel.controls[name].value = value
    assert explorer.worker.wait() and not explorer.failures
    return explorer.panel


def test_controls_that_change_nothing_are_grey_and_say_why(run):
    panel = explore_masks(run).panel
    grey = lambda: {name for name, control in panel.controls.items() if control.disabled}  # noqa: E731
    assert grey() == {"cam_threshold"} and panel.controls["cam_threshold"].description == "threshold: not in PPMG"
    panel.controls["method"].value = "crf"
    assert grey() == {"s", "t", "variant", "cam_threshold", "step"}
    assert panel.controls["s"].description == "s: not in joint CRF"
    panel.controls["method"].value = "threshold"
    assert {"s", "alpha", "iterations"} <= grey() and "cam_threshold" not in grey()
    assert panel.controls["cam_threshold"].description == "threshold"


def test_presets_set_all_sliders_and_the_menu_tells_where_they_stand(run):
    explorer = explore(run)
    for panel in explorer.panels:
        for name, values in panel.presets.items():
            panel.preset.value = name
            assert {key: panel.values()[key] for key in values} == values and panel.preset.value == name
        panel.preset.value = "this run"
        assert {key: panel.values()[key] for key in panel.initial} == panel.initial
    smoothing = explorer.panels[1]
    assert smoothing.controls["s"].max == 3.0  # "far too strong" went beyond the range that is of use
    smoothing.controls["s"].value = 0.11
    assert smoothing.preset.value == "own values" and smoothing.controls["s"].value == 0.11


def test_the_range_of_s_ends_where_it_is_of_use_or_at_the_run_s_own(tmp_path):
    run = TinyRun(tmp_path)
    assert explore_masks(run).panel.controls["s"].max == 0.75
    run.params = Params(**{**run.params.model_dump(), "s": 1.2, "alpha": 0.77})
    controls = explore_masks(run).panel.controls
    assert controls["s"].max == 1.2 and controls["alpha"].value == 0.77


def test_next_and_back_go_through_algorithm_1(run):
    explorer = explore_masks(run)
    *_, step, back, on = explorer.panel.tools.children
    mask = explorer.panel.view.mask
    for number in (1, 2, 3, 4, 5, 6, 6):
        on.click()
        assert step.value == number and explorer.worker.wait()
        assert f"step {number} of 6" in explorer.panel.main.words.value
    back.click()
    assert step.value == 5 and explorer.worker.wait() and explorer.panel.view.mask is mask


def test_a_is_pinned_against_b(run):
    explorer = explore(run)
    panel = explorer.panel
    assert explorer.worker.wait() and panel.look.disabled
    panel.pin.value = True
    moved(explorer, alpha=8.0)
    b = panel.main.picture.value
    assert "points against A (PPMG, s 0.30, alpha 0.5" in panel.main.words.value
    assert "A: mean IoU" in panel.main.words.value
    panel.look.value = True
    assert explorer.worker.wait() and panel.main.picture.value != b and "B: mean IoU" in panel.main.words.value
    assert yaml.safe_load(panel.yaml.value)["alpha"] == 0.5 and panel.controls["alpha"].value == 8.0
    panel.look.value = False
    assert explorer.worker.wait() and panel.main.picture.value == b
    panel.pin.value = False
    assert explorer.worker.wait() and panel.look.disabled and " A " not in panel.main.words.value


def test_a_prediction_comes_before_the_result_and_counts(run):
    explorer = explore(run)
    panel = explorer.panel
    assert explorer.worker.wait()
    explorer.predict.value = True
    before = panel.main.picture.value, panel.main.words.value, panel.yaml.value
    moved(explorer, alpha=8.0)
    assert (panel.main.picture.value, panel.main.words.value, panel.yaml.value) == before
    assert "pmm-veiled" in panel.main.picture._dom_classes and "How much foreground?" in panel.message.value
    assert [button.description for button in panel.choices] == ["less", "the same", "more", ""]
    moved(explorer, alpha=0.5)  # back where the picture is: nothing to foretell
    assert panel.pending is None and panel.message.value == "" and "pmm-veiled" not in panel.main.picture._dom_classes
    moved(explorer, alpha=8.0)
    panel.choices[2].click()
    assert panel.main.picture.value != before[0] and yaml.safe_load(panel.yaml.value)["alpha"] == 8.0
    assert "Right. Foreground" in panel.message.value and "larger alpha lowers the background" in panel.message.value
    panel.choices[2].click()  # no question stands: no second point
    moved(explorer, alpha=0.5)
    panel.answer("more")
    assert "Not so: less. " in panel.message.value and "1 of 2 right so far" in panel.message.value
    moved(explorer, class_id=2)  # another class of the same mask asks nothing
    assert panel.pending is None
    explorer.tabs.index = 1
    assert explorer.worker.wait() and explorer.panel.pending is None
    moved(explorer, s=0.7).answer("more")
    assert "2 of 3 right so far" in explorer.panel.message.value  # one score for all tabs
    explorer.tabs.index = 2
    assert explorer.worker.wait()
    moved(explorer, beta=0.0).answer("open")
    assert "Not so: closed. Mean loss" in explorer.panel.message.value
    moved(explorer, kappa=0.1).answer("the same")
    assert "The gate is closed" in explorer.panel.message.value and "3 of 5" in explorer.panel.message.value
    moved(explorer, beta=2.0).answer("open")
    moved(explorer, kind="pow", kappa=0.8).answer("more")
    moved(explorer, kappa=0.4).answer("more")
    assert "A smaller power damps losses above 1" in explorer.panel.message.value
    moved(explorer, kappa=1.0).answer("more")
    moved(explorer, kappa=2.0).answer("the same")  # the power stays at 1
    assert "has no effect here" in explorer.panel.message.value
    answered = len(explorer.panel.answers)
    moved(explorer, beta=1.9)
    explorer.predict.value = False  # gives up: the result comes without a point
    assert explorer.worker.wait() and explorer.panel.pending is None and len(explorer.panel.answers) == answered


def test_another_s_asks_who_wins_a_pixel_with_a_cross(run):
    explorer = explore(run)
    panel = explorer.panel
    assert explorer.worker.wait()
    scene = explorer.picker.scene(explorer.picker.source)
    assert len(scene.class_ids) == 2
    moved(explorer, s=0.0, alpha=0.5)
    explorer.predict.value = True
    before, mask = panel.main.picture.value, panel.drawn.view.mask
    moved(explorer, s=0.6)
    assert "Who wins the pixel with the cross?" in panel.message.value and panel.main.picture.value != before
    names = ["background", *scene.names]
    assert [button.description for button in panel.choices if button.layout.display != "none"] == names
    question = panel.pending[2]
    panel.answer(question.right)
    after = panel.drawn.view.mask
    assert question.right in {scene.labels[value] for value in after[mask != after]}
    assert re.search(r"Right. It was .+ and is .+\. .+ 1 of 1 right so far", panel.message.value)


def downloads(panel):
    """Name -> content of the links below the picture."""
    found = re.findall(r'download="([^"]+)" href="data:[^,]+,([^"]+)"', panel.links.value)
    return {name: base64.b64decode(content) for name, content in found}


@pytest.mark.parametrize("method", ["ppmg", "crf", "threshold"])
def test_the_files_hold_what_is_shown_and_the_command_line_makes_the_same_mask(run, tmp_path, method):
    explorer = explore_masks(run)
    assert explorer.worker.wait()
    moved(explorer, method=method, alpha=2.0, s=0.2, cam_threshold=0.3)
    files = downloads(explorer.panel)
    assert list(files) == ["scene0_masks.png", "scene0_masks.yaml", "scene0_masks.mask.png"]
    assert np.array_equal(Image.open(io.BytesIO(files["scene0_masks.png"])), explorer.panel.view.picture)
    mask = np.array(Image.open(io.BytesIO(files["scene0_masks.mask.png"])))
    assert np.array_equal(mask, explorer.panel.view.mask)
    (tmp_path / "own.yaml").write_bytes(files["scene0_masks.yaml"])
    read = load_params(tmp_path / "own.yaml")
    assert (read.seg_masks, read.alpha == 2.0, read.alpha_crf == 2.0, read.cam_threshold == 0.3) == (
        method, method == "ppmg", method == "crf", method == "threshold",
    )  # fmt: skip
    first, second, *_ = files["scene0_masks.yaml"].decode().splitlines()
    assert first == "# Pseudo-mask of scene0: 0 background, 1 one, 2 two words"
    (tmp_path / "images").mkdir()
    Image.fromarray(image_of(0)).save(tmp_path / "images" / "scene0.png")
    (tmp_path / "cams").mkdir()
    shutil.copy(run.run.path / "cams" / "scene0.npz", tmp_path / "cams")
    places = {word.upper(): str(tmp_path / word) for word in ("cams", "images", "masks")}
    words = [places.get(word, word) for word in second.removeprefix("# pmm ").split()]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert np.array_equal(np.array(Image.open(tmp_path / "masks" / "scene0.png")), mask)


def test_a_photograph_of_one_s_own_has_its_classes_a_search_and_files_but_no_chart(run):
    explorer = explore(run)
    panel, picker = explorer.panel, explorer.picker
    assert explorer.worker.wait() and panel.slow.picture.layout.display == ""
    picker.look_at_upload(encoded(Image.fromarray(image_of(0))), "own.png")
    assert explorer.worker.wait(120) and not explorer.failures and explorer.busy.value == ""
    assert panel.slow.picture.layout.display == "none" and picker.upload.layout.display == "none"
    assert len(picker.found.options) == 5 and len(picker.found.value) == 1
    picker.search.value = imagenet_names()[207]
    assert explorer.worker.wait() and picker.search.value == ""
    assert picker.found.value[-1] == 207 and picker.found.options[0][0].startswith("golden retriever, ")
    scene = panel.drawn.scene
    assert scene.names[-1] == "golden retriever" and scene.class_ids == (4, 5)
    assert set(downloads(panel)) == {"own_masks.png", "own_masks.yaml", "own_masks.mask.png"}
    assert "5 golden retriever" in downloads(panel)["own_masks.yaml"].decode()
    explorer.tabs.index = 2
    assert explorer.worker.wait() and "no label to doubt; choose a scene" in explorer.panel.message.value
    picker.back.click()
    assert explorer.worker.wait() and explorer.panel.view is not None and picker.back.layout.display == "none"


def test_the_busy_sign_stands_while_the_picture_is_being_made(run, monkeypatch):
    explorer = explore_smoothing(run)
    seen, draw = [], explorer.panel.draw
    monkeypatch.setattr(explorer.panel, "draw", lambda *a: seen.append(explorer.busy.value) or draw(*a))
    moved(explorer, s=0.5)
    assert "Working" in seen[0] and explorer.busy.value == ""


def test_make_explore_opens_any_run():
    command = ["make", "--dry-run", "explore", "RUN=mine"]
    out = subprocess.run(command, cwd=project_root(), capture_output=True, text=True, check=True).stdout
    assert "voila runs/mine/notebooks/08_explorer.ipynb" in out and "runs/demo" not in out
