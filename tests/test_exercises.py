"""The lessons around the code: heads, common mistakes, exercises whose solutions hold, a glossary that is complete.

A solution that begins with an import is run here by itself. All others go on from their notebook's cells: the slow
test of `test_notebooks` runs them after the notebook, with `with_solutions`.
"""

import re

import nbformat
import pytest

from pmm.run.folder import project_root

NOTEBOOKS = sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
HEAD = ("You learn", "Prerequisites", "Minutes", "Words", "Writes", "Next")
NOT_TECHNICAL = {"CPU", "GPU", "GPL", "ICLR", "NOTICE", "README", "RGB", "YAML"}
BY_FORMULA = {"TP", "FP", "FN"}  # notebook 01 explains them beside the formula of IoU, and nothing else uses them

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def markdown(path):
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def part(text, heading):
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def solutions(path):
    """Return the code blocks of the folded solutions, in order."""
    folded = re.findall(r"<details><summary>Solution</summary>(.*?)</details>", part(markdown(path), "Exercises"), re.S)
    return [block for text in folded for block in re.findall(r"```python\n(.*?)```", text, re.S)]


def stands_alone(block):
    return block.startswith(("import ", "from "))


def with_solutions(path):
    """Return the notebook with the solutions as further cells at its end."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells += [nbformat.v4.new_code_cell(block) for block in solutions(path)]
    return notebook


ALONE = [
    pytest.param(block, id=f"{path.stem}-{number}")
    for path in NOTEBOOKS
    for number, block in enumerate(solutions(path), 1)
    if stands_alone(block)
]


@pytest.mark.parametrize("block", ALONE)
def test_a_solution_that_stands_alone_proves_its_numbers(block):
    assert "assert " in block
    exec(compile(block, "<solution>", "exec"), {})


@each_notebook
def test_every_solution_parses(path):
    blocks = solutions(path)
    assert blocks and all(compile(block, path.name, "exec") for block in blocks)


@each_notebook
def test_the_head_is_complete(path):
    head = markdown(path).split("\n\n")[1]
    rows = dict(re.findall(r"^\| \*\*(.+?)\*\* \| (.+) \|$", head, flags=re.MULTILINE))
    assert tuple(rows) == HEAD
    assert re.match(r"about \d+ to ", rows["Minutes"]) and "computing" in rows["Minutes"]
    assert "#Glossary)" in rows["Words"]


@each_notebook
def test_three_to_five_exercises_from_predicting_to_changing_one_line(path):
    exercises = part(markdown(path), "Exercises")
    numbers = [int(n) for n in re.findall(r"^\*\*(\d+)(?:\.\*\*| · )", exercises, flags=re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1)) and 3 <= len(numbers) <= 5
    assert exercises.count("<details><summary>Solution</summary>") == exercises.count("</details>") == len(numbers)
    assert "**1 · Predict before you " in exercises and f"**{len(numbers)} · Change one line.**" in exercises


@each_notebook
def test_common_mistakes_are_listed(path):
    assert part(markdown(path), "Common mistakes").count("\n- **") >= 4


@pytest.mark.parametrize(
    ("stem", "mistake"),
    [("01", "255"), ("02", "One minimum and maximum for all"), ("03", "below $t$"), ("04", "Alpha turned the wrong")],
)
def test_the_usual_mistakes_stand_where_they_are_made_and_before_the_sliders(stem, mistake):
    (path,) = (p for p in NOTEBOOKS if p.stem.startswith(stem))
    assert mistake in part(markdown(path), "Common mistakes")
    last = part(markdown(NOTEBOOKS[-1]), "Common mistakes")
    assert all(word in last for word in ("255", "not over all", "below $t$", "Alpha turned the wrong"))


# --- the glossary


def glossary():
    rows = re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \| (.+?) \|$", part(markdown(NOTEBOOKS[-1]), "Glossary"), flags=re.M)
    return {word: (meaning, places.split(", ")) for word, meaning, places in rows}


def test_the_glossary_is_sorted_and_points_to_notebooks():
    words = list(glossary())
    assert words == sorted(words, key=lambda word: re.sub("[-_]", "", word.lower())) and len(words) > 60
    stems = {path.stem[:2] for path in NOTEBOOKS}
    assert {place for _, places in glossary().values() for place in places} <= stems


def test_every_abbreviation_is_in_the_glossary():
    explained = " ".join(f"{word} {meaning}" for word, (meaning, _) in glossary().items())
    text = "\n".join(re.sub(r"`[^`]*`|```.*?```|\]\([^)]*\)", "", markdown(path), flags=re.S) for path in NOTEBOOKS)
    used = {word.removesuffix("s") for word in re.findall(r"\b[A-Z][A-Z]+s?\b", text)}
    assert {w for w in used - NOT_TECHNICAL - BY_FORMULA if not re.search(rf"\b{w}\b", explained)} == set()


def test_every_word_of_the_glossary_is_used_where_it_says():
    texts = {}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.id != "nb08-glossary").lower()
        texts[path.stem[:2]] = text + text.replace("_", " ")
    spelled = {word: word.lower().split(", ") for word in glossary()}
    places = [(word, place) for word, (_, found) in glossary().items() for place in found]
    assert [(w, place) for w, place in places if not any(name in texts[place] for name in spelled[w])] == []
