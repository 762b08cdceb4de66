"""The published numbers: the ones with a source, no others."""

import pytest

from pmm.errors import InputError
from pmm.studies import records
from pmm.studies.records import published_section


def test_headline_numbers():
    voc, coco = published_section("segmentation model")["rows"][:2]
    assert (voc[1], voc[2], voc[4]) == ("VOC 2012", "val", 0.7)
    assert (coco[1], coco[2], coco[4]) == ("COCO 2014", "val", 0.402)


def test_cam_numbers_in_the_authors_order():
    assert [row[4] for row in published_section("CAM, multi-crop test")["rows"]] == [0.5393, 0.5490, 0.5781]


def test_every_number_has_a_source_and_is_a_fraction():
    section = published_section()
    rows = section["rows"]
    assert section["columns"] == ["what", "data set", "split", "network", "mIoU", "source"]
    assert all(len(row) == 6 and row[5] and 0.01 < row[4] < 1 for row in rows)
    assert len({tuple(row[:4]) for row in rows}) == len(rows) == 13


@pytest.mark.parametrize("dataset, rows", [("VOC 2012", 9), ("COCO 2014", 1), ("composed scenes", 0)])
def test_section_selects_a_data_set(dataset, rows):
    section = published_section(dataset=dataset)
    assert len(section["rows"]) == rows
    assert all(row[1] == dataset for row in section["rows"])


def test_a_missing_file_is_one_line_with_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "project_root", lambda: tmp_path)
    with pytest.raises(InputError, match=r"published\.json: the published numbers are missing; restore the file"):
        published_section()
