"""Builders that make pairs out of whole rows: of a prompt, its media and the answer that the row has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from torch import nn

from mmalign.builders._candidates import Asked
from mmalign.data._digest import digest
from mmalign.data._prompts import decode_prompts
from mmalign.types import Adapter, Frames, Kind, Message, Part, UserError


@dataclass(frozen=True)
class NewPair:
    """A pair made of a row, media decoded. `name` tells it from other pairs of the row; `told` says in plain
    values how it came about."""

    name: str
    prompt: tuple[Message, ...]
    chosen: Part
    rejected: Part
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Remade:
    """What became of one row: its pairs, and counts of all left out, by reason."""

    pairs: tuple[NewPair, ...] = ()
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


class RowBuilder(ABC):
    """A way of making pairs of whole rows. Subclasses are frozen dataclasses whose fields are the keys in the
    config. A row is left out, and counted, where its own media or answer cannot be used."""

    n: ClassVar[int] = 1
    copies: ClassVar[bool] = True  # rows are read with their answers
    asks_judge: ClassVar[bool] = False
    works_with: ClassVar[Kind] = "exact"

    @abstractmethod
    def ready_for(self, adapter: Adapter) -> None:
        """Raise UserError if such a model does not give what the builder asks for."""

    @abstractmethod
    def make(
        self, rows: Sequence[Asked], pool: Pool, adapter: Any, model: nn.Module, seed: int
    ) -> list[Remade]:
        """The pairs of every row, media decoded. What becomes of a row depends on `seed`, the row and the
        pool alone."""
