"""Every public function and class of the method has an example in its docstring, and each prints what it says."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import pmm
import pmm.method

MODULES = [importlib.import_module(f"pmm.method.{found.name}") for found in pkgutil.iter_modules(pmm.method.__path__)]
PUBLIC = [
    value
    for module in MODULES
    for name, value in vars(module).items()
    if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__ and hasattr(value, "__name__")
]


def run(documented) -> doctest.TestResults:
    """Run the examples of one docstring, in the namespace of its module."""
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    names = vars(inspect.getmodule(documented))
    for test in doctest.DocTestFinder(recurse=False).find(documented, globs={**names}):
        runner.run(test)
    return runner.summarize(verbose=False)


@pytest.mark.parametrize("documented", PUBLIC, ids=lambda v: f"{v.__module__.rpartition('.')[2]}.{v.__name__}")
def test_examples(documented):
    results = run(documented)
    assert results.attempted, "give it an example"
    assert not results.failed


def test_the_front_doors_example():
    assert run(pmm).attempted == 3 and not run(pmm).failed


def test_there_are_examples_of_all_rooms_of_the_paper():
    assert {v.__module__ for v in PUBLIC} == {module.__name__ for module in MODULES}
    assert len(PUBLIC) > 30
