"""The explorer as a widget: a scene picker, panels of sliders, and one worker that serves the newest request."""

from __future__ import annotations

import hashlib
import html
import re
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import ipywidgets as widgets
import yaml

from pmm.errors import InputError
from pmm.explore import drawing
from pmm.explore.drawing import View
from pmm.explore.picker import ExplorerScene, ScenePicker, Source
from pmm.figures.style import figure_html, keep
from pmm.run.experiment import Experiment
from pmm.run.params import check_params

REST = 0.25  # seconds that a slider must rest before the chart over several scenes is worked on
LOOK = {"style": {"description_width": "150px"}, "layout": widgets.Layout(width="420px", max_width="100%")}

Stop = Callable[[], bool]  # whether a newer request waits, so that what takes long should end


class LatestWins:
    """Calls `work(request, is_stale)` for the newest request, in one thread at a time.

    None of the others is queued: while one is worked on, only the newest of those that arrive is kept. `is_stale()`
    tells the work that a newer one waits, so that it can leave out what would take long.

    Args:
        work: what to do with a request.
        failed: called with what `work` raised; the next request is served all the same.
    """

    def __init__(self, work: Callable[[Any, Stop], None], failed: Callable[[Exception], None]):
        self._work, self._failed = work, failed
        self._state = threading.Condition()
        self._waiting: list[Any] = []  # the newest request, or nothing
        self._busy = False
        self.asked = self.begun = 0

    def ask(self, request: Any) -> None:
        """Take a request; returns at once."""
        with self._state:
            self._waiting = [request]
            self.asked += 1
            self._state.notify_all()
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._serve, name="pmm-explorer", daemon=True).start()

    def is_stale(self) -> bool:
        """Return whether a newer request waits."""
        return bool(self._waiting)

    def rests(self, seconds: float) -> bool:
        """Wait so long for a newer request; False as soon as there is one. For `work`, before what takes long."""
        with self._state:
            return not self._state.wait_for(self.is_stale, seconds)

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until nothing is left to do; False if that takes longer than `timeout` seconds."""
        with self._state:
            return self._state.wait_for(lambda: not self._busy, timeout)

    def _serve(self) -> None:
        while True:
            with self._state:
                if not self._waiting:
                    self._busy = False
                    self._state.notify_all()
                    return
                request = self._waiting.pop()
                self.begun += 1
            try:
                self._work(request, self.is_stale)
            except Exception as error:
                self._failed(error)


def slider(name: str, value: float, low: float, high: float, step: float) -> widgets.Widget:
    """Return a slider that reaches the value, whole numbers or two digits."""
    limits = {"min": min(low, value), "max": max(high, value), "step": step}
    if isinstance(step, int) and isinstance(value, int):
        return widgets.IntSlider(value=value, description=name, **limits, **LOOK)
    return widgets.FloatSlider(value=value, description=name, readout_format=".2f", **limits, **LOOK)


def log_slider(name: str, value: float, low: float, high: float) -> widgets.Widget:
    """Return a slider over powers of two, from 2 ** low to 2 ** high."""
    limits = {"base": 2.0, "min": low, "max": high, "step": 0.125, "readout_format": ".3g"}
    value = min(max(value, 2.0**low), 2.0**high)
    return widgets.FloatLogSlider(value=value, description=name, **limits, **LOOK)


def menu(name: str, options: Iterable[str | tuple[str, Any]], value: Any) -> widgets.Dropdown:
    """Return a menu of words, or of words with their values."""
    return widgets.Dropdown(options=list(options), value=value, description=name, **LOOK)


def snippet(parameters: Mapping[str, Any]) -> str:
    """Write parameters of a run as YAML that `params/*.yaml` accepts; InputError if a run does not take one."""
    check_params(parameters, "explorer")
    return yaml.safe_dump(dict(parameters), sort_keys=False)


def _row(controls: Iterable[widgets.Widget]) -> widgets.Widget:
    """Put widgets beside each other, in more lines where the page is narrow."""
    return widgets.Box(list(controls), layout=widgets.Layout(flex_flow="row wrap", align_items="center"))


class PictureAndWords:
    """A picture of one or two rows of cells with its words below; both are empty until the first view."""

    def __init__(self, rows: int):
        # without a first picture the browser would show the sign of a broken image
        empty = drawing.message("drawn as soon as the sliders rest", (drawing.WIDTH, drawing.page_height(rows)))
        layout = widgets.Layout(width="100%", max_width=f"{drawing.WIDTH}px", height="auto")
        self.picture = widgets.Image(value=drawing.encoded(empty, "JPEG"), format="jpeg", layout=layout)
        self.picture.add_class("pmm-picture").add_class(f"pmm-rows-{rows}")
        self.words = widgets.HTML()

    def show(self, view: View) -> None:
        """Put a view on the page."""
        self.picture.value = drawing.encoded(view.picture, "JPEG")
        # ipywidgets' Image has no alt, and its script fails on a tooltip; so the alternative text stands beside it
        alt = f'<span class="pmm-alt" role="img" aria-label="{html.escape(view.alt)}"></span>'
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in view.text if line)
        self.words.value = alt + f'<ul class="pmm-words" role="status" aria-live="polite">{lines}</ul>'


class State(Protocol):
    """One setting of a panel's controls."""

    def parameters(self) -> dict[str, Any]:
        """Return the setting under the names of `pmm.run.params.Params`."""


class Panel:
    """One tab: sliders on top, the picture below, then what it says.

    Args:
        experiment: the run, for the pictures that are saved.
        title, name: for the tab, and for the files of saved pictures.
        controls: name -> slider or menu; one called `class_id` is filled with the classes of the scene.
        make_state: turns the values of the controls, by their names, into a state.
        draw, chart: make a view of scene and state, and a slower one while sliders rest; None where `stop()` ended it.
        folded: title and names of controls that are folded away.
    """

    def __init__(
        self, experiment: Experiment, title: str, name: str, controls: dict[str, widgets.Widget],
        make_state: Callable[..., State], draw: Callable[[ExplorerScene, State], View],
        chart: Callable[[State, Stop], View | None] | None = None, folded: tuple[str, Sequence[str]] = ("", ()),
    ):  # fmt: skip
        self.experiment, self.title, self.name, self.controls = experiment, title, name, controls
        self.make_state, self.draw, self.chart = make_state, draw, chart
        self.initial = {name: control.value for name, control in controls.items() if name != "class_id"}
        self.scene: ExplorerScene | None = None  # this and the next two: what is drawn now, None before
        self.state: State | None = None
        self.view: View | None = None
        self.main, self.slow = PictureAndWords(rows=2), PictureAndWords(rows=1)
        self.warning, self.saved = widgets.HTML(), widgets.HTML()
        self.yaml = widgets.Textarea(rows=6, layout=widgets.Layout(width="100%"))
        rows = [_row(control for name, control in controls.items() if name not in folded[1])]
        if folded[1]:
            rows.append(widgets.Accordion([_row(controls[name] for name in folded[1])], titles=folded[:1]))
        outputs = [self.main.picture, self.main.words, *((self.slow.picture, self.slow.words) if chart else ())]
        reset = widgets.Button(description="Reset", tooltip="all sliders to the parameters of this run")
        save = widgets.Button(description="Save picture", tooltip="write the picture into the run folder, as PNG")
        reset.on_click(self.reset)
        save.on_click(self.save)
        help_text = widgets.HTML("Copy these values as parameters: select all and copy into a file of params/.")
        copy = widgets.Accordion([widgets.VBox([help_text, self.yaml])], titles=("These values as parameters (YAML)",))
        self.widget = widgets.VBox([*rows, self.warning, *outputs, widgets.HBox([reset, save, self.saved]), copy])

    def values(self) -> dict[str, Any]:
        """Return what the controls say; rounded, since a step of 0.05 must not give 0.15000000000000002."""
        values = {name: control.value for name, control in self.controls.items()}
        return {name: float(f"{v:.4g}") if isinstance(v, float) else v for name, v in values.items()}

    def show(self, scene: ExplorerScene, values: Mapping[str, Any]) -> None:
        """Draw a scene with the values of the controls; InputError if it has no class, or a value is out of range."""
        if "class_id" in self.controls:
            values = {**values, "class_id": self._offer(scene, values["class_id"])}
        state = self.make_state(**values)
        view = self.draw(scene, state)
        self.scene, self.state, self.view = scene, state, view
        self.main.show(view)
        warning = f'<p class="pmm-warning" role="status">{html.escape(view.warning)}</p>'
        self.warning.value = warning if view.warning else ""
        self.saved.value = ""
        self.yaml.value = snippet(state.parameters())

    def _offer(self, scene: ExplorerScene, wanted: int) -> int:
        """Put the scene's classes into the menu and return the class to show: the wanted one if it is there."""
        if not scene.menu:
            raise InputError(f"{scene.id}: has no class to show; choose another scene")
        chosen = wanted if wanted in scene.class_ids else scene.class_ids[0]
        classes = self.controls["class_id"]
        if list(classes.options) != scene.menu:
            classes.options, classes.value = scene.menu, chosen
        return chosen

    def reset(self, *_: Any) -> None:
        """Set all controls to the run's parameters."""
        for name, value in self.initial.items():
            self.controls[name].value = value

    def save(self, *_: Any) -> Path | None:
        """Keep the drawn picture with its setting among the run's figures, where the report finds it, and say where.

        The name tells scene and class or checkpoint; its end, a hash of the content, keeps other pictures from it.
        """
        scene, state, view = self.scene, self.state, self.view
        if view is None:
            return None
        setting = ", ".join(f"{name} {value}" for name, value in state.parameters().items())
        caption = ", ".join(filter(None, (self.title, scene.id, view.subject))) + f": {setting}."
        png = drawing.encoded(view.picture, "PNG")
        mark = hashlib.sha256(png + caption.encode()).hexdigest()[:8]
        name = "_".join(filter(None, ("08", self.name, Path(scene.id).stem, view.subject, mark)))
        stem, run = re.sub(r"[^A-Za-z0-9._-]+", "_", name), Path(self.experiment.run.path)
        keep(png, caption, view.alt, stem, run)
        path = run / "figures" / f"{stem}.png"
        self.saved.value = f"saved: {html.escape(str(path))}"
        return path


class Explorer(widgets.VBox):
    """The explorer as a widget. Making one draws the first picture, so that a fault ends a batch run.

    Args:
        experiment: the run.
        panels: several stand in tabs.
        upload: offer photographs of one's own.

    Raises:
        InputError: the run has no CAMs, or lacks what its first panel needs.
    """

    def __init__(self, experiment: Experiment, panels: Sequence[Panel], upload: bool = False):
        self.panels = panels
        self.picker = ScenePicker(experiment, self.ask, upload)
        self.problem = widgets.HTML()
        self.failures: list[Exception] = []
        self.worker = LatestWins(self._serve, self._failed)
        self.tabs = widgets.Tab([panel.widget for panel in panels], titles=[panel.title for panel in panels])
        body = self.tabs if len(panels) > 1 else panels[0].widget
        super().__init__([widgets.HTML(f"<style>{STYLE}</style>"), self.picker.widget, self.problem, body])
        self._serve(self._request(), lambda: True)  # outside the widget: what is wrong is raised here
        for control in (control for panel in panels for control in panel.controls.values()):
            control.observe(self.ask, "value")
        self.tabs.observe(self.ask, "selected_index")

    @property
    def panel(self) -> Panel:
        """The panel in front."""
        return self.panels[self.tabs.selected_index or 0]

    def ask(self, *_: Any) -> Explorer:
        """Let the worker draw what the controls say now, and then what takes longer than a picture."""
        self.worker.ask(self._request())
        return self

    def _request(self) -> tuple[Panel, Source, dict[str, Any]]:
        return self.panel, self.picker.source, self.panel.values()

    def _serve(self, request: tuple[Panel, Source, dict[str, Any]], is_stale: Stop) -> None:
        panel, source, values = request
        panel.show(self.picker.scene(source), values)
        self.problem.value = ""
        rests = not is_stale() and self.worker.rests(REST)  # work on the chart would hold up the next picture
        if rests and panel.chart and (view := panel.chart(panel.state, is_stale)):
            panel.slow.show(view)

    def _failed(self, error: Exception) -> None:
        self.failures.append(error)
        text = html.escape(" ".join(str(error).split()))
        if not isinstance(error, InputError):
            lines = html.escape("".join(traceback.format_exception(error)))
            text = f"This is a fault of the program. <pre>{lines}</pre>"
        self.problem.value = f'<div class="pmm-problem" role="alert">{text}</div>'

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """Add the first picture as HTML, for pages without a kernel."""
        bundle = dict(super()._repr_mimebundle_(**kwargs) or {})
        if (view := self.panels[0].view) is not None:
            note = "Without a kernel this is a picture. In JupyterLab, or with make explore, it has sliders."
            bundle["text/html"] = figure_html(drawing.encoded(view.picture, "PNG"), note, view.alt)
            bundle["text/plain"] = f"[explorer] {view.alt}"
        return bundle


STYLE = f"""
.pmm-rows-1 {{aspect-ratio: {drawing.WIDTH} / {drawing.page_height(1)};}}
.pmm-rows-2 {{aspect-ratio: {drawing.WIDTH} / {drawing.page_height(2)};}}
.pmm-picture {{object-fit: contain; object-position: left top;}}
.pmm-words {{font-size: 16px; line-height: 1.5; margin: 4px 0; padding-left: 18px;}}
.pmm-alt {{position: absolute; width: 1px; height: 1px; overflow: hidden;}}
.pmm-warning {{font-size: 16px; border-left: 6px solid #D55E00; padding: 4px 10px; margin: 4px 0;}}
.pmm-problem {{font-size: 16px; border-left: 6px solid #A4001D; padding: 4px 10px; margin: 4px 0;}}
"""
