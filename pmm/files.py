"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pmm.errors import InputError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write; it replaces `path` when the block ends well, and vanishes when it does not.

    The bytes go into a neighbour in the same folder, so that the rename is one step; its name is different for each
    writer, so that several threads and processes may write. The folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is never half there."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def plain_file(path: Path) -> Path:
    """Return the path of a file, or of nothing; InputError for a pipe or a device, which may have no end."""
    if not path.is_file() and os.path.lexists(path):
        raise InputError(f"{path}: found a folder, a pipe, a device or a broken link; put a file there")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing file is an empty one.

    Raises:
        InputError: the file is there but is no JSON object.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found no JSON object; delete the file, the run writes it anew")
    return content


def without_nan(content: Any) -> Any:
    """Return nested dicts and lists with None for every NaN, which JSON does not know."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
