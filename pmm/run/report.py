"""The report of a run: one self-contained HTML page, and the executed notebooks as HTML beside it."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import pmm
from pmm.errors import InputError
from pmm.files import read_json, write_text
from pmm.run.folder import RunFolder
from pmm.run.pages import Page, export_notebooks, templates
from pmm.run.params import Params

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

    The page stands alone: figures are embedded, nothing is loaded from elsewhere. Each section of
    metrics.json becomes a table, see `table`; sections appear in the order of their names.

    Args:
        run: the run's folder.
        pages: notebooks just exported, by name; the others are exported now.

    Returns:
        Path of the report.

    Raises:
        InputError: the folder is no run, or one of its JSON files is damaged.
    """
    if not (run.path / "params.yaml").is_file():
        raise InputError(f"{run.path}: no params.yaml in it, so this is no run; name one such as runs/demo")
    settings = _read_settings(run.path / "params.yaml")
    manifest = run.manifest()
    notebooks = export_notebooks(run, pages)
    template = templates().get_template("report.html.j2")
    page = template.render(
        run_name=run.path.name,
        facts=describe(settings),
        tables=[table(section) for _, section in sorted(run.metrics().items())],
        chapters=chapters(run, notebooks),
        notebooks=notebooks,
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
    scenes = get("dataset") == "scenes"
    train = f"{get('train_split')}, {get('n_train')} scenes" if scenes else get("train_split")
    val = f"{get('val_split')}, {get('n_val')} scenes" if scenes else get("val_split") or "none"
    return {
        "Data set": " ".join(filter(None, [DATASETS.get(get("dataset"), str(get("dataset"))), str(get("data_dir"))])),
        "Training split": f"{train}; image-level labels only",
        "Validation split": val,
        "Pseudo-masks": MASKS.get(get("seg_masks"), str(get("seg_masks"))),
        "Variant of the method": VARIANTS.get(get("variant"), str(get("variant"))),
        "CRF on the predictions": "yes" if get("seg_crf") else "no",
        "Networks": f"{get('backbone')}; decoder {get('seg_architecture')}",
        "Under-fitting strategy": f"{get('pus')}, beta {get('beta')}, kappa {get('kappa')}",
        "Seed": str(get("seed")),
    }


def table(section: Mapping[str, Any]) -> dict[str, Any]:
    """Prepare one section of metrics.json for the page.

    The rule of all tables: a float is a fraction of 0..1 and is shown as per cent with one decimal (mIoU,
    IoU, accuracy, shares, their spreads); an integer is a count; None is a dash; anything else, a setting
    such as "s = 0.3" too, is recorded as text and shown as it is.

    Args:
        section: title, data, columns, rows, note, per_class; per_class holds columns and rows, or maps row
            name -> class name -> IoU. A section without columns and rows is listed name by name.

    Returns:
        title, data, note, and columns and rows of shown text; classes likewise, or None.
    """
    if "columns" not in section or "rows" not in section:
        flat = _flatten({k: v for k, v in section.items() if k not in ("title", "data", "note")})
        columns, rows = ["what", "value"], [list(item) for item in flat.items()]
    else:
        columns, rows = section["columns"], [[shown(cell) for cell in row] for row in section["rows"]]
    per_class = section.get("per_class")
    return {
        "title": section.get("title", "Numbers"),
        "data": section.get("data", ""),
        "note": section.get("note", ""),
        "columns": columns,
        "rows": rows,
        "classes": _class_table(per_class) if per_class else None,
    }


def _class_table(per_class: Mapping[str, Any]) -> dict[str, Any]:
    if "columns" in per_class:
        columns, rows = per_class["columns"], per_class["rows"]
    else:
        names = list(dict.fromkeys(name for scores in per_class.values() for name in scores))
        columns = ["class", *per_class]
        rows = [[name, *(scores.get(name) for scores in per_class.values())] for name in names]
    return {"columns": columns, "rows": [[shown(cell) for cell in row] for row in rows]}


def shown(value: Any) -> str:
    """Return a number or text as tables show it; see `table`."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{100 * value:.1f} %" if isinstance(value, float) else str(value)


def chapters(run: RunFolder, notebooks: Sequence[Page]) -> list[dict[str, Any]]:
    """Group the figures by the notebook that drew them, in the order in which they were drawn.

    Args:
        run: the run's folder; `figures/captions.json` maps a name to caption, alt, notebook and file.
        notebooks: the executed notebooks' pages.

    Returns:
        For each notebook with figures: title and figures (source, width, height, alt, caption).
    """
    captions = read_json(run.path / "figures" / "captions.json")
    titles = {page.name[:2]: page.title for page in notebooks}
    grouped: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((run.path / "figures").glob("*.png"), key=lambda p: (p.stat().st_mtime_ns, p.name)):
        entry = captions.get(path.stem) or captions.get(path.name) or {}
        words = path.stem.replace("_", " ")
        figure = {"alt": entry.get("alt", words), "caption": entry.get("caption", words), **_embed(path)}
        grouped.setdefault(str(entry.get("notebook", path.stem))[:2], []).append(figure)
    return [{"title": titles.get(k, f"Notebook {k}"), "figures": v} for k, v in sorted(grouped.items())]


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
            flat[prefix + str(name)] = shown(value)
    return flat
