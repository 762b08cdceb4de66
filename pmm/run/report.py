"""The report of a run: one self-contained HTML page, and the executed notebooks as HTML beside it."""

from __future__ import annotations

import base64
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import pmm
from pmm.errors import InputError
from pmm.files import read_json, write_text
from pmm.run.folder import RunFolder
from pmm.run.params import Params

if TYPE_CHECKING:
    from pmm.run.pages import Page

STORY = "06_story"
HEADLINES = ("06_this_run", "05_pretended_underfitting", "04_pseudo_masks")
"""Sections of metrics.json that sum a run up; the report opens with the first that is there."""
READING_ORDER = ("04", "05", "06", "03", "02", "07", "99", "01")
"""Notebooks whose tables come first: what came out, why, what others published, what the data are."""
SHARE = re.compile(r"(?:^|[_ ])(?:m?iou|map|accuracy|precision|share)\b", re.IGNORECASE)
DATASETS = {
    "scenes": "sample scenes, composed; their numbers cannot be compared with VOC's or COCO's",
    "voc": "a data set in VOC's layout",
    "coco": "a data set in COCO's layout",
    "folder": "a folder of images with a table of labels",
}
VARIANTS = {"official": "as the released code", "paper": "as the paper's equations"}
MASKS = {
    "threshold": "thresholded CAMs, no CRF",
    "crf": "CAMs and one dense CRF over all classes (the joint baseline)",
    "ppmg_s0": "PPMG with a dense CRF for each class, without variation smoothing",
    "ppmg": "PPMG with a dense CRF for each class and variation smoothing",
}


def write_report(run: RunFolder, pages: Mapping[str, Page] | None = None) -> Path:
    """Write `report.html` and `notebooks/*.html` from what the run folder holds.

    The page stands alone: figures are embedded, nothing is loaded from elsewhere. It opens with the picture of all
    stages and the table that sums the run up; each further section of metrics.json becomes a table, see `table`.

    Args:
        run: the run's folder.
        pages: notebooks just exported, by name; the others are exported now.

    Returns:
        Path of the report.

    Raises:
        InputError: the folder is no run, or one of its JSON files is damaged.
    """
    from pmm.run.pages import (  # nbconvert takes a second, and tables need no page
        explorer_data,
        export_notebooks,
        templates,
        write_explorer,
    )

    if not (run.path / "params.yaml").is_file():
        raise InputError(f"{run.path}: no params.yaml in it, so this is no run; name one such as runs/demo")
    settings = _read_settings(run.path / "params.yaml")
    manifest = run.manifest()
    metrics = run.metrics()
    order = sorted(metrics, key=lambda name: ([*READING_ORDER, name[:2]].index(name[:2]), name))
    measured = [name for name in order if metrics[name].get("rows") != []]
    sections = {name: _checked_table(run, name, metrics[name]) for name in measured}
    headline = next((sections.pop(name) for name in HEADLINES if name in sections), None)
    notebooks = export_notebooks(run, pages)
    if (explorer := explorer_data(run)) is not None:
        write_explorer(explorer, run.path / "explorer.html", report=True)
    drawn = figures(run)
    template = templates().get_template("report.html.j2")
    page = template.render(
        run_name=run.path.name,
        story=drawn.pop(STORY, None),
        headline=headline,
        facts=describe(settings),
        tables=list(sections.values()),
        figures=list(drawn.values()),
        titles={page.name[:2]: page.title for page in notebooks},
        notebooks=notebooks,
        explorer=explorer is not None,
        settings=_settings_rows(settings),
        environment=_flatten(manifest.get("environment", {})),
        stages={name: f"{entry['seconds']:.1f}" for name, entry in manifest.get("stages", {}).items()},
        timings=manifest.get("notebooks", {}),
        version=pmm.__version__,
        written=time.strftime("%Y-%m-%d %H:%M"),
    )
    write_text(run.path / "report.html", page)
    return run.path / "report.html"


def describe(settings: Mapping[str, Any]) -> dict[str, str]:
    """Say in words what a run is: what a reader must know before any of its numbers."""
    get = {**Params().model_dump(), **settings}.get
    scenes, chosen = get("dataset") == "scenes", get("classes") or get("require_any")
    of = "chosen from " if chosen else ""
    train = f"{get('train_split')}, {of}{get('n_train')} scenes" if scenes else get("train_split")
    val = f"{get('val_split')}, {of}{get('n_val')} scenes" if scenes else get("val_split") or "none"
    judge = f"{get('judge_split')}, those that train" if get("judge_split") else "all training images that have a mask"
    data = " ".join(filter(None, [DATASETS.get(get("dataset"), str(get("dataset"))), str(get("data_dir"))]))
    rule = f"{', '.join(get('classes'))}; an image shows no other class" if get("classes") else "all"
    rule += f"; an image shows one of {', '.join(get('require_any'))}" if get("require_any") else ""
    return {
        "Data set": f"{get('data_name')}: {data}" if get("data_name") else data,
        **({"Classes of interest": rule} if chosen else {}),
        "Training split": f"{train}; image-level labels only",
        "Pseudo-masks are judged on": judge,
        "Validation split": val,
        **({"CAMs": f"of another project, {get('cam_dir')}"} if get("cam_dir") else {}),
        "Pseudo-masks": MASKS.get(get("seg_masks"), str(get("seg_masks"))),
        "Variant of the method": VARIANTS.get(get("variant"), str(get("variant"))),
        "CRF on the predictions": "yes" if get("seg_crf") else "no",
        "Networks": f"{get('backbone')}; decoder {get('seg_architecture')}",
        "Under-fitting strategy": f"{get('pus')}, beta {get('beta')}, kappa {get('kappa')}",
        "Seed": str(get("seed")),
    }


def _checked_table(run: RunFolder, name: str, section: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return table(section)
    except (KeyError, TypeError, AttributeError):
        wrong = f"{run.path / 'metrics.json'}: section {name} is damaged or of an older version"
        raise InputError(f"{wrong}; run its notebook again: pmm run ... --only {name[:2]}") from None


def table(section: Mapping[str, Any]) -> dict[str, Any]:
    """Prepare one section of metrics.json for the page.

    The rule of all tables: integers are counts, None is a dash, text is shown as it is. A float in a table is a
    share of 0..1 (mIoU, IoU, accuracy, their spreads) and is shown as per cent with one decimal, unless its column is
    named like a parameter. In a section without columns and rows, listed name by name, it is a share only if its name
    ends so: `val_map`, `miou`, `pixel accuracy`.

    Args:
        section: title, data, columns, rows, note, per_class; per_class holds columns, rows and note.

    Returns:
        title, data, note, and columns and rows of shown text; classes likewise, or None.
    """
    if "columns" in section and "rows" in section:
        numbers = _shown_table(section["columns"], section["rows"])
    else:
        flat = _flatten({k: v for k, v in section.items() if k not in ("title", "data", "note")})
        numbers = {"columns": ["what", "value"], "rows": [list(item) for item in flat.items()]}
    per_class = section.get("per_class")
    classes = per_class and _shown_table(per_class["columns"], per_class["rows"]) | {"note": per_class.get("note", "")}
    return {
        "title": section.get("title", "Numbers"),
        "data": section.get("data", ""),
        "note": section.get("note", ""),
        **numbers,
        "classes": classes,
    }


def _shown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    shares = [column not in Params.model_fields for column in columns]
    return {"columns": columns, "rows": [[shown(*cell) for cell in zip(row, shares, strict=True)] for row in rows]}


def shown(value: Any, share: bool = True) -> str:
    """Return a number or text as tables show it, see `table`; a float that is no `share` keeps its digits."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{100 * value:.1f} %" if share and isinstance(value, float) else str(value)


def figures(run: RunFolder) -> dict[str, dict[str, Any]]:
    """Return the figures of a run by name, in the order in which they were drawn.

    Args:
        run: the run's folder; `figures/captions.json` maps a name to caption, alt, notebook and file.

    Returns:
        For each figure notebook (two digits), source, width, height, alt, caption.
    """
    captions = read_json(run.path / "figures" / "captions.json")
    drawn = {}
    for path in sorted((run.path / "figures").glob("*.png"), key=lambda p: (p.stat().st_mtime_ns, p.name)):
        entry = captions.get(path.stem) or captions.get(path.name) or {}
        words = path.stem.replace("_", " ")
        notebook = str(entry.get("notebook", path.stem))[:2]
        told = {"notebook": notebook, "alt": entry.get("alt", words), "caption": entry.get("caption", words)}
        drawn[path.stem] = {**told, **_embed(path)}
    return drawn


def _embed(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    source = f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
    return {"source": source, "width": width, "height": height}


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        settings = None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: no list of parameters; delete the file and run again")
    return settings


def _settings_rows(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    defaults = Params().model_dump()
    rows = []
    for name, value in settings.items():
        field = Params.model_fields.get(name)
        text = "(empty)" if value == "" else str(value)
        changed = name not in defaults or value != defaults[name]
        rows.append({"name": name, "value": text, "meaning": field.description if field else "", "changed": changed})
    return rows


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name} ")
        else:
            flat[prefix + str(name)] = shown(value, share=bool(SHARE.search(f"{prefix}{name}")))
    return flat
