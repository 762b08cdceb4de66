"""The explorer as a widget: a scene picker, panels of sliders, and one worker that serves the newest request."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import ipywidgets as widgets
import yaml

from pmm.errors import InputError
from pmm.explore import drawing
from pmm.explore.drawing import View
from pmm.explore.picker import ExplorerScene, ScenePicker, Source, style_sheet
from pmm.figures.style import figure_html, keep
from pmm.run.experiment import Experiment
from pmm.run.params import check_params

REST = 0.25  # seconds that a slider must rest before the chart over several scenes is worked on
PAUSE = 1.0  # seconds without a movement after which the next one is compared with what stands there
LOOK = {"style": {"description_width": "118px"}, "layout": widgets.Layout(width="auto", flex="1 1 320px")}
OWN, OF_RUN = "own values", "this run"  # entries of every menu of presets
FREE = ("class_id", "step")  # controls that choose what of a setting is shown
LESS_MORE = ("less", "the same", "more")
MOST_CHOICES = 4

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


def log_slider(name: str, value: float, low: int, high: int, others: Iterable[float] = ()) -> widgets.Widget:
    """Return a slider over eighths of powers of two, from 2 ** low to 2 ** high; it stops at the others, too.

    It names its stops, since a slider of numbers would round a value that is set from here to its nearest step.
    """
    stops = {float(f"{2 ** (eighth / 8):.3g}") for eighth in range(8 * low, 8 * high + 1)}
    options = [(f"{stop:.4g}", stop) for stop in sorted(stops | {value, *others})]
    return widgets.SelectionSlider(options=options, value=value, description=name, **LOOK)


def menu(name: str, options: Iterable[str | tuple[str, Any]], value: Any) -> widgets.Dropdown:
    """Return a menu of words, or of words with their values."""
    style, layout = {"description_width": "initial"}, widgets.Layout(width="auto", flex="1 1 150px")
    return widgets.Dropdown(options=list(options), value=value, description=name, style=style, layout=layout)


def snippet(parameters: Mapping[str, Any]) -> str:
    """Write parameters of a run as YAML that `params/*.yaml` accepts; InputError if a run does not take one."""
    check_params(parameters, "explorer")
    return yaml.safe_dump(dict(parameters), sort_keys=False)


class PictureAndWords:
    """A picture of one or two rows of cells with its words below, whose place is kept free."""

    def __init__(self, rows: int, empty: str = "the picture is being made"):
        # without a first picture the browser would show the sign of a broken image
        picture = drawing.message(empty, (drawing.WIDTH, drawing.page_height(rows)))
        layout = widgets.Layout(width="100%", max_width=f"{drawing.WIDTH}px", height="auto")
        self.picture = widgets.Image(value=drawing.encoded(picture, "JPEG"), format="jpeg", layout=layout)
        self.picture.add_class("pmm-picture").add_class(f"pmm-rows-{rows}")
        self.words = widgets.HTML()

    def show(self, view: View, more: Iterable[str] = ()) -> None:
        """Put a view on the page, with more lines below its own."""
        self.picture.value = drawing.encoded(view.picture, "JPEG")
        # ipywidgets' Image has no alt, and its script fails on a tooltip; so the alternative text stands beside it
        alt = f'<span class="pmm-alt" role="img" aria-label="{html.escape(view.alt)}"></span>'
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in (*view.text, *more) if line)
        self.words.value = alt + f'<div role="status"><ul class="pmm-words">{lines}</ul></div>'

    def hide(self, hidden: bool = True) -> None:
        """Take both off the page, or put them back."""
        self.picture.layout.display = self.words.layout.display = "none" if hidden else ""

    def veil(self, veiled: bool = True) -> None:
        """Make both pale, while they show what was and not what is; or clear."""
        for part in (self.picture, self.words):
            (part.add_class if veiled else part.remove_class)("pmm-veiled")


class State(Protocol):
    """One setting of a panel's controls."""

    def parameters(self) -> dict[str, Any]:
        """Return the setting under the names of `pmm.run.params.Params`."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a panel shows, or will show once the reader has said what will happen."""

    scene: ExplorerScene
    values: dict[str, Any]  # those of the controls, which a pin keeps
    state: State
    view: View

    @property
    def setting(self) -> dict[str, Any]:
        """The values without the choice of what of them is shown."""
        return {name: value for name, value in self.values.items() if name not in FREE}


@dataclass(frozen=True)
class Question:
    """What a reader may be asked before a result is shown."""

    text: str
    right: str  # one of the choices
    why: str  # what happened and by which equation, without the full stop
    choices: tuple[str, ...] = LESS_MORE  # at most MOST_CHOICES
    view: View | None = None  # what is shown meanwhile, if not what is there already


def less_or_more(before: float, now: float, step: float = 5e-4) -> str:
    """Return which of LESS_MORE a change of a share is; less than `step` is none."""
    return LESS_MORE[1 + (now - before >= step) - (before - now >= step)]


def only_change(before: State, now: State, why: Mapping[str, tuple[str, str]]) -> str:
    """Return the reason of a change of one parameter, `why` of its name for (a larger, a smaller) value."""
    first, second = before.parameters(), now.parameters()
    names = [name for name in second if first.get(name) != second[name]]
    if not names:
        return "The value that changed has no effect here"
    if len(names) != 1 or names[0] not in first:
        return "Several values changed at once: move one alone to see what it does"
    old, new = (parameters[names[0]] for parameters in (first, second))
    larger, smaller = why.get(names[0], (f"Only {names[0]} changed: {old} -> {new}",) * 2)
    return larger if new > old else smaller


Against = tuple[str, Any] | None  # name of a setting of the same scene to compare with, and its state


class Panel:
    """One tab: its sliders, the picture, then what it says.

    Args:
        experiment: the run, for the pictures that are saved.
        title, name: for the tab, and for the files of saved pictures.
        controls: name -> slider or menu; one called `class_id` is filled with the classes of the scene, one called
            `step` gets buttons to go on and back.
        make_state: turns the values of the controls, by their names, into a state.
        draw: makes a view of scene and state, which may compare with another state.
        question: what to ask of two results; None where there is nothing to foretell.
        presets: name -> the values in which it differs from the run's.
        chart: makes a slower view while sliders rest; None where `stop()` ended it.
        folded: title and names of controls that stand on a page of their own.
        unused: values of the controls -> names of those that change nothing now, and why.
    """

    def __init__(
        self, experiment: Experiment, title: str, name: str, controls: dict[str, widgets.Widget],
        make_state: Callable[..., State], draw: Callable[[ExplorerScene, State, Against], View],
        question: Callable[[Drawn, Drawn], Question | None], presets: Mapping[str, Mapping[str, Any]],
        chart: Callable[[State, Stop], View | None] | None = None, folded: tuple[str, Sequence[str]] = ("", ()),
        unused: Callable[[Mapping[str, Any]], dict[str, str]] = lambda _: {},
    ):  # fmt: skip
        self.experiment, self.title, self.name, self.controls = experiment, title, name, controls
        self.make_state, self.draw, self.question, self.chart, self.unused = make_state, draw, question, chart, unused
        self.labels = {name: control.description for name, control in controls.items()}
        self.initial = {name: value for name, value in self.values().items() if name not in FREE}
        self.presets = {OF_RUN: self.initial, **{name: self.initial | dict(own) for name, own in presets.items()}}
        self.answers: list[bool] = []  # whether each prediction was right; an explorer gives all panels one list
        self.drawn: Drawn | None = None  # what is shown; None before the first picture
        self.pending: tuple[Drawn, Against, Question] | None = None  # not shown before the reader has chosen
        self._pinned: dict[str, Any] = {}
        self._base: dict[str, Any] | None = None  # the setting before the last movement
        self._moved, self._using = 0.0, False
        self.main, self.slow = PictureAndWords(2), PictureAndWords(1, "drawn at rest")
        self.message, self.saved, self.links = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.choices = [
            widgets.Button(layout=widgets.Layout(width="auto", display="none")) for _ in range(MOST_CHOICES)
        ]
        self.yaml = widgets.Textarea(rows=8, layout=widgets.Layout(width="100%"))
        self.preset = menu("preset", [OWN, *self.presets], OF_RUN)
        self.pin = widgets.ToggleButton(description="Pin A", tooltip="keep this setting as A and compare with it")
        self.look = widgets.ToggleButton(description="Look at A", tooltip="show A instead", disabled=True)
        self.inputs, self.tools = self._inputs(*folded)
        strip = widgets.HBox([self.message, *self.choices]).add_class("pmm-strip")
        save = widgets.Button(description="Save picture", tooltip="write the picture into the run folder, as PNG")
        help_text = widgets.HTML("Copy these values as parameters: select all and copy into a file of params/.")
        copy = widgets.Accordion([widgets.VBox([help_text, self.yaml])], titles=("These values as parameters (YAML)",))
        files = widgets.HBox([save, self.links, self.saved])
        slow = (self.slow.picture, self.slow.words) if chart else ()
        self.widget = widgets.VBox([strip, self.main.picture, self.main.words, files, *slow, copy])
        save.on_click(self.save)
        self.pin.observe(self._pin, "value")
        self.preset.observe(lambda change: self.use(change["new"]), "value")
        for control in controls.values():
            control.observe(self._follow, "value")
        for button in self.choices:
            button.on_click(lambda button: self.answer(button.description))
        self._follow()

    def _inputs(self, title: str, folded: Sequence[str]) -> tuple[widgets.Widget, widgets.Widget]:
        """Lay out the controls: menus in a row, sliders in two columns; and the buttons beside the tabs."""
        grid = widgets.Layout(
            width="100%", grid_template_columns="repeat(auto-fit, minmax(330px, 1fr))", grid_gap="0 16px"
        )
        shown = {name: c for name, c in self.controls.items() if name not in (*folded, "step")}
        menus = [c for c in shown.values() if isinstance(c, widgets.Dropdown)]
        sliders = [c for c in shown.values() if c not in menus]
        row = widgets.Box([self.preset, *menus], layout=widgets.Layout(flex_flow="row wrap", grid_gap="0 12px"))
        pages = [widgets.VBox([row, widgets.GridBox(sliders, layout=grid)], layout=widgets.Layout(width="100%"))]
        tools = [self.pin, self.look]
        if folded:
            pages.append(widgets.GridBox([self.controls[name] for name in folded], layout=grid))
            turn = widgets.ToggleButton(description=title, tooltip="show these sliders instead of the others")
            tools.append(turn)
        inputs = widgets.Stack(pages, selected_index=0, layout=widgets.Layout(width="100%"))
        if folded:
            turn.observe(lambda change: setattr(inputs, "selected_index", int(change["new"])), "value")
        if step := self.controls.get("step"):
            back, on = (widgets.Button(description=f"{name}") for name in ("Back", "Next"))
            back.on_click(lambda _: setattr(step, "index", max(step.index - 1, 0)))
            on.on_click(lambda _: setattr(step, "index", min(step.index + 1, len(step.options) - 1)))
            tools += [step, back, on]
        return inputs, widgets.HBox(tools)

    @property
    def view(self) -> View | None:
        """The view that is shown; None before the first."""
        return self.drawn and self.drawn.view

    def values(self) -> dict[str, Any]:
        """Return what the controls say; rounded, since a step of 0.05 must not give 0.15000000000000002."""
        values = {name: control.value for name, control in self.controls.items()}
        return {name: float(f"{v:.4g}") if isinstance(v, float) else v for name, v in values.items()}

    def use(self, preset: str) -> None:
        """Set the controls to a preset; a slider that ends before its value reaches it from then on."""
        self._using = True  # on the way the controls may stand at another preset
        for name, value in self.presets.get(preset, {}).items():
            control = self.controls[name]
            if isinstance(control, widgets.FloatSlider) and value > control.max:
                control.max = value
            control.value = value
        self._using = False
        self._follow()

    def _follow(self, *_: Any) -> None:
        """Let the menu name the preset that the controls stand at, and grey those that change nothing."""
        if self._using:
            return
        now = self.values()
        names = (name for name, preset in self.presets.items() if all(now[key] == preset[key] for key in preset))
        self.preset.value = next(names, OWN)
        unused = self.unused(now)
        for name, control in self.controls.items():
            why = unused.get(name)
            control.disabled, control.tooltip = why is not None, why
            if not isinstance(control, widgets.Dropdown):
                control.description = f"{self.labels[name].split(',')[0]}: {why}" if why else self.labels[name]
                (control.add_class if why else control.remove_class)("pmm-unused")

    def _pin(self, change: dict) -> None:
        """Keep the setting that is shown as A, or forget it."""
        if change["new"] and self.drawn:
            self._pinned = self.drawn.setting
        self.look.disabled = not change["new"]
        self.look.value &= change["new"]

    def show(self, scene: ExplorerScene, values: Mapping[str, Any], predict: bool = False) -> None:
        """Draw a scene with the values of the controls; InputError if it has no class, or a value is out of range.

        With `predict` the reader is asked first what will happen, where a setting of the same scene is shown.
        """
        if "class_id" in self.controls:
            values = {**values, "class_id": self._offer(scene, values["class_id"])}
        other = self._other(scene, dict(values))
        if other and self.look.value:
            values, other = {**values, **self._pinned}, ("B", values)
        state, against = self.make_state(**values), other and (other[0], self.make_state(**{**values, **other[1]}))
        drawn = Drawn(scene, dict(values), state, self.draw(scene, state, against))
        question = self._foretell(drawn) if predict and not self.look.value else None
        if question:
            self._ask(drawn, against, question)
        else:
            self._put(drawn, against)

    def _foretell(self, drawn: Drawn) -> Question | None:
        """Return what to ask; None where nothing of the same scene is shown, or where it has this setting."""
        before = self.drawn
        if before is None or before.scene is not drawn.scene or before.setting == drawn.setting:
            return None
        return self.question(before, drawn)

    def _other(self, scene: ExplorerScene, values: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """Return name and values to compare with: the pinned setting, or the one before the last movement."""
        if self.pin.value and self._pinned:
            return "A", self._pinned
        before, now = self.drawn, time.monotonic()
        if before is None or before.scene is not scene:
            self._base = None
            return None
        if any(values[name] != value for name, value in before.setting.items()):
            if now - self._moved > PAUSE or self.pending:
                self._base = before.setting
            self._moved = now
        return self._base and ("the previous setting", self._base)

    def _put(self, drawn: Drawn, against: Against = None) -> None:
        """Show a result."""
        more = [drawn.scene.note]
        if self.pin.value and against:
            line = drawn.scene.remember("line", (self.title, against[1]), partial(self._line, drawn.scene, against[1]))
            more.append(f"{against[0]}: {line}")
        self._show_choices(())
        self.drawn, self.pending = drawn, None
        self.main.veil(False)
        self.main.show(drawn.view, more)
        self._say(drawn.view.warning, "pmm-warning")
        self.saved.value = self.links.value = ""
        self.yaml.value = snippet(drawn.state.parameters())

    def _line(self, scene: ExplorerScene, state: State) -> str:
        """Return the first line of what a setting's view says."""
        return self.draw(scene, state, None).text[0]

    def _ask(self, drawn: Drawn, against: Against, question: Question) -> None:
        """Keep a result back and ask what it will be."""
        self.pending = drawn, against, question
        if question.view:
            self.main.show(question.view)
        self.main.veil()
        self._say(f"Predict first: {question.text}", "pmm-question")
        self._show_choices(question.choices)

    def answer(self, choice: str) -> None:
        """Take a prediction, then show the result with why it came so, and the score."""
        if self.pending is None:
            return
        drawn, against, question = self.pending
        self._put(drawn, against)
        self.answers.append(choice == question.right)
        verdict = "Right" if self.answers[-1] else f"Not so: {question.right}"
        score = f"{sum(self.answers)} of {len(self.answers)} right so far."
        self._say(f"{verdict}. {question.why}. {score}", "pmm-question")

    def _say(self, text: str, kind: str) -> None:
        self.message.value = f'<p class="{kind}" role="status">{html.escape(text)}</p>' if text else ""

    def _show_choices(self, choices: Sequence[str]) -> None:
        for button, text in zip_longest(self.choices, choices):
            button.description, button.layout.display = text or "", "" if text else "none"

    def fail(self, text: str) -> None:
        """Say why there is no picture."""
        self.drawn = self.pending = None
        self._show_choices(())
        self.main.veil(False)
        self.main.show(View(drawing.message("no picture", (drawing.WIDTH, drawing.page_height(2))), (), text))
        self._say(text, "pmm-problem")

    def offer_files(self) -> None:
        """Put links on the page that download what is shown: picture, pseudo-mask and parameters."""
        if (drawn := self.drawn) is None:
            return
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{Path(drawn.scene.id).stem}_{self.name}")
        note = f"# {self.title} of {' '.join(drawn.scene.id.split())}{drawn.view.file_note}\n"
        files = {
            "picture (PNG)": ("png", "image/png", drawing.encoded(drawn.view.picture, "PNG")),
            "parameters (YAML)": ("yaml", "text/plain", (note + snippet(drawn.state.parameters())).encode()),
        }
        if drawn.view.mask is not None:
            files["pseudo-mask (PNG)"] = ("mask.png", "image/png", drawn.scene.mask_png(drawn.view.mask))
        links = (
            f'<a download="{stem}.{end}" href="data:{kind};base64,{base64.b64encode(content).decode()}">{name}</a>'
            for name, (end, kind, content) in files.items()
        )
        self.links.value = f'<span class="pmm-files">Download: {" ".join(links)}</span>'

    def _offer(self, scene: ExplorerScene, wanted: int) -> int:
        """Put the scene's classes into the menu and return the class to show: the wanted one if it is there."""
        if not scene.menu:
            raise InputError(f"{scene.id}: has no class to show; choose another scene")
        chosen = wanted if wanted in scene.class_ids else scene.class_ids[0]
        classes = self.controls["class_id"]
        if list(classes.options) != scene.menu:
            classes.options, classes.value = scene.menu, chosen
        return chosen

    def save(self, *_: Any) -> Path | None:
        """Keep the drawn picture with its setting among the run's figures, where the report finds it, and say where.

        The name tells scene and class or checkpoint; its end, a hash of the content, keeps other pictures from it.
        """
        if self.drawn is None:
            return None
        scene, state, view = self.drawn.scene, self.drawn.state, self.drawn.view
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
    """The explorer as a widget, on one screen. Making one draws the first picture, so that a fault ends a batch run.

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
        self.problem, self.busy = widgets.HTML(), widgets.HTML().add_class("pmm-busy")
        self.failures: list[Exception] = []
        self.worker = LatestWins(self._serve, self._failed)
        titles = [panel.title for panel in panels]
        self.tabs = widgets.ToggleButtons(options=titles, style={"button_width": "auto"}).add_class("pmm-tabs")
        self.predict = widgets.ToggleButton(
            description="Predict first", tooltip="hide each result until you have said what it will be"
        )
        tools, inputs, bodies = (
            widgets.Stack([getattr(panel, part) for panel in panels], selected_index=0)
            for part in ("tools", "inputs", "widget")
        )
        inputs.add_class("pmm-inputs")
        wrap = widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="0 8px")
        header = widgets.Box([*([self.tabs] if len(panels) > 1 else []), tools, self.predict, *self.picker.buttons])
        top = widgets.Box([self.picker.widget, inputs])
        header.layout, top.layout = wrap, widgets.Layout(flex_flow="row wrap", grid_gap="0 12px")
        style = style_sheet(STYLE)
        super().__init__([style, header, top, self.problem, bodies, self.busy])
        self.add_class("pmm-explorer")
        answers: list[bool] = []
        for panel in panels:
            panel.answers = answers
        self._serve(self._request(), lambda: True)  # outside the widget: what is wrong is raised here
        for panel in panels:
            for control in (*panel.controls.values(), panel.pin, panel.look):
                control.observe(self.ask, "value")
        for stack in (tools, inputs, bodies):
            widgets.dlink((self.tabs, "index"), (stack, "selected_index"))
        self.tabs.observe(self.ask, "index")
        self.predict.observe(lambda change: None if change["new"] else self.ask(), "value")  # gives up what is hidden

    @property
    def panel(self) -> Panel:
        """The panel in front."""
        return self.panels[self.tabs.index]

    def ask(self, *_: Any) -> Explorer:
        """Let the worker draw what the controls say now, and then what takes longer than a picture."""
        self.worker.ask(self._request())
        return self

    def _request(self) -> tuple[Panel, Source, dict[str, Any], bool]:
        return self.panel, self.picker.source, self.panel.values(), self.predict.value

    def _serve(self, request: tuple[Panel, Source, dict[str, Any], bool], is_stale: Stop) -> None:
        panel, source, values, predict = request
        what = "Working on your photograph: some seconds the first time" if source.own else "Working"
        self.busy.value = f'<p role="status">{what}</p>'  # seen only after a moment: see STYLE
        panel.slow.hide(source.own)
        try:
            panel.show(self.picker.scene(source), values, predict)
        except InputError as error:
            panel.fail(" ".join(str(error).split()))
            raise
        finally:
            self.busy.value = ""
        self.problem.value = ""
        if is_stale() or not self.worker.rests(REST):  # what is slow would hold up the next picture
            return
        panel.offer_files()
        if panel.chart and panel.drawn and not source.own and (view := panel.chart(panel.drawn.state, is_stale)):
            panel.slow.show(view)

    def _failed(self, error: Exception) -> None:
        self.failures.append(error)
        if not isinstance(error, InputError):  # of those the panel has told
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
#rendered_cells {{padding: 0 10px !important;}}
#rendered_cells > div {{display: flex; flex-direction: column;}}
#rendered_cells > div > div:has(.pmm-explorer) {{order: -1;}}
.pmm-explorer {{position: relative; max-width: {drawing.WIDTH + 16}px; --jp-widgets-font-size: 16px;
 --jp-widgets-inline-height: 30px; --jp-widgets-inline-width-short: 120px;}}
.pmm-explorer .jupyter-button {{width: auto; padding: 0 9px;}}
.pmm-explorer .mod-active {{box-shadow: inset 0 -4px 0 #0072B2; font-weight: 600;}}
.pmm-explorer .widget-readout {{min-width: 48px; font-variant-numeric: tabular-nums;}}
.pmm-inputs {{flex: 1 1 420px; overflow: hidden;}}
.pmm-unused .widget-label {{width: auto !important; max-width: none;}}
.pmm-rows-1 {{aspect-ratio: {drawing.WIDTH} / {drawing.page_height(1)};}}
.pmm-rows-2 {{aspect-ratio: {drawing.WIDTH} / {drawing.page_height(2)};}}
.pmm-picture {{object-fit: contain; object-position: left top;}}
.pmm-veiled {{opacity: 0.35;}}
.pmm-strip {{height: 42px; align-items: center; overflow: hidden;}}
.pmm-words {{font-size: 16px; line-height: 1.4; margin: 0; padding-left: 18px; min-height: 68px;}}
.pmm-alt {{position: absolute; width: 1px; height: 1px; overflow: hidden;}}
.pmm-files, .pmm-files a {{font-size: 16px; margin: 0 2px;}}
.pmm-files a {{color: #0072B2; text-decoration: underline;}}
.pmm-strip p {{font-size: 16px; line-height: 1.3; padding: 0 8px; margin: 0;}}
.pmm-warning {{border-left: 6px solid #D55E00;}}
.pmm-question {{border-left: 6px solid #0072B2;}}
.pmm-problem {{font-size: 16px; border-left: 6px solid #A4001D;}}
.pmm-busy {{position: absolute; left: 0; right: 0; top: 300px; z-index: 9; text-align: center; pointer-events: none;}}
.pmm-busy p {{font-size: 20px; padding: 8px 16px; margin: 0; display: inline-block; background: #0072B2; color: white;
 animation: pmm-late 0.1s 0.4s backwards;}}
@keyframes pmm-late {{from {{opacity: 0;}}}}
"""
