"""The published numbers: the ones with a source, no others."""

import pytest

from pmm.studies.published import CAM, PUBLISHED, SEGMENTATION, published_numbers, published_section


def test_headline_numbers():
    voc, coco = published_numbers(SEGMENTATION)[:2]
    assert (voc.dataset, voc.split, voc.percent) == ("VOC 2012", "val", 70.0)
    assert (coco.dataset, coco.split, coco.percent) == ("COCO 2014", "val", 40.2)


def test_cam_numbers_in_the_authors_order():
    assert [n.percent for n in published_numbers(CAM)] == [53.93, 54.90, 57.81]


def test_every_number_has_a_source_and_is_a_percentage():
    assert all(n.source and 1 < n.percent < 100 for n in PUBLISHED)
    assert len({(n.figure, n.dataset, n.split, n.network) for n in PUBLISHED}) == len(PUBLISHED) == 13


@pytest.mark.parametrize("dataset, rows", [("VOC 2012", 9), ("COCO 2014", 1), ("composed scenes", 0)])
def test_section_selects_a_data_set(dataset, rows):
    section = published_section(dataset=dataset)
    assert len(section["rows"]) == rows
    assert all(row[1] == dataset for row in section["rows"])


def test_section_is_a_table_of_fractions():
    section = published_section()
    place = section["columns"].index("mIoU")
    assert {len(row) for row in section["rows"]} == {len(section["columns"])}
    assert section["rows"][0][place] == 0.7
    assert all(0 < row[place] < 1 for row in section["rows"])
