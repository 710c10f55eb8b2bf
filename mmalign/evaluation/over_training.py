"""The same few prompts answered again and again while a model trains, from the same seeds: kept in the run
folder as evaluation/grid/step-NNNNNN.json with small pictures beside it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mmalign.evaluation import _files
from mmalign.types import Part, UserError

LONGEST = 192
"""Longest side of a kept picture, in pixels."""
_OURS = re.compile(r"\.?step-(\d{6,})(\.json|-\d{2,}\.png)(\.tmp)?")


@dataclass(frozen=True)
class Snapshot:
    """What the model of one step answered: ids and words of the prompts, and an answer to each."""

    step: int
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    answers: tuple[Part, ...]


def keep(folder: Path, snapshot: Snapshot) -> None:
    """Write a snapshot into a run folder; its JSON file appears last, whole, in place of an older one.

    Raises UserError for an answer that is neither text nor a picture.
    """
    place = folder / "evaluation" / "grid"
    place.mkdir(parents=True, exist_ok=True)
    stem, rows = f"step-{snapshot.step:06d}", []
    for number, (name, text, answer) in enumerate(
        zip(snapshot.ids, snapshot.texts, snapshot.answers, strict=True)
    ):
        row: dict[str, Any] = {"id": name, "text": text}
        if answer.kind == "image" and _files.is_picture(answer.data):
            row["file"] = f"{stem}-{number:02d}.png"
            small = answer.data.convert("RGB")
            small.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
            small.info.clear()
            small.save(place / row["file"], format="PNG")
        elif answer.kind == "text" and isinstance(answer.data, str):
            row["answer"] = answer.data
        else:
            raise UserError(f"evaluation.grid: text and pictures can be kept, got {answer.kind}")
        rows.append(row)
    fresh = place / f".{stem}.json.tmp"
    text = json.dumps({"step": snapshot.step, "rows": rows}, indent=1)
    fresh.write_text(text + "\n", encoding="ascii")
    os.replace(fresh, place / f"{stem}.json")


def forget(folder: Path, after: int) -> None:
    """Remove snapshots of steps after `after`: those of a run that goes on from there."""
    place = folder / "evaluation" / "grid"
    for path in place.iterdir() if place.is_dir() else ():
        ours = _OURS.fullmatch(path.name)
        if ours and int(ours[1]) > after:
            path.unlink()


def read(folder: Path) -> list[Snapshot]:
    """Every snapshot of a run folder by step; UserError naming the file if one is not what it should be."""
    place = folder / "evaluation" / "grid"
    found = []
    for path in sorted(place.glob("step-*.json")) if place.is_dir() else ():
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            rows = [(str(row["id"]), str(row["text"]), _answer(row, place)) for row in tree["rows"]]
            ids, texts, answers = zip(*rows, strict=True) if rows else ((), (), ())
            found.append(Snapshot(int(tree["step"]), ids, texts, answers))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise UserError(f"{path}: not answers over training ({problem}); remove that file") from error
    return sorted(found, key=lambda snapshot: snapshot.step)


def _answer(row: dict[str, Any], place: Path) -> Part:
    if "answer" in row:
        return Part("text", str(row["answer"]))
    if not _OURS.fullmatch(row["file"]):
        raise ValueError(f"{row['file']!r} is not a picture of ours")
    with Image.open(place / row["file"], formats=["PNG"]) as picture:
        return Part("image", picture.convert("RGB"))
