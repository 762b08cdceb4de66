"""`import pmm` offers the paper, and imports no more than what is used."""

import re
import subprocess
import sys

import pytest

import pmm

HEAVY = "torch, torchvision, timm, matplotlib, ipywidgets, pydantic"


def loaded(code: str, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=True)


def test_every_name_is_the_function_of_its_module():
    from pmm.method import cam, crf, losses, pseudo_mask, smoothing

    for name in pmm.__all__:
        homes = [module for module in (cam, crf, losses, pseudo_mask, smoothing) if name in vars(module)]
        assert getattr(pmm, name).__module__ in {module.__name__ for module in homes}
    assert set(pmm.__all__) <= set(dir(pmm)) and "__version__" in dir(pmm)


def test_the_table_in_the_docstring_names_everything_that_is_offered():
    table = pmm.__doc__.partition("Each is imported")[0]
    named = set(re.findall(r"\w+", "\n".join(line[76:] for line in table.splitlines() if line.startswith("    "))))
    assert named == set(pmm.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'pmm' has no attribute 'ppgm'"):
        pmm.ppgm  # noqa: B018


def test_a_mask_needs_no_torch():
    seen = loaded("import pmm; pmm.ppmg", "-X", "importtime").stderr
    assert "pmm.method.crf" in seen and not re.search(r"\|\s+(torch|matplotlib|numba)\b", seen)
    code = f"""
import sys
import numpy as np
import pmm
image, cam = np.zeros((4, 4, 3), np.uint8), pmm.normalize_cam(np.arange(16.0).reshape(1, 4, 4))
pmm.ppmg(image, pmm.smooth_cam(cam, 0.3, 0.05), [1], s=0.3, alpha=11, t=0.05)
pmm.crf_pseudo_mask(image, cam, [1], alpha=24, crf=pmm.DenseCRF(image, pmm.CRFSettings(gauss_compat=3)))
print(*[name for name in "{HEAVY}".split(", ") if name in sys.modules])
"""
    assert loaded(code).stdout.split() == []
    assert loaded("import sys, pmm; pmm.pus_clamp; print('torch' in sys.modules)").stdout.strip() == "True"
