"""Sliders for s, alpha, t, kappa and beta: pictures and numbers that follow the hand.

The views are plain functions, a scene and a state in, a picture and numbers out; the widgets are a thin shell.
"""

from pmm.explore.app import Explorer
from pmm.explore.masks import masks_panel
from pmm.explore.small import explore_border as explore_border
from pmm.explore.small import explore_rounds as explore_rounds
from pmm.explore.small import explore_scales as explore_scales
from pmm.explore.smoothing import smoothing_panel
from pmm.explore.underfitting import underfitting_panel
from pmm.run.experiment import Experiment


def explore_smoothing(experiment: Experiment) -> Explorer:
    """Return sliders for s and t on the CAMs of a run, notebook 03; InputError says what makes CAMs that it lacks."""
    return Explorer(experiment, [smoothing_panel(experiment)])


def explore_masks(experiment: Experiment) -> Explorer:
    """Return sliders for everything that makes a pseudo-mask, notebook 04; errors as `explore_smoothing`."""
    return Explorer(experiment, [masks_panel(experiment)]).ask()


def explore_underfitting(experiment: Experiment) -> Explorer:
    """Return sliders for kappa and beta on the segmenter "pus", notebook 05; InputError too if it is not trained."""
    return Explorer(experiment, [underfitting_panel(experiment)])


def explore(experiment: Experiment) -> Explorer:
    """Return all sliders in tabs, with upload of one's own photograph; errors as `explore_smoothing`."""
    panels = [masks_panel(experiment), smoothing_panel(experiment), underfitting_panel(experiment)]
    return Explorer(experiment, panels, upload=True).ask()
