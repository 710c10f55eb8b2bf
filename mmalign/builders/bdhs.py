"""BDHS: the chosen answer written on while its picture is hidden from attention (arXiv 2407.02477)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from mmalign.blind.answers import CUT, Blind, BlindWriter, Subject, Written, is_cut, refuse_seeing
from mmalign.builders._candidates import Asked
from mmalign.builders._whole_rows import NewRow, Remade, RowBuilder, Tools
from mmalign.rewards._alike import Likeness
from mmalign.rewards._loading import pick_device
from mmalign.types import Adapter, Part


@dataclass(frozen=True)
class Bdhs(Blind, RowBuilder):
    """Writes for every row the answer that objective bdhs reads besides: the model's own, little of the
    picture being seen. A row keeps its chosen answer, and its rejected one where it has one.

    Of every picture or clip each place is hidden with probability `rho`. Every sentence of the chosen answer
    is cut before one of its words and written to its end behind the true sentences before it. The outcome is
    taken if its cosine with the chosen answer is at most `eps`, else mask and cuts are drawn again; after
    `tries` of them the model writes freely under a new mask. A leading yes or no is turned round with chance
    `flip`. `encoder`: a folder or hub id of a sentence encoder; null: the cosine of words and neighbouring
    words, which needs no model. Training in rounds writes such answers itself (`online.blind`).
    """

    sides: ClassVar[tuple[str, ...]] = ("rejected",)

    def ready_for(self, adapter: Adapter) -> None:
        """Raises UserError for a model whose attention cannot be kept from places, and for an encoder that
        cannot be had."""
        refuse_seeing(adapter)
        _ = self._likeness

    @cached_property
    def _likeness(self) -> Likeness:
        return Likeness(self.encoder, "builder.encoder", pick_device(None))

    def make(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[Remade]:
        """One row each, or none."""
        subjects = [Subject(row.id, row.turns, row.original) for row in rows]
        whole = [subject for subject in subjects if not is_cut(tools.adapter, subject)]
        writer = BlindWriter(self, self._likeness, tools.adapter, tools.model)
        found = {one.id: made for one, made in zip(whole, writer.write(whole, seed), strict=True)}
        return [_remade(row, found.get(row.id, CUT)) for row in rows]


def _remade(row: Asked, found: Written | str) -> Remade:
    if isinstance(found, str):
        return Remade(counts=Counter({found: 1}))
    own = {"chosen": row.original, **row.sides}
    answers = {role: Part("text", "".join(part.data for part in parts)) for role, parts in own.items()}
    answers["bdhs"] = Part("text", found.text)
    return Remade((NewRow("bdhs", row.turns, answers, told=found.told),))
