"""A comparison on the disk: evaluation/results.json, and one PNG per picture beside it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mmalign.types import Part, UserError

FORMAT = 1
_OURS = re.compile(r"(base|tuned|prompt)-\d{3,}(-\d+)?\.png")
_FIELDS = {"id", "text", "media", "base", "tuned", "base_scores", "tuned_scores"}


@dataclasses.dataclass(frozen=True)
class Read:
    """What results.json holds, checked field by field; parts are decoded. `step` is None, and `judges`
    empty, in files without them."""

    seed: int
    step: int | None
    rows: list[dict[str, Any]]
    costs: tuple[str, ...]
    judges: list[dict[str, Any]]


def is_picture(data: Any) -> bool:
    """True for a decoded PIL picture."""
    return isinstance(data, Image.Image)


def write(
    folder: Path, rows: Sequence[Any], origin: Mapping[str, int | None], figures: Mapping[str, Any]
) -> Path:
    """Write rows (dataclasses with the fields of `_FIELDS`), their origin (seed and step) and figures; the
    JSON file appears last, whole.

    Raises UserError for a response that is neither text nor a PIL picture, before anything is written.
    """
    place = folder / "evaluation"
    listed = [_plain_row(row, number) for number, row in enumerate(rows)]
    tree = {"format": FORMAT, **origin, **{k: _plain(v) for k, v in figures.items()}, "rows": listed}
    place.mkdir(parents=True, exist_ok=True)
    target, fresh = place / "results.json", place / ".results.json.tmp"
    target.unlink(missing_ok=True)  # from here on the folder holds no comparison until the new one is whole
    for old in place.iterdir():
        if _OURS.fullmatch(old.name):
            old.unlink()
    for number, row in enumerate(rows):
        for name, part in _pictures_of(row, number):
            part.data.convert("RGB").save(place / name, format="PNG")
    fresh.write_text(json.dumps(tree, indent=1, allow_nan=False) + "\n", encoding="ascii")
    os.replace(fresh, target)
    return target


def read(path: Path) -> Read:
    """Read a comparison back.

    Raises OSError, ValueError, KeyError, TypeError or AttributeError for anything else. Only pictures of our
    own names in the same folder are opened.
    """
    tree = json.loads(path.read_text(encoding="utf-8"))
    if tree["format"] != FORMAT:
        raise ValueError(f"its format is {tree['format']!r}, this version reads {FORMAT}")
    rows = [_read_row(row, number, path.parent) for number, row in enumerate(tree["rows"])]
    step = tree.get("step")
    costs = tuple(str(name) for name in tree.get("costs", []))
    judges = [_read_judge(judge) for judge in tree.get("judges", [])]
    return Read(int(tree["seed"]), None if step is None else int(step), rows, costs, judges)


def _read_judge(tree: dict[str, Any]) -> dict[str, Any]:
    words = {name: tree[name] for name in ("name", "words", "prefix")}
    if not all(isinstance(value, str) for value in words.values()):
        raise ValueError("a judge's name and words must be strings")
    return {**words, "unchecked": bool(tree["unchecked"]), "verbal": bool(tree.get("verbal"))}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def _plain_row(row: Any, number: int) -> dict[str, Any]:
    return {
        "id": row.id,
        "text": row.text,
        "media": [_plain_part(p, f"prompt-{number:03d}-{i}.png", row.id) for i, p in enumerate(row.media)],
        "base": _plain_part(row.base, f"base-{number:03d}.png", row.id),
        "tuned": _plain_part(row.tuned, f"tuned-{number:03d}.png", row.id),
        "base_scores": dict(row.base_scores),
        "tuned_scores": dict(row.tuned_scores),
        "groups": {kind: list(listed) for kind, listed in row.groups.items()},
    }


def _plain_part(part: Part, name: str, where: str) -> dict[str, str]:
    if part.kind == "text" and isinstance(part.data, str):
        return {"kind": "text", "text": part.data}
    if part.kind == "image" and is_picture(part.data):
        return {"kind": "image", "file": name}
    raise UserError(
        f"evaluation: prompt {where!r}: text and pictures can be kept, got {part.kind} as "
        f"{type(part.data).__name__}"
    )


def _pictures_of(row: Any, number: int) -> list[tuple[str, Part]]:
    listed = [(f"prompt-{number:03d}-{i}.png", part) for i, part in enumerate(row.media)]
    listed += [(f"base-{number:03d}.png", row.base), (f"tuned-{number:03d}.png", row.tuned)]
    return [(name, part) for name, part in listed if part.kind == "image"]


def _read_row(tree: dict[str, Any], number: int, place: Path) -> dict[str, Any]:
    if tree.keys() - {"groups"} != _FIELDS:
        raise ValueError(f"row {number}: its fields are {sorted(tree)}")
    row = {name: tree[name] for name in ("id", "text")}
    if not all(isinstance(value, str) for value in row.values()):
        raise ValueError(f"row {number}: id and text must be strings")
    for name in ("base", "tuned"):
        row[name] = _read_part(tree[name], number, place)
        row[f"{name}_scores"] = _read_scores(tree[f"{name}_scores"], number)
    row["groups"] = {
        str(kind): tuple(str(group) for group in listed) for kind, listed in tree.get("groups", {}).items()
    }
    row["media"] = tuple(_read_part(part, number, place) for part in tree["media"])
    return row


def _read_scores(tree: dict[str, Any], number: int) -> dict[str, float]:
    scores = {str(name): float(value) for name, value in tree.items()}
    if not all(math.isfinite(value) for value in scores.values()):
        raise ValueError(f"row {number}: scores must be finite")
    return scores


def _read_part(tree: dict[str, Any], number: int, place: Path) -> Part:
    if tree["kind"] == "text":
        if not isinstance(tree["text"], str):
            raise ValueError(f"row {number}: a text must be a string")
        return Part("text", tree["text"])
    name = tree["file"]
    if tree["kind"] != "image" or not _OURS.fullmatch(name):
        raise ValueError(f"row {number}: {tree['kind']!r} with file {name!r} is not a picture of ours")
    with Image.open(place / name, formats=["PNG"]) as picture:
        return Part("image", picture.convert("RGB"))
