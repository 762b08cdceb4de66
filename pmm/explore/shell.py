"""The widget: chooser on top, one panel or several in tabs, one worker that serves the newest wish."""

from __future__ import annotations

import html
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets

from pmm.errors import InputError
from pmm.explore import canvas
from pmm.explore.chooser import Chooser, Source
from pmm.explore.panel import ClassPanel, MasksPanel, Panel, SmoothingPanel, UnderfittingPanel
from pmm.explore.sample import check_cams_exist
from pmm.explore.underfitting_state import check_segmenter_exists
from pmm.explore.worker import LatestWins
from pmm.figures.style import figure_html

REST = 0.25
"""Seconds that a slider must rest before the chart over several scenes is worked on."""


@dataclass(frozen=True)
class Wish:
    """What the page is to show: a panel, a picture, the values of the controls."""

    panel: Panel
    source: Source
    values: dict[str, Any]


class Explorer(widgets.VBox):
    """The explorer as a widget. Making one draws the first picture, so that a fault ends a batch run.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        kinds: classes of the panels; several stand in tabs.
        upload: offer photographs of one's own.

    Raises:
        InputError: the run has no CAMs, or lacks what its only panel needs.
    """

    def __init__(self, experiment: Any, kinds: Sequence[type[Panel]], upload: bool = False):
        check_cams_exist(experiment)
        self.panels = [kind(experiment) for kind in kinds]
        self.chooser = Chooser(experiment, self.ask, upload)
        self.problem = widgets.HTML()
        self.failures: list[Exception] = []
        self.worker = LatestWins(self._serve, self._failed)
        self.tabs = None
        body = self.panels[0].widget
        if len(self.panels) > 1:
            titles = tuple(panel.title for panel in self.panels)
            body = self.tabs = widgets.Tab([panel.widget for panel in self.panels], titles=titles)
        super().__init__([self.chooser.widget, self.problem, body])
        self._serve(self._wish(), lambda: True)  # outside the widget: what is wrong is raised here
        for panel in self.panels:
            for control in panel.controls.values():
                control.observe(self._moved, "value")
        if self.tabs is not None:
            self.tabs.observe(self._moved, "selected_index")

    @property
    def panel(self) -> Panel:
        """The panel in front."""
        return self.panels[self.tabs.selected_index or 0] if self.tabs is not None else self.panels[0]

    def ask(self) -> None:
        """Let the worker draw what the controls say now."""
        self.worker.ask(self._wish())

    def _wish(self) -> Wish:
        return Wish(self.panel, self.chooser.source, self.panel.values())

    def _moved(self, _: dict) -> None:
        self.ask()

    def _serve(self, wish: Wish, is_stale: Callable[[], bool]) -> None:
        panel, values = wish.panel, dict(wish.values)
        sample = self.chooser.sample(wish.source)
        self.chooser.describe(wish.source)
        if isinstance(panel, ClassPanel) and values["class_id"] not in sample.class_ids:
            values["class_id"] = panel.offer(sample, values["class_id"])
        panel.show(sample, values, panel.evaluate(sample, values))
        if self.problem.value:
            self.problem.value = ""
        if not is_stale() and self.worker.rests(REST):  # work on the chart would hold up the next picture
            panel.follow_up(values, is_stale)

    def _failed(self, error: Exception) -> None:
        self.failures.append(error)
        text = html.escape(" ".join(str(error).split()))
        if not isinstance(error, InputError):
            lines = html.escape("".join(traceback.format_exception(error)))
            text = f"This is a fault of the program. <pre>{lines}</pre>"
        self.problem.value = f'<div class="pmm-problem" role="alert">{text}</div>'

    def start(self) -> Explorer:
        """Begin what takes longer than the first picture, such as the chart over several scenes."""
        self.ask()
        return self

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """Add the first picture as HTML, for pages without a kernel."""
        bundle = dict(super()._repr_mimebundle_(**kwargs) or {})
        view = self.panels[0].view
        if view is not None:
            note = "Without a kernel this is a picture. In JupyterLab, or with make explore, it has sliders."
            bundle["text/html"] = figure_html(canvas.to_png(view.picture), note, view.alt)
            bundle["text/plain"] = f"[explorer] {view.alt}"
        return bundle


def explore_smoothing(experiment: Any) -> Explorer:
    """Return sliders for s and t on the CAMs of a run, notebook 03.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`, with CAMs.

    Raises:
        InputError: the run has no CAMs; names the command that makes them.
    """
    return Explorer(experiment, [SmoothingPanel])


def explore_masks(experiment: Any) -> Explorer:
    """Return sliders for everything that makes a pseudo-mask, notebook 04; arguments as `explore_smoothing`."""
    return Explorer(experiment, [MasksPanel]).start()


def explore_underfitting(experiment: Any) -> Explorer:
    """Return sliders for kappa and beta on a trained segmenter, notebook 05.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`, with the segmenter "pus".

    Raises:
        InputError: the run has no CAMs or no such segmenter; names the command that makes them.
    """
    check_cams_exist(experiment)
    check_segmenter_exists(experiment)
    return Explorer(experiment, [UnderfittingPanel])


def explore(experiment: Any) -> Explorer:
    """Return all sliders in tabs, with upload of one's own photograph; arguments as `explore_smoothing`."""
    return Explorer(experiment, [MasksPanel, SmoothingPanel, UnderfittingPanel], upload=True).start()
