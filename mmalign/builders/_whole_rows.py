"""Builders that make new rows out of whole ones: a prompt, its media and, where it has them, its answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from torch import nn

from mmalign._names import KINDS, name_of
from mmalign.builders._candidates import Asked
from mmalign.builders._judging import refuse_scoreless
from mmalign.data._digest import digest
from mmalign.data._prompts import decode_prompts
from mmalign.rewards import _scoring
from mmalign.rewards._reads import answers_of
from mmalign.types import Adapter, Frames, Judge, Kind, Message, Part, UserError
from mmalign.writing import Writer


@dataclass(frozen=True)
class NewRow:
    """A row made of another one. `name` tells it from other rows made of that; `told` says in plain values
    how it came about.

    `answers` holds an answer per role: `chosen` with `rejected` or `bdhs` or both; `chosen` or `completion`
    alone; several in the role `responses`; or none, for a row that is a prompt. `prompts` holds what the
    answers of some roles are to, where that is not `prompt`; that of `chosen_retrieved` shows other pictures,
    and its answer is the chosen one. `columns`: what else canonical rows may have, such as `weight`. Media
    are the decoded ones that the builder was given, pictures, whole clips, or what a source names.
    """

    name: str
    prompt: tuple[Message, ...]
    answers: Mapping[str, Part | tuple[Part, ...]] = field(default_factory=dict)
    prompts: Mapping[str, tuple[Message, ...]] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Remade:
    """What became of one row: the new ones, and counts of all left out, by reason."""

    rows: tuple[NewRow, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Pool:
    """All rows of a build, media not decoded, for builders that take pictures from other rows."""

    rows: Sequence[Asked]
    frames: Frames | None = None

    def picture_key(self, name: str) -> str:
        """What tells the media of the row with this id from those of others."""
        return self.media_key(self._by_id[name])

    @staticmethod
    def media_key(row: Asked) -> str:
        """The same for rows whose prompts show the same media."""
        return digest([part for turn in row.turns for part in turn.parts if part.kind != "text"])

    @cached_property
    def _by_id(self) -> dict[str, Asked]:
        return {row.id: row for row in self.rows}

    def decoded(self, row: Asked) -> Asked | None:
        """The row with the media of its prompt decoded; None where one cannot be read."""
        try:
            ((name, turns),) = decode_prompts([(row.id, row.turns)], self.frames)
        except UserError:
            return None
        return Asked(name, turns, row.original, row.origin)


@dataclass(frozen=True)
class Tools:
    """What a builder works with. `helper`: who writes for it, the model itself where the config names nobody;
    `judge`: None where it names none."""

    pool: Pool
    adapter: Any
    model: nn.Module
    helper: Writer
    judge: Any = None


class RowBuilder(ABC):
    """A way of making new rows of whole ones. Subclasses are frozen dataclasses whose fields are the keys in
    the config. A row is left out, and counted, where its own media or answer cannot be used."""

    n: int = 1
    copies: ClassVar[bool] = True
    """True if rows are read with their answers; False if a prompt is enough, of a source or a prompt file."""

    writes: ClassVar[str] = "pairs"
    """What its rows are called where they are counted: rows with one answer alone are no pairs."""

    sides: ClassVar[tuple[str, ...]] = ()
    """Roles whose answers are read besides, into `Asked.sides`, where a row has them to the same prompt."""

    asks_judge: ClassVar[bool | Literal["may"]] = False
    asks_helper: ClassVar[Literal["no", "yes", "may"]] = "no"  # may: without one the model itself writes
    asks_model: ClassVar[Literal["yes", "may"]] = "yes"  # may: with a helper it is not needed
    works_with: ClassVar[Kind] = "exact"

    @abstractmethod
    def ready_for(self, adapter: Adapter) -> None:
        """Raise UserError if such a model does not give what the builder asks for."""

    def ready(self, judge: Judge) -> None:
        """Load what judging needs before anything is made. Raises UserError if the judge will not do."""
        refuse_scoreless(judge, name_of(KINDS["builder"], type(self)))
        _scoring.ready(judge)

    def judged(self, adapter: Adapter) -> frozenset[str]:
        """The kinds of answers that the judge is given."""
        return answers_of(adapter)

    @abstractmethod
    def make(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[Remade]:
        """What becomes of every row, media decoded. It depends on `seed`, the row, the pool, and what helper
        and judge say, not on the other rows of the call."""

    def sift(self, rows: Iterable[Mapping[str, Any]]) -> Mapping[str, str]:
        """Which of all rows that were written are left out after all, by id, each with the reason. Asked once
        at the end, by a builder whose choice hangs on them all; by default none are."""
        return {}
