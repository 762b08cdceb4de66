"""One tab of the explorer: its sliders, its picture, its words. The drawing is done by the views."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import yaml

from pmm.errors import InputError
from pmm.explore import canvas
from pmm.explore.controls import clean, log_slider, menu, picture_widget, row, slider, words_html
from pmm.explore.live import Handful, live_view
from pmm.explore.masks_view import METHODS, MaskResult, MaskState, make_mask, masks_view
from pmm.explore.sample import Sample
from pmm.explore.smoothing_view import SmoothingState, smoothing_view
from pmm.explore.underfitting_state import CHECKPOINTS, KINDS, UnderfittingState, model_output
from pmm.explore.underfitting_view import underfitting_view
from pmm.explore.view import View
from pmm.figures.style import keep
from pmm.run.folder import fingerprint
from pmm.run.params import check_params

PAUSE = 1.0
"""Seconds without a movement after which the next one is compared with what stands there."""


def snippet(parameters: Mapping[str, Any]) -> str:
    """Write values as lines of a parameter file.

    Args:
        parameters: names and values of `pmm.run.params.Params`.

    Returns:
        YAML that `params/*.yaml` accepts.

    Raises:
        InputError: a name or a value is not one that a run takes.
    """
    check_params(parameters, "explorer")
    return yaml.safe_dump(dict(parameters), sort_keys=False)


class Panel:
    """Sliders on top, the picture below, then what it says.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
    """

    title = ""
    name = ""

    def __init__(self, experiment: Any):
        self.experiment = experiment
        self.controls: dict[str, widgets.Widget] = self.make_controls()
        self.initial = {name: control.value for name, control in self.controls.items()}
        self.view: View | None = None
        self.sample: Sample | None = None
        self.picture = picture_widget()
        self.words, self.warning, self.saved = (widgets.HTML() for _ in range(3))
        self.yaml = widgets.Textarea(disabled=False, rows=6, layout=widgets.Layout(width="100%"))
        self.widget = widgets.VBox([*self.layout_controls(), self.warning, *self.outputs(), self._tools()])

    def make_controls(self) -> dict[str, widgets.Widget]:
        """Return the sliders and menus by name."""
        raise NotImplementedError

    def layout_controls(self) -> list[widgets.Widget]:
        """Return the rows of controls."""
        return [row(self.controls.values())]

    def outputs(self) -> list[widgets.Widget]:
        """Return picture and words."""
        return [self.picture, self.words]

    def values(self) -> dict[str, Any]:
        """Return what the controls say."""
        return {name: control.value for name, control in self.controls.items()}

    def evaluate(self, sample: Sample, values: Mapping[str, Any]) -> View:
        """Make the view of a setting."""
        raise NotImplementedError

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the setting under the names of `pmm.run.params.Params`."""
        raise NotImplementedError

    def follow_up(self, values: Mapping[str, Any], stop: Callable[[], bool]) -> None:
        """Do what takes longer than a moment, after the picture; ends early once `stop()` is true."""

    def show(self, sample: Sample, values: Mapping[str, Any], view: View) -> None:
        """Put a view on the page."""
        self.sample, self.view = sample, view
        self.picture.value = canvas.to_jpeg(view.picture)
        self.words.value = words_html(view)
        self.warning.value = f'<p class="pmm-warning" role="status">{html.escape(view.warning)}</p>' * bool(
            view.warning
        )
        self.saved.value = ""
        self.yaml.value = snippet(self.parameters(values))

    def reset(self, *_: Any) -> None:
        """Set all controls to the run's parameters."""
        for name, control in self.controls.items():
            if name != "class_id":
                control.value = self.initial[name]

    def save(self, *_: Any) -> Path | None:
        """Keep the picture with its setting among the run's figures, where the report finds it, and say where."""
        if self.view is None or self.sample is None:
            return None
        settings = self.parameters(self.values())
        setting = ", ".join(f"{name} {value}" for name, value in settings.items())
        name = f"08_{self.name}_{Path(self.sample.id).stem}_{fingerprint(settings)[:6]}"
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
        run = Path(self.experiment.run.path)
        keep(canvas.to_png(self.view.picture), f"{self.title}, {self.sample.id}: {setting}.", self.view.alt, stem, run)
        path = run / "figures" / f"{stem}.png"
        self.saved.value = f"saved: {html.escape(str(path))}"
        return path

    def _tools(self) -> widgets.Widget:
        reset = widgets.Button(description="Reset", tooltip="all sliders to the parameters of this run")
        save = widgets.Button(description="Save picture", tooltip="write the picture into the run folder, as PNG")
        reset.on_click(self.reset)
        save.on_click(self.save)
        help_text = widgets.HTML("Copy these values as parameters: select all and copy into a file of params/.")
        copy = widgets.Accordion([widgets.VBox([help_text, self.yaml])], titles=("These values as parameters (YAML)",))
        return widgets.VBox([widgets.HBox([reset, save, self.saved]), copy])


class ClassPanel(Panel):
    """A panel with a menu of the classes in the image."""

    def offer(self, sample: Sample, wanted: int) -> int:
        """Put the sample's classes into the menu and return the class to show: the wanted one if it is there."""
        options = [(name, i) for i, name in zip(sample.class_ids, sample.names, strict=True)]
        if not options:
            raise InputError(f"{sample.id}: has no class to show; choose another scene")
        chosen = wanted if wanted in sample.class_ids else sample.class_ids[0]
        menu = self.controls["class_id"]
        if list(menu.options) != options:
            menu.options = options
            menu.value = chosen
        return chosen


class SmoothingPanel(ClassPanel):
    """s and t of notebook 03."""

    title, name = "Smoothing", "smoothing"

    def make_controls(self) -> dict[str, widgets.Widget]:
        """Return class, s, t, variant."""
        p = self.experiment.params
        return {
            "class_id": menu("class", [("", 0)], 0),
            "s": slider("s, strength", p.s, 0, 3, 0.05),
            "variant": menu("variant", ["official", "paper"], p.variant),
            "t": slider("t, threshold", p.t, 0, 0.95, 0.01),
        }

    def evaluate(self, sample: Sample, values: Mapping[str, Any]) -> View:
        """Make the view of a setting."""
        return smoothing_view(sample, self.state({**values, "class_id": self.offer(sample, values["class_id"])}))

    def state(self, values: Mapping[str, Any]) -> SmoothingState:
        """Return the setting of the controls."""
        return SmoothingState(values["class_id"], clean(values["s"]), clean(values["t"]), values["variant"])

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return s, t, variant."""
        return self.state(values).parameters()


class MasksPanel(ClassPanel):
    """All that makes a pseudo-mask, notebook 04."""

    title, name = "Pseudo-mask", "masks"

    def __init__(self, experiment: Any):
        self.chart, self.chart_words = picture_widget(rows=1), widgets.HTML()
        self._base: tuple[MaskState, MaskResult] | None = None
        self._shown: tuple[MaskState, MaskResult] | None = None
        self._moved = 0.0
        self._handful: Handful | None = None
        super().__init__(experiment)

    def make_controls(self) -> dict[str, widgets.Widget]:
        """Return method, s, alpha, t, variant, threshold, class and the CRF's strengths."""
        p = self.experiment.params
        return {
            "method": menu("method", [(title, key) for key, title in METHODS.items()], "ppmg"),
            "class_id": menu("steps of class", [("", 0)], 0),
            "s": slider("s, smoothing", p.s, 0, 3, 0.05),
            "alpha": log_slider("alpha, background", p.alpha, -4, 6),
            "t": slider("t, threshold", p.t, 0, 0.95, 0.01),
            "variant": menu("variant", ["official", "paper"], p.variant),
            "cam_threshold": slider("CAM threshold", p.cam_threshold, 0.02, 0.98, 0.02),
            "iterations": slider("CRF iterations", p.crf_iterations, 1, 20, 1),
            "gauss_compat": slider("CRF nearness", p.crf_gauss_compat, 0, 30, 0.5),
            "bilateral_compat": slider("CRF colour", p.crf_bilateral_compat, 0, 30, 0.5),
            "gauss_sxy": slider("reach, pixels", p.crf_gauss_sxy, 1, 20, 0.5),
            "bilateral_sxy": slider("colour: pixels", p.crf_bilateral_sxy, 5, 160, 5),
            "bilateral_srgb": slider("colour: grey levels", p.crf_bilateral_srgb, 2, 60, 1),
        }

    def layout_controls(self) -> list[widgets.Widget]:
        """Return the main sliders, and those of the CRF folded away."""
        main = ("method", "class_id", "s", "alpha", "t", "variant", "cam_threshold")
        crf = [control for name, control in self.controls.items() if name not in main]
        folded = widgets.Accordion([row(crf)], titles=("Strengths of the dense CRF",))
        return [row(self.controls[name] for name in main), folded]

    def outputs(self) -> list[widgets.Widget]:
        """Return picture, words and the chart over several scenes."""
        return [self.picture, self.words, self.chart, self.chart_words]

    def state(self, values: Mapping[str, Any]) -> MaskState:
        """Return the setting of the controls."""
        run = self.experiment.crf_settings()
        strengths = ("gauss_compat", "bilateral_compat", "gauss_sxy", "bilateral_sxy", "bilateral_srgb")
        crf = type(run)(int(values["iterations"]), **{k: clean(values[k]) for k in strengths}, engine=run.engine)
        numbers = {name: clean(values[name]) for name in ("s", "alpha", "t", "cam_threshold")}
        return MaskState(values["method"], variant=values["variant"], crf=crf, class_id=values["class_id"], **numbers)

    def evaluate(self, sample: Sample, values: Mapping[str, Any]) -> View:
        """Make the view of a setting, compared with the one before the last movement."""
        state = self.state({**values, "class_id": self.offer(sample, values["class_id"])})
        result, now = make_mask(sample, state), time.monotonic()
        if sample is not self.sample:
            self._base = self._shown = None
        elif self._shown is not None and self._shown[1] is not result:
            if now - self._moved > PAUSE:
                self._base = self._shown
            self._moved = now
        self._shown = state, result
        return masks_view(sample, state, self._base)

    def follow_up(self, values: Mapping[str, Any], stop: Callable[[], bool]) -> None:
        """Draw mean IoU over alpha and over s on a handful of scenes."""
        self._handful = self._handful or Handful.of(self.experiment)
        if not self.chart.value:
            self.chart_words.value = "mean IoU over alpha and over s: computing ..."
        view = live_view(self._handful, self.state(values), stop)
        if view is not None:
            self.chart.value = canvas.to_jpeg(view.picture)
            self.chart_words.value = words_html(view)

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of the method in use."""
        return self.state(values).parameters()


class UnderfittingPanel(Panel):
    """kappa and beta of notebook 05."""

    title, name = "Under-fitting", "underfitting"

    def make_controls(self) -> dict[str, widgets.Widget]:
        """Return kind, checkpoint, kappa, beta."""
        p = self.experiment.params
        names = {pair: name for name, pair in KINDS.items()}
        kind = names.get((p.pus, p.pus_variant), next((n for n, (k, _) in KINDS.items() if k == p.pus), "clamp, paper"))
        return {
            "kind": menu("kind", list(KINDS), kind),
            "kappa": slider("kappa", p.kappa, 0.05, 5, 0.05),
            "checkpoint": menu("checkpoint", list(CHECKPOINTS), "late"),
            "beta": slider("beta, gate", p.beta, 0, 2, 0.02),
        }

    def state(self, values: Mapping[str, Any]) -> UnderfittingState:
        """Return the setting of the controls."""
        return UnderfittingState(values["kind"], clean(values["kappa"]), clean(values["beta"]), values["checkpoint"])

    def evaluate(self, sample: Sample, values: Mapping[str, Any]) -> View:
        """Make the view of a setting."""
        if sample.id not in self.experiment.train_ids:
            raise InputError(f"{sample.id}: a photograph of your own has no label to doubt; choose a scene")
        state = self.state(values)
        return underfitting_view(sample, model_output(self.experiment, sample, state.checkpoint), state)

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return pus, pus_variant, kappa, beta."""
        return self.state(values).parameters()
