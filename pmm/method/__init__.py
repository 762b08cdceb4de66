"""The paper, one file an idea: arrays in, arrays out.

cam (eq. 1), smoothing (eq. 5, 6), crf with its engine lattice (eq. 3), pseudo_mask (eq. 2-4, 8, Algorithm 1,
section 2.5), losses (eq. 10-13), metrics and noise. `import pmm` offers what one calls.
"""

IGNORE_INDEX = 255
"""Mask value of a pixel whose class is unknown: it is not trained on and not evaluated."""
