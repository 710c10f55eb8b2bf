"""Questions of metrics answered by a model: in batches, kept as they come, never asked twice.

Answers stand in evaluation/metrics/SET/answers.SIDE.jsonl of a run folder: a first line that says whose they
are, then one per question with the digest of what was asked. A question of which the file holds the answer
is not asked again, so an evaluation that was killed goes on in the middle. The media of a question count by
what their files hold (media.json beside the answers keeps it): another picture under the same name is asked
about, and the same one in another folder is not.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmalign.clips import Frames
from mmalign.data._digest import digest
from mmalign.data._paths import File
from mmalign.data._prompts import decode_prompts
from mmalign.evaluation._media_content import MediaContent
from mmalign.evaluation.compare import Answering, Switch, answers
from mmalign.metrics._changes import changed
from mmalign.metrics._measured import FOLDER
from mmalign.metrics._seam import Question
from mmalign.types import UserError


@dataclass(frozen=True)
class Side:
    """One of the two models: its name, what its answers follow from besides the seed (JSON values: weights,
    how it generates), and the module."""

    name: str
    origin: Mapping[str, Any]
    model: Switch


@dataclass(frozen=True)
class Asker:
    """How questions are put: to which adapter, into which run folder, `batch` at a time, from which seed."""

    adapter: Answering
    frames: Frames | None
    folder: Path
    batch: int
    seed: int
    tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)

    def answers(self, side: Side, questions: Sequence[Question]) -> dict[str, str]:
        """Answers by id. Raises UserError for what cannot be decoded and for answers that are no texts."""
        found: dict[str, str] = {}
        for asks in dict.fromkeys(question.asks for question in questions):
            found |= self._of_set(side, asks, [one for one in questions if one.asks == asks])
        return found

    @cached_property
    def _media(self) -> MediaContent:
        return MediaContent(self.folder / "evaluation" / FOLDER / "media.json")

    def _of_set(self, side: Side, asks: str, questions: Sequence[Question]) -> dict[str, str]:
        path = self.folder / "evaluation" / FOLDER / asks / f"answers.{side.name}.jsonl"
        kept = self._kept(path, side)
        missing = [one for one in questions if not kept or _key(one, self._media) not in kept]
        if len(missing) < len(questions):
            self.tell(
                f"{asks}: {len(questions) - len(missing)} of {len(questions)} answers of {side.name} are kept"
            )
        try:
            self._ask(side, missing, path, kept)
        finally:
            self._media.save()
        return {one.id: kept[_key(one, self._media)] for one in questions}

    def _ask(self, side: Side, questions: Sequence[Question], path: Path, kept: dict[str, str]) -> None:
        """Answer questions batch by batch, into the file and into `kept`."""
        with path.open("a", encoding="utf-8", errors="surrogatepass") as file:
            for start in range(0, len(questions), self.batch):
                part = questions[start : start + self.batch]
                for one, text in zip(part, self._answered(side, part), strict=True):
                    key = _key(one, self._media)  # what it shows was just decoded, and is read fast
                    kept[key] = text
                    row = {"id": one.id, "asked": key, "answer": text}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()

    def _answered(self, side: Side, questions: Sequence[Question]) -> list[str]:
        try:
            ready = decode_prompts([(one.id, one.turns) for one in questions], self.frames)
            shown = [
                (name, changed(one.change, turns, self.seed, name))
                for one, (name, turns) in zip(questions, ready, strict=True)
            ]
        except UserError as error:
            told = str(error).removeprefix("prompt ")  # as one that asks is called elsewhere
            who = "question " if told != str(error) else ""
            raise UserError(f"{questions[0].asks}: {who}{told}; the answers before it are kept") from error
        given = answers(self.adapter, side.model, shown, len(shown), self.seed)
        for one, part in zip(questions, given, strict=True):
            if part.kind != "text":
                raise UserError(
                    f"{one.asks}: question {one.id!r} was answered by a {part.kind}; metrics read texts"
                )
        return [str(part.data) for part in given]

    def _kept(self, path: Path, side: Side) -> dict[str, str]:
        """Answers of an earlier call by what was asked; a file of another model, and a line that was being
        written when a process died, are dropped."""
        head = {"mmalign": "answers", "side": side.name, "seed": self.seed, **side.origin}
        lines = path.read_text(encoding="utf-8", errors="surrogatepass").split("\n") if path.exists() else []
        rows = [row for row in map(_parsed, lines[:-1]) if row is not None]
        if lines and rows[:1] != [head]:
            self.tell(f"{path}: holds answers of other weights, settings or another seed; they are replaced")
            rows = []
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [head, *rows[1:]])
        fresh = path.with_name(f".{path.name}.tmp")
        fresh.write_text(text, encoding="utf-8", errors="surrogatepass")
        os.replace(fresh, path)
        return {str(row["asked"]): str(row["answer"]) for row in rows[1:]}


def _key(question: Question, media: MediaContent) -> str:
    """What the answer to a question is kept by: its words, and what its media hold."""
    turns = [
        replace(
            turn,
            parts=tuple(
                replace(part, data=media.shown(part.data)) if isinstance(part.data, File) else part
                for part in turn.parts
            ),
        )
        for turn in question.turns
    ]
    return digest(question.id, turns, question.change)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and (row.keys() >= {"asked", "answer"} or "mmalign" in row) else None
