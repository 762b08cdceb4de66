"""The report, on a hand-made run folder."""

import html.parser
import json
import os
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from pmm.errors import InputError
from pmm.run.folder import RunFolder
from pmm.run.pages import WIDGET
from pmm.run.report import describe, shown, table, write_report

SECTION = {
    "title": "Masks & models <b>",
    "data": "sample scenes, train, 320 images, seed 0, CRF yes",
    "columns": ["method", "mIoU", "images"],
    "rows": [["PPMG", 0.61234, 320], ["exact", None, 1]],
    "note": "A note.",
    "per_class": {"columns": ["class", "PPMG", "exact"], "rows": [["bird", 0.5, 1.0], ["boat", 0.25, None]]},
}


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "tiny")
    run.path.mkdir()
    (run.path / "params.yaml").write_text("run_name: tiny\ns: 0.4\nseg_crf: true\n")
    run.record_metrics("04_masks", SECTION)
    (run.path / "manifest.json").write_text(
        json.dumps(
            {
                "environment": {"python": "3.11.7", "packages": {"torch": "2.4"}, "gpu": None},
                "stages": {"classifier": {"seconds": 12.34}},
                "notebooks": {"04_masks": {"seconds": 3.2, "peak_memory_mib": 777}},
            }
        )
    )
    (run.path / "figures").mkdir()
    for name in ("04_gallery.png", "05_without_caption.png"):
        Image.new("RGB", (30, 20)).save(run.path / "figures" / name)
    caption = {"caption": "Four masks.", "alt": 'Masks of "birds".', "notebook": "04"}
    (run.path / "figures" / "captions.json").write_text(json.dumps({"04_gallery": caption}))
    return run


def executed(run, name, *cells):
    (run.path / "notebooks").mkdir(exist_ok=True)
    document = new_notebook(cells=list(cells))
    nbformat.write(document, run.path / "notebooks" / f"{name}.ipynb")


class Collect(html.parser.HTMLParser):
    """Collects start tags and checks that every element that needs it is closed, in order."""

    VOID = frozenset(("meta", "img", "link", "br"))

    def __init__(self, page):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing_from_elsewhere(run):
    page = write_report(run).read_text(encoding="utf-8")
    tags = Collect(page).tags
    assert page.startswith("<!DOCTYPE html>")
    assert not [t for t, _ in tags if t in ("script", "link", "iframe")]
    sources = [a["src"] for _, a in tags if "src" in a]
    assert len(sources) == 2 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert "url(" not in page and "@import" not in page
    anchors = {a["href"][1:] for t, a in tags if t == "a" and a["href"].startswith("#")}
    assert anchors == {a["id"] for _, a in tags if "id" in a}


def test_numbers_captions_settings_and_times_are_there_and_escaped(run):
    page = write_report(run).read_text(encoding="utf-8")
    for expected in (
        "Masks &amp; models &lt;b&gt;",
        "sample scenes, train, 320 images, seed 0, CRF yes",
        "<td>61.2 %</td><td>320</td>",
        "<td>–</td><td>1</td>",
        '<th scope="row">boat</th><td>25.0 %</td><td>–</td>',
        'alt="Masks of &#34;birds&#34;."',
        "<figcaption>Four masks.</figcaption>",
        'alt="05 without caption" width="30" height="20"',
        '<th scope="row">packages torch</th><td>2.4</td>',
        '<th scope="row">classifier</th><td>12.3</td>',
    ):
        assert expected in page, expected
    assert re.search(r"<code>s</code></th><td class=\"changed\"><code>0\.4</code> \*</td>", page)


def test_tables_apply_one_rule():
    assert shown(0.5) == "50.0 %" and shown(1) == "1" and shown(None) == shown(float("nan")) == "–"
    assert shown(True) == "yes" and shown("s = 0.3") == "s = 0.3"
    rows = [["bird", "50.0 %", "100.0 %"], ["boat", "25.0 %", "–"]]
    assert table(SECTION)["classes"] == {"columns": ["class", "PPMG", "exact"], "rows": rows, "note": ""}
    plain = table({"val_map": 0.5, "deep": {"images": 3}})
    assert plain["rows"] == [["val_map", "50.0 %"], ["deep images", "3"]]


def test_a_setting_is_shown_as_it_is():
    listed = table({"s": 0.3, "best": {"alpha": 0.5, "miou": 0.25}, "loss": 0.125, "share of the bound": 0.5})
    expected = [["s", "0.3"], ["best alpha", "0.5"], ["best miou", "25.0 %"], ["loss", "0.125"]]
    assert listed["rows"] == [*expected, ["share of the bound", "50.0 %"]]
    assert table({"columns": ["s", "mIoU"], "rows": [[0.3, 0.5]]})["rows"] == [["0.3", "50.0 %"]]
    assert shown(0.3, share=False) == "0.3"


def test_the_report_opens_with_the_picture_of_all_stages_and_the_table_that_sums_up(run):
    Image.new("RGB", (30, 20)).save(run.path / "figures" / "06_story.png")
    for name in ("01_data", "06_this_run", "03_smoothing"):
        run.record_metrics(name, {**SECTION, "title": f"table of {name}"})
    page = write_report(run).read_text(encoding="utf-8")
    order = ('alt="06 story"', "<h3>table of 06_this_run", ">How it was made<", "<h3>Masks &amp; models")
    order += ("<h3>table of 03_smoothing", "<h3>table of 01_data", "<figcaption>Four masks.", ">Settings<")
    places = [page.index(words, page.index("<main>")) for words in order]
    assert places == sorted(places)
    assert page.count('alt="06 story"') == page.count("<h3>table of 06_this_run") == 1


def test_a_long_table_is_folded(run):
    run.record_metrics("07_grid", {"title": "Long", "columns": ["s"], "rows": [["0.1"]] * 25})
    assert "All 25 rows" in write_report(run).read_text(encoding="utf-8")


def test_the_head_says_what_the_numbers_hang_on():
    facts = describe({"dataset": "scenes", "seg_crf": True, "n_train": 12, "variant": "paper"})
    assert "cannot be compared" in facts["Data set"] and "12 scenes" in facts["Training split"]
    assert facts["CRF on the predictions"] == "yes" and "equations" in facts["Variant of the method"]
    voc = describe({"dataset": "voc", "data_dir": "/data/VOC2012", "val_split": ""})
    assert voc["Data set"].endswith("/data/VOC2012") and voc["Validation split"] == "none"
    assert "scenes" not in voc["Training split"]
    assert voc["Pseudo-masks are judged on"].startswith("all") and "Classes of interest" not in voc
    animals = {"data_name": "animals", "classes": ["cat", "cow"], "require_any": ["cow"], "judge_split": "train"}
    facts = describe({"dataset": "voc", "data_dir": "/data/VOC2012", **animals})
    assert facts["Data set"] == "animals: a data set in VOC's layout /data/VOC2012"
    expected = "cat, cow; an image shows no other class; an image shows one of cow"
    assert facts["Classes of interest"] == expected
    assert facts["Pseudo-masks are judged on"].startswith("train, ")
    assert "chosen from 240 scenes" in describe({"classes": ["bird"]})["Training split"]


def test_figures_stand_in_the_order_in_which_they_were_drawn(run):
    for seconds, name in enumerate(("04_z.png", "04_gallery.png")):
        Image.new("RGB", (30, 20)).save(run.path / "figures" / name)
        os.utime(run.path / "figures" / name, (seconds, seconds))
    page = write_report(run).read_text(encoding="utf-8").partition('id="figures"')[2]
    assert re.findall(r"<h3>(.*?)</h3>|<figcaption>(.*?)<", page)[:5] == [
        ("Notebook 04", ""),
        ("", "04 z"),
        ("", "Four masks."),
        ("Notebook 05", ""),
        ("", "05 without caption"),
    ]


def test_executed_notebooks_become_pages_with_links_between_them(run):
    text = "# 04 · Masks\n\nNext: [05](05_under.ipynb)"
    executed(run, "04_masks", new_markdown_cell(text), new_code_cell("1 + 1"))
    page = write_report(run).read_text(encoding="utf-8")
    assert '<a href="notebooks/04_masks.html">04 · Masks</a></th><td>3.2</td><td>777</td>' in page
    assert "<h3>04 · Masks</h3>" in page
    exported = (run.path / "notebooks" / "04_masks.html").read_text(encoding="utf-8")
    assert 'href="05_under.html"' in exported and "1 + 1" in re.sub("<[^>]+>", "", exported)


def test_progress_bars_vanish_and_other_widgets_leave_a_line(run):
    texts = ("mask grid:   0%|          | 0/8 [00:00<?, ?cell/s]", "repr of VBox(children=(...))")
    code = new_code_cell("x", outputs=[new_output("display_data", data={WIDGET: {}, "text/plain": t}) for t in texts])
    executed(run, "08_explorer", code)
    write_report(run)
    exported = (run.path / "notebooks" / "08_explorer.html").read_text(encoding="utf-8")
    assert "mask grid" not in exported and "repr of" not in exported
    assert exported.count("(an interactive widget") == 1


def test_an_empty_run_still_gives_a_page(tmp_path):
    (tmp_path / "params.yaml").write_text("run_name: x\n")
    page = write_report(RunFolder(tmp_path)).read_text(encoding="utf-8")
    assert "No table yet" in page and "No figure yet" in page and "No notebook has run yet" in page
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", page) == ["Result", "How it was made", "Settings"]
    assert "<h3>" not in page


def test_damaged_input_is_one_line(run, tmp_path):
    with pytest.raises(InputError, match=r"no params\.yaml in it, so this is no run"):
        write_report(RunFolder(tmp_path / "nothing"))
    (run.path / "params.yaml").write_text("- a\n- b\n")
    with pytest.raises(InputError, match="no list of parameters"):
        write_report(run)
    (run.path / "params.yaml").write_text("run_name: tiny\n")
    run.record_metrics("03_variation", {"title": "Old", "rows": [[1]], "per_class": {"PPMG": {"bird": 0.5}}})
    with pytest.raises(InputError, match=r"metrics\.json: section 03_variation is damaged .* --only 03$"):
        write_report(run)
    (run.path / "metrics.json").write_text("[1")
    with pytest.raises(InputError, match=r"metrics\.json: found no JSON object"):
        write_report(run)
    (run.path / "metrics.json").unlink()
    (run.path / "notebooks").mkdir()
    (run.path / "notebooks" / "01_a.ipynb").write_text("{")
    with pytest.raises(InputError, match=r"01_a\.ipynb: no readable notebook"):
        write_report(run)


def test_a_section_without_rows_has_no_heading(run):
    run.record_metrics("05_nothing", {"title": "Nothing measured", "data": "own images", "columns": ["a"], "rows": []})
    assert "Nothing measured" not in write_report(run).read_text(encoding="utf-8")


def test_classes_that_do_not_occur_are_counted_below_the_table(run):
    classes = {"columns": ["class", "PPMG"], "rows": [["bird", 0.5]], "note": "14 classes do not occur."}
    run.record_metrics("04_masks", {**SECTION, "per_class": classes})
    assert "14 classes do not occur." in write_report(run).read_text(encoding="utf-8")
