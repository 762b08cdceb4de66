"""The stages of a run, each made once and then reused: scenes, classifier, CAMs, pseudo-masks, models.

    experiment = Experiment(params)
    experiment.pseudo_masks("ppmg")          # makes what it needs first: scenes, classifier, CAMs
    experiment.segmenter("pus")              # learns from them

Every stage method returns its `Stage`, whose `facts` hold what the stage found out.
"""

from pmm.run.stages.segmenters import SegmenterStages


class Experiment(SegmenterStages):
    """One run: its parameters, its data, its folder, its stages.

    Args:
        params: all parameters.

    Raises:
        InputError: the data set or the device is not there.
    """
