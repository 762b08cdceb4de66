"""pyproject.toml, environment.yml, Makefile and the package agree with each other; the wheel works by itself."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import packages_distributions

import pytest
import yaml

from pmm.run.folder import project_root

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = project_root()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
OPTIONAL = PROJECT["optional-dependencies"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
OPTIONAL_IMPORTS = {
    "accelerate",
    "distributed",
    "onnxruntime",
    "pycocotools",
}  # imported where needed, with a message of its own


def normal(name):
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


@pytest.fixture(scope="module")
def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def test_the_conda_environment_installs_what_pyproject_asks_for(environment):
    *conda, pip = environment["dependencies"]
    wanted = PROJECT["dependencies"] + [name for extra in OPTIONAL.values() for name in extra]
    assert sorted(pip["pip"]) == sorted([*wanted, "-e ."])
    assert environment["name"] == PROJECT["name"] == "pmm"
    assert {re.split("[=<>]", name)[0] for name in conda} == {"python", "cxx-compiler", "make", "pip"}


def test_python_versions_agree(environment):
    supported = re.search(r"^PYTHON_VERSIONS := (.+)$", MAKEFILE, flags=re.MULTILINE)[1].split()
    python = next(n for n in environment["dependencies"] if str(n).startswith("python="))
    assert python.partition("=")[2] in supported
    assert PROJECT["requires-python"] == f">={supported[0]}"


def test_make_installs_extras_that_exist():
    needed, reference = re.findall(r'-e "\.\[(.+)\]"', MAKEFILE)
    assert {*needed.split(","), reference} == set(OPTIONAL)


def test_every_import_of_the_package_is_declared():
    owners = packages_distributions()
    declared = {normal(name) for name in PROJECT["dependencies"]}
    for path in sorted((ROOT / "pmm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {name.partition(".")[0] for name in names} - {"pmm"} - OPTIONAL_IMPORTS:
                if top not in sys.stdlib_module_names:
                    found = {normal(owner) for owner in owners.get(top, [])}
                    assert found & (declared | IMPLIED), f"{path.name}: add {top} to pyproject.toml"


IMPLIED = {"ipython", "jupyter-client", "jupyter-core", "llvmlite", "markupsafe", "pyzmq", "safetensors", "scipy"}
"""What ipykernel, jinja2 (markupsafe), numba (llvmlite), timm (safetensors) and scikit-learn (scipy) bring along."""


def test_every_package_folder_and_data_file_is_shipped():
    folders = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "pmm").rglob("*.py")}
    setuptools = pytest.importorskip("setuptools")
    found = set(setuptools.find_namespace_packages(str(ROOT), **PYPROJECT["tool"]["setuptools"]["packages"]["find"]))
    assert folders <= found and all(name.partition(".")[0] == "pmm" for name in found)
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["pmm"]
    shipped = {path for pattern in patterns for path in (ROOT / "pmm").glob(pattern) if path.is_file()}
    others = {p for p in (ROOT / "pmm").rglob("*") if p.is_file() and p.suffix != ".py"}
    others = {p for p in others if "__pycache__" not in p.parts}
    assert others == shipped


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy, since a build leaves folders beside its sources."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "pmm", source / "pmm", ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir", target)
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], check=True)
    return next(target.glob("pmm-*.whl"))


def test_the_wheel_holds_the_whole_package(wheel):
    source = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pmm").rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("pmm/")}
    assert packed == {name for name in source if "__pycache__" not in name}


USE = """
import sys
import numpy as np
import pmm
assert pmm.__file__.startswith(sys.prefix), pmm.__file__
image, cam = np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4), np.float32)
image[:, 2:], cam[0, :, 2:] = 255, 0.9
print(pmm.ppmg(image, cam, [12], s=0.3, alpha=11, t=0.05)[0], "torch" in sys.modules)
from pmm.data.scenes import compose_scene
print(compose_scene("val", 0, width=64, height=48).image.shape)
"""


def test_the_wheel_works_in_an_empty_environment_and_another_folder(wheel, tmp_path):
    venv.create(tmp_path / "environment")
    python = tmp_path / "environment" / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = ("--no-deps", "--no-index", "--quiet", wheel)
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", *install], check=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.check_output([python, "-c", where], text=True)
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}  # dependencies, not an editable pmm
    (tmp_path / packages.strip() / "dependencies.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    clean |= {"NUMBA_DISABLE_JIT": "1"}  # compiling takes longer than a mask of 16 pixels
    result = subprocess.run([python, "-c", USE], cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert result.stdout.splitlines() == ["[ 0  0 12 12] False", "(48, 64, 3)"], result.stderr
    usage = subprocess.check_output([python.with_name("pmm"), "--help"], cwd=tmp_path, env=clean, text=True)
    assert "Usage: pmm" in usage


def test_make_help_lists_every_target():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.search(r"^\.PHONY: (.+)$", MAKEFILE, flags=re.MULTILINE)[1].split()
    assert re.findall(r"^  make ([a-z-]+) ", shown, flags=re.MULTILINE) == targets


@pytest.mark.parametrize(
    ("python", "expected"),
    [("/nowhere/python", "/nowhere/python not found"), ("./fake", "./fake is Python 3.8, this needs")],
)
def test_make_names_an_unusable_python(tmp_path, python, expected):
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "fake").write_text("#!/bin/sh\necho 3.8\n")
    (tmp_path / "fake").chmod(0o755)
    command = ["make", "test", f"PYTHON={python}"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode != 0 and f"make: {expected}" in result.stderr
    assert not (tmp_path / ".venv").exists()
