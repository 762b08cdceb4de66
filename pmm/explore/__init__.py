"""Sliders for s, alpha, t, kappa and beta: pictures and numbers that follow the hand.

    explore(experiment)              # all views in tabs, with upload
    explore_smoothing(experiment)    # notebook 03
    explore_masks(experiment)        # notebook 04
    explore_underfitting(experiment) # notebook 05

The views are plain functions, a scene and a state in, a picture and numbers out; the widgets are a thin shell.
"""

from pmm.explore.app import Explorer
from pmm.explore.masks import masks_panel
from pmm.explore.picker import check_cams_exist
from pmm.explore.smoothing import smoothing_panel
from pmm.explore.underfitting import check_segmenter_exists, underfitting_panel
from pmm.run.experiment import Experiment


def explore_smoothing(experiment: Experiment) -> Explorer:
    """Return sliders for s and t on the CAMs of a run, notebook 03.

    Args:
        experiment: the run, with CAMs.

    Raises:
        InputError: the run has no CAMs; names the command that makes them.
    """
    return Explorer(experiment, [smoothing_panel(experiment)])


def explore_masks(experiment: Experiment) -> Explorer:
    """Return sliders for everything that makes a pseudo-mask, notebook 04; arguments as `explore_smoothing`."""
    return Explorer(experiment, [masks_panel(experiment)]).ask()


def explore_underfitting(experiment: Experiment) -> Explorer:
    """Return sliders for kappa and beta on a trained segmenter, notebook 05.

    Args:
        experiment: the run, with the segmenter "pus".

    Raises:
        InputError: the run has no CAMs or no such segmenter; names the command that makes them.
    """
    check_cams_exist(experiment)
    check_segmenter_exists(experiment)
    return Explorer(experiment, [underfitting_panel(experiment)])


def explore(experiment: Experiment) -> Explorer:
    """Return all sliders in tabs, with upload of one's own photograph; arguments as `explore_smoothing`."""
    panels = [masks_panel(experiment), smoothing_panel(experiment), underfitting_panel(experiment)]
    return Explorer(experiment, panels, upload=True).ask()
