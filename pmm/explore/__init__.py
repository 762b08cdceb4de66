"""Sliders for s, alpha, t, kappa and beta: pictures and numbers that follow the hand.

    explore(experiment)              # all views in tabs, with upload
    explore_smoothing(experiment)    # notebook 03
    explore_masks(experiment)        # notebook 04
    explore_underfitting(experiment) # notebook 05

The views are plain functions, a sample and a state in, a picture and numbers out; the widgets are a thin shell.
"""

from pmm.explore.shell import Explorer, explore, explore_masks, explore_smoothing, explore_underfitting

__all__ = ["Explorer", "explore", "explore_masks", "explore_smoothing", "explore_underfitting"]
