"""Where the explorer's picture comes from: thumbnails of scenes, or a photograph of one's own."""

from __future__ import annotations

import base64
import html
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets

from pmm.explore import canvas
from pmm.explore.photograph import from_photograph
from pmm.explore.sample import Sample, from_experiment, gallery_ids
from pmm.figures.style import spaced

THUMBNAIL = (112, 84)


@dataclass(frozen=True)
class Source:
    """What is looked at: a scene by its id, or an uploaded photograph by its number."""

    scene: str = ""
    photograph: int = 0
    chosen: tuple[int, ...] = ()
    """Classes of the photograph to look at; empty takes the likeliest."""


class Chooser:
    """Thumbnails, upload, and the classes found in an uploaded photograph.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        changed: called without arguments when something else is to be looked at.
        upload: offer the upload.
    """

    def __init__(self, experiment: Any, changed: Callable[[], None], upload: bool = True):
        self.experiment, self._changed = experiment, changed
        self._samples: dict[Source, Sample] = {}
        self._photographs: list[tuple[bytes, str]] = []
        self._offered = 0
        self.scenes = self._make_gallery()
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="Your own photograph")
        self.upload.layout.width = "220px"
        self.found = widgets.SelectMultiple(
            options=[], rows=5, description="classes found", style={"description_width": "118px"}
        )
        self.found.layout.display = "none"
        self.note = widgets.HTML()
        self.scenes.observe(self._pick_scene, "value")
        self.upload.observe(self._take_upload, "value")
        self.found.observe(self._pick_classes, "value")
        own = [widgets.HBox([self.upload, self.found, self.note])] if upload else []
        self.widget = widgets.VBox([self._style, self.scenes, *own])
        self.source = Source(scene=self.scenes.value)

    def sample(self, source: Source) -> Sample:
        """Return what a source stands for, read once.

        Raises:
            InputError: the scene has no CAM, or the upload is no image.
        """
        if source.photograph:
            whole = self._photograph(source.photograph)
            ids = source.chosen or whole.class_ids[:1]
            return whole.remember("only", ids, lambda: whole.only(ids))
        if source not in self._samples:
            self._samples[source] = from_experiment(self.experiment, source.scene)
        return self._samples[source]

    def describe(self, source: Source) -> None:
        """Say what is to be known of a source, and offer the classes of a photograph."""
        self.found.layout.display = "" if source.photograph else "none"
        if not source.photograph:
            self.note.value = ""
            return
        whole = self._photograph(source.photograph)
        made = "The CAM comes from ImageNet's classes of the embedded network: choose one or more."
        self.note.value = html.escape(" ".join([made, whole.note]))
        if self._offered != source.photograph:
            self._offered = source.photograph
            self.found.unobserve(self._pick_classes, "value")
            self.found.options = [(name, i) for i, name in zip(whole.class_ids, whole.names, strict=True)]
            self.found.value = whole.class_ids[:1]
            self.found.observe(self._pick_classes, "value")

    def look_at_upload(self, content: bytes, name: str) -> None:
        """Look at a photograph of one's own from now on."""
        self._photographs.append((content, name))
        self.scenes.unobserve(self._pick_scene, "value")
        self.scenes.value = None
        self.scenes.observe(self._pick_scene, "value")
        self.source = Source(photograph=len(self._photographs))
        self._changed()

    def _photograph(self, number: int) -> Sample:
        key = Source(photograph=number)
        if key not in self._samples:
            first_id = len(self.experiment.data.class_names)
            self._samples[key] = from_photograph(*self._photographs[number - 1], first_id)
        return self._samples[key]

    def _pick_scene(self, change: dict) -> None:
        if change["new"] is not None:
            self.source = Source(scene=change["new"])
            self._changed()

    def _pick_classes(self, change: dict) -> None:
        if self.source.photograph and change["new"]:
            self.source = Source(photograph=self.source.photograph, chosen=tuple(change["new"]))
            self._changed()

    def _take_upload(self, change: dict) -> None:
        for file in change["new"]:
            self.look_at_upload(bytes(file["content"]), file["name"])

    def _make_gallery(self) -> widgets.ToggleButtons:
        ids, data = gallery_ids(self.experiment), self.experiment.data
        tips = [f"{i}: {', '.join(spaced(data.class_names[c]) for c in data.labels(i))}" for i in ids]
        scenes = widgets.ToggleButtons(
            options=[(tip, i) for tip, i in zip(tips, ids, strict=True)], value=ids[0], tooltips=tips
        )
        mark = f"pmm-gallery-{uuid.uuid4().hex[:8]}"
        scenes.add_class("pmm-gallery").add_class(mark)
        rules = [
            f".{mark} .widget-toggle-button:nth-of-type({number}) {{background-image: url({_data_url(data.image(i))})}}"
            for number, i in enumerate(ids, start=1)
        ]
        self._style = widgets.HTML(f"<style>{STYLE}{''.join(rules)}</style>")
        return scenes


def _data_url(image) -> str:
    small = canvas.in_cell(canvas.shrink(image, THUMBNAIL), THUMBNAIL)
    return "data:image/jpeg;base64," + base64.b64encode(canvas.to_jpeg(small)).decode("ascii")


STYLE = f"""
.pmm-picture {{object-fit: contain; object-position: left top;}}
.pmm-rows-2 {{aspect-ratio: 1204 / 544;}}
.pmm-rows-1 {{aspect-ratio: 1204 / 285;}}
.pmm-words {{font-size: 16px; line-height: 1.5; margin: 4px 0; padding-left: 18px;}}
.pmm-alt {{position: absolute; width: 1px; height: 1px; overflow: hidden;}}
.pmm-warning {{font-size: 16px; border-left: 6px solid #D55E00; padding: 4px 10px; margin: 4px 0;}}
.pmm-problem {{font-size: 16px; border-left: 6px solid #A4001D; padding: 4px 10px; margin: 4px 0;}}
.pmm-gallery .widget-toggle-button {{width: {THUMBNAIL[0]}px; height: {THUMBNAIL[1]}px; padding: 0;
 background-size: cover; color: transparent; text-shadow: none; border: 3px solid transparent; overflow: hidden;}}
.pmm-gallery .widget-toggle-button.mod-active {{border-color: #0072B2; color: transparent;}}
.pmm-gallery .widget-toggle-button:hover {{color: transparent;}}
.pmm-gallery .widget-toggle-button:focus-visible {{outline: 3px solid #D55E00;}}
"""
