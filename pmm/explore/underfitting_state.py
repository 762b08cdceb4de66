"""What the view of notebook 05 starts from: a setting of the sliders, and a trained model's loss on one scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pmm.errors import InputError
from pmm.explore.sample import Sample
from pmm.networks.training import EARLY

KINDS = {
    "clamp, paper": ("clamp", "paper"),
    "clamp, released code": ("clamp", "official"),
    "pow": ("pow", "paper"),
    "ignore": ("ignore", "paper"),
}
"""Name in the menu -> kind and variant of `pmm.method.losses`."""
CHECKPOINTS = ("early", "late")
POW_PIVOT = 1.0
"""L ** kappa damps losses above this and lifts those below, whatever the exponent."""


@dataclass(frozen=True)
class UnderfittingState:
    """One setting of the sliders.

    Args:
        kind: one of KINDS.
        kappa: loss from which a label is doubted, > 0; for pow the exponent, at most 1.
        beta: >= 0, PUS acts while the mean loss is below it.
        checkpoint: "early" or "late".
    """

    kind: str = "clamp, paper"
    kappa: float = 1.0
    beta: float = 0.3
    checkpoint: str = "late"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind: {self.kind!r} is unknown; choose one of {', '.join(KINDS)}")
        if self.checkpoint not in CHECKPOINTS:
            raise InputError(f"checkpoint: {self.checkpoint!r} is unknown; choose early or late")
        if not self.kappa > 0:
            raise InputError(f"kappa: {self.kappa} is not positive; give a pixel loss, such as 1.0")
        if not self.beta >= 0:
            raise InputError(f"beta: {self.beta} is negative; give a mean loss, such as 0.3")

    @property
    def strength(self) -> float:
        """kappa in use: an exponent above 1 would turn pow round, so it stays at 1."""
        return min(self.kappa, 1.0) if self.kind == "pow" else self.kappa

    @property
    def doubt(self) -> float:
        """Loss from which a pixel is damped."""
        return POW_PIVOT if self.kind == "pow" else self.kappa

    def parameters(self) -> dict[str, Any]:
        """Return the setting under the names of `pmm.run.params.Params`."""
        pus, variant = KINDS[self.kind]
        return {"pus": pus, "pus_variant": variant, "kappa": self.strength, "beta": self.beta}


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """What does not depend on the sliders: a trained model's loss against its pseudo-mask."""

    pseudo_mask: np.ndarray
    """(H, W) uint8, what the model learned from."""
    loss: np.ndarray
    """(H, W) float32 >= 0, 0 where the mask is 255."""


def model_output(experiment: Any, sample: Sample, checkpoint: str, name: str = "pus") -> ModelOutput:
    """Return the loss map of a trained segmenter on a scene; remembered for each scene and checkpoint.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        sample: one of its training scenes.
        checkpoint: "early" or "late".
        name: which segmenter.

    Raises:
        InputError: it is not trained, or the early weights were not kept.
    """
    masks = experiment.params.seg_masks
    check_segmenter_exists(experiment, name)

    def make() -> ModelOutput:
        """Run the model on the scene."""
        early = checkpoint == "early"
        if early and not (experiment.run.recorded(f"segmenter/{name}").folder / EARLY).exists():
            raise InputError(
                f"checkpoint = early: segmenter {name} kept no early weights ({EARLY}); choose late, or train it anew"
            )
        loss = experiment.loss_map(name, sample.id, masks, early=early)
        return ModelOutput(experiment.pseudo_mask(masks, sample.id), loss)

    return sample.remember("model", (name, checkpoint), make)


def check_segmenter_exists(experiment: Any, name: str = "pus") -> None:
    """Check that a segmenter of the run is trained; the explorer never trains.

    Raises:
        InputError: it is not; names the command that trains it.
    """
    if experiment.run.recorded(f"segmenter/{name}") is None:
        raise InputError(
            f"{experiment.run.path}: segmenter {name} is not trained; train it first: make demo, "
            "or pmm run PARAMS.yaml --only 05"
        )
