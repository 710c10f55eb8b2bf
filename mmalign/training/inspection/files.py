"""What was found, in a folder: report.json, and the first samples as texts and pictures."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmalign.training.inspection._samples import ResponseView
from mmalign.training.inspection._text import response_lines
from mmalign.training.inspection.check import Inspection
from mmalign.types import UserError

FORMAT = 1


def refuse_taken(folder: Path) -> None:
    """Raise UserError unless the folder is absent or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        raise UserError(f"check --output: {folder} {what}; choose a new folder")


def write(found: Inspection, folder: Path) -> None:
    """Write report.json, and for every response of sample N `sample-N/<role>-<slot>.txt` and its pictures.

    Raises UserError if the folder holds anything.
    """
    refuse_taken(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tree: dict[str, Any] = {"format": FORMAT, **_plain(found)}
    tree["samples"] = []
    for number, sample in enumerate(found.samples):
        place = folder / f"sample-{number}"
        place.mkdir()
        responses = [_write_response(place, one) for one in sample.responses]
        tree["samples"].append(
            {"id": sample.id, "origin": sample.origin, "weight": sample.weight}
            | {"labels": {name: _jsonable(value) for name, value in sample.labels.items()}}
            | {"responses": responses}
        )
    text = json.dumps(tree, indent=1, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="ascii")


def _plain(found: Inspection) -> dict[str, Any]:
    names = [one.name for one in dataclasses.fields(found) if one.name != "samples"]
    return {name: _jsonable(getattr(found, name)) for name in names}


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {one.name: _jsonable(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _jsonable(inner) for name, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return [_jsonable(one) for one in value] if isinstance(value, (list, tuple)) else value


def _write_response(place: Path, one: ResponseView) -> dict[str, Any]:
    stem = f"{re.sub(r'[^A-Za-z0-9_-]', '_', one.role)}-{one.slot}"
    lines = "\n".join(response_lines(one)) + "\n"
    (place / f"{stem}.txt").write_text(lines, encoding="utf-8", errors="backslashreplace")
    files = []
    for name, picture in one.pictures.items():
        files.append(f"{place.name}/{stem}-{name}.png")
        picture.save(place / f"{stem}-{name}.png", format="PNG")
    kept = {"role": one.role, "slot": one.slot, "text": one.text, "scored": one.scored}
    return kept | {"tokens": dict(one.counts), "media": list(one.media), "pictures": files}
