"""The paper's published numbers, as data, each with its source.

A figure that was not found is not here; a detail that its source does not state is None, never guessed.
None of these numbers can be compared with a number from the composed scenes: other images, other classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class PublishedNumber(NamedTuple):
    """One published mIoU, in percent, as its source prints it."""

    figure: str
    dataset: str | None
    split: str | None
    network: str | None
    percent: float
    source: str


ABSTRACT = "Li et al., ICCV 2021, abstract (arXiv 2108.12995)"
LIST = "awesome list by gyguo (secondary source)"
ISSUE = "the author, github.com/Eli-YiLi/PMM issue 7"
URN = "README of URN, later work on the same pipeline"
SEGMENTATION = "segmentation model"
CAM = "CAM, multi-crop test"
LATER = "segmentation model of URN"

PUBLISHED = (
    PublishedNumber(SEGMENTATION, "VOC 2012", "val", None, 70.0, ABSTRACT),
    PublishedNumber(SEGMENTATION, "COCO 2014", "val", None, 40.2, ABSTRACT),
    PublishedNumber(SEGMENTATION, "VOC 2012", "val", "ResNet38 + PSPNet", 68.5, LIST),
    PublishedNumber(SEGMENTATION, "VOC 2012", "test", "ResNet38 + PSPNet", 69.0, LIST),
    PublishedNumber(SEGMENTATION, "VOC 2012", "val", "Res2Net101 + PSPNet", 70.0, LIST),
    PublishedNumber(SEGMENTATION, "VOC 2012", "test", "Res2Net101 + PSPNet", 70.5, LIST),
    PublishedNumber(CAM, None, None, "ResNet38", 53.93, ISSUE),
    PublishedNumber(CAM, None, None, "Res2Net101", 54.90, ISSUE),
    PublishedNumber(CAM, None, None, "ScaleNet101", 57.81, ISSUE),
    PublishedNumber(LATER, "VOC 2012", "val", "ResNet38", 69.4, URN),
    PublishedNumber(LATER, "VOC 2012", "val", "ResNet101", 69.5, URN),
    PublishedNumber(LATER, "VOC 2012", "val", "ScaleNet101", 70.1, URN),
    PublishedNumber(LATER, "VOC 2012", "val", "Res2Net101", 71.2, URN),
)


def published_numbers(figure: str | None = None, dataset: str | None = None) -> list[PublishedNumber]:
    """Return the published numbers of one figure (`SEGMENTATION`, `CAM`, `LATER`) and data set; None takes all."""
    return [number for number in PUBLISHED if figure in (None, number.figure) and dataset in (None, number.dataset)]


def published_section(figure: str | None = None, dataset: str | None = None) -> dict[str, Any]:
    """Return `published_numbers` as a section of metrics.json; mIoU is a fraction 0..1."""
    numbers = published_numbers(figure, dataset)
    return {
        "title": "Published numbers of the paper and of work on the same pipeline",
        "data": "data set and split as named in each row; the sources do not say whether a CRF was applied",
        "columns": ["what", "data set", "split", "network", "mIoU", "source"],
        "rows": [[n.figure, n.dataset, n.split, n.network, round(n.percent / 100, 4), n.source] for n in numbers],
        "note": "Other images and classes than the composed scenes; empty: the source does not say.",
    }
