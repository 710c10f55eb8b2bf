"""Media that questions show and that are not there: told before any of them is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from mmalign.data._paths import File, folder_of, locate
from mmalign.metrics._seam import Metric, Question
from mmalign.types import UserError


def refuse_absent_folders(metric: Metric, name: str, questions: Sequence[Question]) -> None:
    """Raise UserError, naming the field, for a folder of media that is not there."""
    for folder in dict.fromkeys(file.root for file in _shown(questions)):
        if not Path(folder).is_dir():
            raise UserError(f"{'.'.join([name, *_fields(metric, folder)])}: there is no folder {folder}")


def refuse_absent_files(metric: Metric, name: str, questions: Sequence[Question]) -> None:
    """Raise UserError for files that are not there, with their number, the first of them and the question
    that shows it."""
    shown = _shown(questions)
    absent = [(file, why) for file in shown if (why := _against(file)) is not None]
    if not absent:
        return
    first, why = absent[0]
    field = " ".join([*_fields(metric, first.root), f"({first.root})"])
    many = f"{len(absent)} of {len(shown)} files cannot be had, the first for " if len(absent) > 1 else ""
    raise UserError(f"{name}: {many}question {shown[first]}: {why.replace('data.root', field)}")


def _shown(questions: Sequence[Question]) -> dict[File, str]:
    """Every file with the first question that shows it."""
    found: dict[File, str] = {}
    for one in questions:
        for part in (part for turn in one.turns for part in turn.parts):
            if isinstance(part.data, File):
                found.setdefault(part.data, one.id)
    return found


def _against(file: File) -> str | None:
    """Why there is neither a file nor a folder of frames."""
    if folder_of(file) is not None:
        return None
    try:
        locate(file)
    except UserError as error:
        return str(error)
    return None


def _fields(metric: Metric, folder: str) -> list[str]:
    """The metric's field that names a folder, if one does."""
    given = [(one.name, getattr(metric, one.name)) for one in fields(metric)]  # type: ignore[arg-type]
    return [
        field
        for field, value in given
        if isinstance(value, str) and str(Path(value).expanduser().resolve()) == folder
    ][:1]
