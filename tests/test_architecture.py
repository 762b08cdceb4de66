"""The rooms of the package and the arrows between them, read from the imports: what DESIGN draws stays true."""

import ast
from collections import Counter
from pathlib import Path

import pytest

import pmm

PACKAGE = Path(pmm.__file__).parent
FOR_ALL = {"errors", "files", "processes", "threads"}
ARROWS = {
    "explore": {"figures", "studies", "run", "data", "networks", "method"},
    "figures": {"studies", "run", "data", "method"},
    "studies": {"run", "data", "method", "pmm"},
    "run": {"networks", "data", "method", "pmm"},
    "networks": {"method"},
    "data": {"method"},
    "method": set(),
    "cli": {"explore", "run", "pmm"},
    "densecrf": {"method"},  # pydensecrf's names
    "pmm": {"method"},  # the front door; `import pmm` elsewhere asks for the version
    "errors": set(),
    "files": set(),
    "threads": set(),
    "processes": set(),
    "__main__": {"cli"},
}
"""Room or file of the top level -> what it may import beside itself and what is for all."""
MODULES = {
    ".".join(("pmm", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def room(module: str) -> str:
    """pmm.run.stages.data -> run; the front door is pmm."""
    return module.removeprefix("pmm.").partition(".")[0]


def imports(module: str) -> set[str]:
    """Absolute names of the imported modules, whatever package they are of."""
    found = set()
    for node in ast.walk(TREES[module]):  # those inside functions and for type checkers, too
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: line {node.lineno}: write the whole name of what is imported"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) | ({node.module} if names - MODULES.keys() else set())
    return found


IMPORTS = {name: imports(name) for name in MODULES}
OWN = {name: {target for target in targets if target in MODULES} for name, targets in IMPORTS.items()}


def test_arrows_point_one_way():
    wrong = [
        f"{name} -> {target}"
        for name, targets in OWN.items()
        for target in sorted(targets)
        if room(target) not in ARROWS[room(name)] | FOR_ALL | {room(name)}
    ]
    assert not wrong, f"arrows that the table does not allow: {', '.join(wrong)}"


def test_the_table_names_every_place_and_no_other():
    assert set(ARROWS) == {room(name) for name in MODULES}


def test_no_circle_among_modules():
    left = dict(OWN)
    while free := [name for name, targets in left.items() if not (targets - {name}) & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these import each other in a circle, or import from one: {', '.join(left)}"


def test_the_method_imports_torch_in_the_losses_alone():
    with_torch = {name for name, targets in IMPORTS.items() if {target.split(".")[0] for target in targets} & {"torch"}}
    assert {name for name in with_torch if room(name) == "method"} == {"pmm.method.losses"}


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in ("method", "networks")])
def test_method_and_networks_know_no_parameters_object(name):
    words = {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(TREES[name])}
    texts = {node.value for node in ast.walk(TREES[name]) if isinstance(node, ast.Constant)}
    assert "Params" not in words | texts


def test_no_two_classes_share_a_name():
    own = [tree for name, tree in TREES.items() if name != "pmm.densecrf"]  # whose names are pydensecrf's
    classes = Counter(n.name for tree in own for n in ast.walk(tree) if isinstance(n, ast.ClassDef))
    assert not [name for name, count in classes.items() if count > 1]


def test_the_package_is_small():
    places = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(places) <= 15
    assert len(MODULES) <= 66
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values()) <= 16_299
