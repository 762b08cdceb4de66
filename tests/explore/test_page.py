"""Data of the live pages: packed and unpacked, small enough, and what is left out."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from explorer_run import TinyRun
from live_numbers import scene_of, unpack_bytes, unpack_maps, unpack_masks

from pmm.cli import main
from pmm.errors import InputError
from pmm.explore import page
from pmm.method.crf import CRFSettings
from pmm.method.pseudo_mask import ppmg, ppmg_steps
from pmm.run.folder import project_root
from pmm.run.pages import explorer_data, read_explorer, write_explorer

DOCS = project_root() / "docs" / "explorer.html"


def test_maps_and_masks_come_back():
    rng = np.random.default_rng(0)
    maps = rng.random((3, 5, 7), dtype=np.float32).astype(np.float16).astype(np.float32)
    maps[0, 0] = [0, 1, 6e-8, 1e-5, 0.333, 1, 0]
    assert np.array_equal(unpack_maps(page.pack_maps(maps), maps.shape), maps.astype(np.float16))
    masks = rng.random((4, 3, 2, 5, 7)) > 0.5
    assert np.array_equal(unpack_masks(page.pack_masks(masks), masks.shape), masks)
    assert np.array_equal(unpack_bytes(page.pack_bytes(np.arange(9, dtype=np.uint8))), np.arange(9))


def test_the_grid_is_algorithm_1_at_every_point_and_holds_the_runs_own_setting(tmp_path):
    run = TinyRun(tmp_path)
    run.params = run.params.model_copy(update={"s": 0.33, "alpha": 3.0})
    found = page.page_scene(run, "scene0")
    strengths, alphas = page.grid(run.params)
    assert 0.33 in strengths and 3.0 in alphas and len(strengths) >= 13 and len(alphas) >= 13
    for s, alpha in [(0.0, 0.125), (0.33, 3.0), (0.6, 24.0), (0.15, 0.5)]:
        how = {"s": s, "alpha": alpha, "t": 0.05, "crf": CRFSettings(iterations=2)}
        steps = ppmg_steps(found.scene.image, found.scene.cam, [1, 2], **how)
        assert np.array_equal(found.foreground[strengths.index(s), alphas.index(alpha)], steps.foreground)


def test_a_large_photograph_is_made_smaller_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LONGEST_SIDE", 32)
    found = page.page_scene(TinyRun(tmp_path), "scene0")
    assert found.scene.image.shape == (24, 32, 3) and found.scene.cam.shape == (2, 24, 32)
    assert found.learned.shape == found.loss["late"].shape == found.scene.truth.shape == (24, 32)
    assert "from 64 x 48 to 32 x 24" in found.scene.note
    assert {*np.unique(found.learned)} <= {0, 1, 2}  # labels are not mixed


def test_the_stage_is_reused_and_out_of_date_with_other_cams(tmp_path, capsys):
    run = TinyRun(tmp_path)
    assert explorer_data(run.run) is None
    stage = page.make_page(run, ["scene0", "scene1"])
    again = page.make_page(run, ["scene0", "scene1"])
    assert again.reused and again.fingerprint == stage.fingerprint
    assert [scene["id"] for scene in explorer_data(run.run)["scenes"]] == ["scene0", "scene1"]
    with run.run.stage("cams", {"other": 1}, []):
        pass
    assert explorer_data(run.run) is None


def test_what_a_run_lacks_is_left_out_with_a_reason(tmp_path):
    bare = TinyRun(tmp_path / "bare", segmenter=False)
    bare.data.has_mask = lambda i: False
    page.make_page(bare, ["scene0"])
    data = explorer_data(bare.run)
    assert data["scenes"][0]["truth"] is None and data["scenes"][0]["loss"] == {}
    assert "no trained model" in data["missing"]["underfitting"] and "no ground truth" in data["missing"]["truth"]
    late = TinyRun(tmp_path / "late", early=False)
    page.make_page(late, ["scene0"])
    assert list(explorer_data(late.run)["scenes"][0]["loss"]) == ["late"]
    assert "early" in explorer_data(late.run)["missing"]


def test_errors_are_one_line_that_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="make them first"):
        page.make_page(TinyRun(tmp_path, cams=False))
    with pytest.raises(InputError, match=r"other: no training image of .* such as scene0"):
        page.make_page(TinyRun(tmp_path / "b"), ["other"])
    other = tmp_path / "other.html"
    other.write_text("<p>no page</p>")
    with pytest.raises(InputError, match=r"other\.html: no page of sliders"):
        read_explorer(other)


def test_scenes_have_one_two_and_three_classes():
    labels = {"a": (1,), "b": (1, 2), "c": (1, 2), "d": (1, 2, 3), "e": (4,)}
    names = ("background", "one", "two", "three", "four")
    data = SimpleNamespace(labels=labels.get, has_mask=lambda i: i != "b", class_names=names)
    chosen = page.page_ids(SimpleNamespace(data=data, train_ids=list(labels)))
    assert chosen == ["c", "d", "a", "b"]
    few = SimpleNamespace(data=data, train_ids=["a", "e"])
    assert sorted(page.page_ids(few)) == ["a", "e"]
    labels |= {"c": (1, 2), "b": (1, 4)}  # blue and red; blue and yellow
    data.has_mask = lambda i: True
    assert page.page_ids(SimpleNamespace(data=data, train_ids=["c", "b"]), count=1) == ["b"]


def test_the_page_is_one_file_and_can_be_written_anew_from_itself(tmp_path):
    run = TinyRun(tmp_path)
    page.make_page(run, ["scene0", "scene1"])
    path = write_explorer(explorer_data(run.run), tmp_path / "explorer.html")
    html = path.read_text(encoding="utf-8")
    assert html.count("<script") == 2 and 'src="http' not in html and "@import" not in html
    assert "need JavaScript" in html and html.count("<img") == 3  # without JavaScript: one picture a view
    assert main(["explorer", str(path), "--out", str(tmp_path / "again.html")], standalone_mode=False) is None
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == html
    with pytest.raises(SystemExit, match="2"):
        main(["explorer", str(path), "--scene", "scene0"])


def test_docs_explorer_is_made_by_the_code_as_it_is(tmp_path):
    again = write_explorer(read_explorer(DOCS), tmp_path / "explorer.html")
    same = again.read_bytes() == DOCS.read_bytes()
    assert same, "docs/explorer.html is out of date: pmm explorer docs/explorer.html writes it anew with its data"
    assert DOCS.stat().st_size <= 5_000_000
    scenes = read_explorer(DOCS)["scenes"]
    assert len(scenes) >= 4 and max(len(scene["classes"]) for scene in scenes) >= 3


def test_masks_of_docs_explorer_are_those_of_the_method():
    data = read_explorer(DOCS)
    crf = CRFSettings(**{name.removeprefix("crf_"): v for name, v in data["crf"].items() if "joint" not in name})
    own = {name: data["params"][name] for name in ("t", "variant")}
    strengths, alphas = data["grid"]["s"], data["grid"]["alpha"]
    assert len(strengths) >= 13 and len(alphas) >= 13
    for k in range(10):
        scene, i, j = scene_of(data, k % len(data["scenes"])), (5 * k) % len(strengths), (7 * k + 2) % len(alphas)
        mask = ppmg(scene.image, scene.cam, scene.ids, s=strengths[i], alpha=alphas[j], crf=crf, **own)
        covered = scene.foreground[i, j].any(axis=0)
        assert np.mean((mask > 0) != covered) < 0.001  # another JPEG decoder may move a pixel or two


def test_the_page_is_refused_where_its_bytes_are_damaged(tmp_path):
    path = tmp_path / "cut.html"
    path.write_text('<script type="application/json">{"run":')
    with pytest.raises(InputError, match="no page of sliders"):
        read_explorer(path)


def test_json_cannot_end_the_script(tmp_path):
    run = TinyRun(tmp_path)
    run.data.class_names = ("background", "</script><b>", "two", "three")
    page.make_page(run, ["scene0"])
    path = write_explorer(explorer_data(run.run), tmp_path / "explorer.html")
    assert "</script><b>" not in path.read_text(encoding="utf-8")
    assert read_explorer(path)["classes"]["1"]["name"] == "</script><b>"
    assert json.dumps(read_explorer(path))
