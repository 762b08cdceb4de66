"""Pseudo-mask Matters in Weakly-supervised Semantic Segmentation (Li et al., ICCV 2021), reproduced step by step.

From image-level labels to a segmentation model: a classifier's class activation maps (CAMs) become pseudo-masks, on
which a segmentation model is trained. X is a CAM, one channel for each class present in the image I; L is the
per-pixel loss of the segmentation model. `import pmm` offers the paper, arrays in, arrays out:

    eq. 1     X(n) = (X - min X) / (max X - min X)                          normalize_cam
    eq. 2     bg = (1 - max_c X(n)) ** alpha                                background_score
    eq. 3-4   Y = argmax( crf(I, concat(bg, X(n))) )                        crf_pseudo_mask, DenseCRF, CRFSettings
    eq. 5     c_v = sqrt(D(X(f))) / E(X(f)),  X(f) = {x in X(n), x > t}     coefficient_of_variation
    eq. 6     X(s) = X(n) ** (1 - s * c_v)                                  smooth_cam
    eq. 8     p = X(n) / sum(X(n) * X(m))                                   proportion
    Alg. 1    Y = argmax( X(m) * p ),  X(m) = fg(crf(I, [bg(X(s)), X(s)]))  ppmg, ppmg_steps
    eq. 10    mean(L) if mean(L) >= beta else mean(pus(L))                  PretendedUnderfittingLoss
    eq. 11    pus(L) = L * (kappa / L)   where L >= kappa, else L           pus_clamp
    eq. 12    pus(L) = L ** kappa                                           pus_pow
    eq. 13    pus(L) = L   where L < kappa, else 0                          pus_ignore
    sec. 2.5  the trained model's prediction as the next pseudo-mask        cyclic_pseudo_mask
    baseline  argmax(concat(threshold, X(n)))                               threshold_pseudo_mask
    your own  X(n) of what torch-cam or grad-cam return                     cam_of_layers

Each is imported when it is first used: masks need neither torch nor matplotlib, the losses need torch.
`pmm.densecrf` is the dense CRF under the names of pydensecrf, for programs that import that.

Examples:
    >>> import numpy as np, pmm
    >>> image, scores = np.zeros((2, 3, 3), np.uint8), np.array([[[-1.0, 0.0, 9.0], [-1.0, 5.0, 9.0]]])
    >>> pmm.ppmg(image, pmm.normalize_cam(scores), [12], s=0.3, alpha=2, t=0.05).dtype
    dtype('uint8')
"""

import os
from importlib import import_module

__version__ = "0.1.0"

# OpenMP, which torch computes with, reads this once, when it is loaded: its idle threads sleep instead of spinning.
# Spinning costs several times a step's time where anything else runs; a user's own setting wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "cam": ("cam_of_layers", "normalize_cam"),
    "smoothing": ("coefficient_of_variation", "smooth_cam"),
    "crf": ("CRFSettings", "DenseCRF"),
    "pseudo_mask": (
        *("background_score", "crf_pseudo_mask", "cyclic_pseudo_mask", "ppmg", "ppmg_steps", "proportion"),
        "threshold_pseudo_mask",
    ),
    "losses": ("PretendedUnderfittingLoss", "pus_clamp", "pus_ignore", "pus_pow"),
}
_HOME_OF = {name: f"pmm.method.{module}" for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> object:
    """Import a name of the method when it is first used (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
