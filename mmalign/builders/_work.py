"""The work on one block of prompts: answers are sampled, judged and paired, and their parts written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from mmalign.builders import _media
from mmalign.builders._candidates import TOO_FEW, UNTOLD, Asked, Builder, Group, Paired, distinct
from mmalign.builders._config import BuildConfig
from mmalign.builders._model import Answering, OwnWords
from mmalign.builders._new_rows import UNWRITABLE, clips_as_given, is_readable, row_of
from mmalign.builders._originals import BROKEN, decode_originals, on_error, one_by_one
from mmalign.builders._rows import prompt_fields, rows_of
from mmalign.builders._store import Store
from mmalign.builders._whole_rows import NewRow, Pool, RowBuilder, Tools
from mmalign.data._prompts import decode_prompts
from mmalign.rewards._scoring import wants_of
from mmalign.types import Message, UserError, derive_seed

_Made = tuple[Callable[[int, Asked], list[dict[str, Any]]], Counter[str]]
"""What writes the rows of a prompt, given its number, and what was left out."""


@dataclass(frozen=True)
class Work:
    """What doing a block needs. A block is always sampled and scored whole, whichever of its prompts are
    missing, so that no answer depends on where an earlier process was killed."""

    config: BuildConfig
    prompts: Sequence[Asked]
    store: Store
    model: Answering
    missing: frozenset[int]
    origin: Mapping[str, Any]

    @cached_property
    def pool(self) -> Pool:
        """All rows, of which builders may take pictures."""
        return Pool(self.prompts, self.model.adapter.frames)

    def do(self, blocks: Sequence[int]) -> None:
        """Sample, judge and pair the prompts of these blocks, and write the parts that are missing."""
        for block in blocks:
            self._do(block)

    def _do(self, block: int) -> None:
        size = self.config.batch
        numbers = range(block * size, min((block + 1) * size, len(self.prompts)))
        given = [self.prompts[number] for number in numbers]
        ready, broken = self._decoded(given)
        builder = self.config.builder
        made = (
            self._remade(builder, given, ready)
            if isinstance(builder, RowBuilder)
            else self._judged(given, ready)
        )
        for number, asked in zip(numbers, given, strict=True):
            if number not in self.missing:
                continue
            if asked.id in broken:
                self.store.add(number, [], Counter({BROKEN: 1}), broken[asked.id])
                continue
            rows, counts = made[asked.id]
            try:
                written = rows(number, asked)
            except UserError as error:  # a folder of frames of which another one than those seen is broken
                if on_error(self.config) == "stop":
                    raise
                self.store.add(number, [], Counter({BROKEN: 1}), str(error))
                continue
            self.store.add(number, written, counts, None)

    def _remade(
        self, builder: RowBuilder, given: Sequence[Asked], ready: Sequence[Asked]
    ) -> dict[str, _Made]:
        """What a builder makes of whole rows, by the row's id."""
        adapter, config = self.model.adapter, self.config
        with self.model.switch() as module, torch.no_grad():
            helper = OwnWords(adapter, module) if config.helper is None else config.helper
            tools = Tools(self.pool, adapter, module, helper, config.judge)
            found = builder.make(ready, tools, config.seed)
        whole = {one.id: one for one in given}
        made = {}
        for one, remade in zip(ready, found, strict=True):
            new = [clips_as_given(row, whole[one.id], one) for row in remade.rows]
            assert len({row.name for row in new}) == len(new), f"rows of {one.id!r} share a name"
            fit = [row for row in new if is_readable(row)]
            lost = Counter({UNWRITABLE: len(new) - len(fit)})
            made[one.id] = self._writer(fit), remade.counts + lost
        return made

    def _writer(self, rows: Sequence[NewRow]) -> Callable[[int, Asked], list[dict[str, Any]]]:
        return lambda _, asked: [row_of(row, self.store.folder, asked.id, self.origin) for row in rows]

    def _judged(self, given: Sequence[Asked], ready: Sequence[Asked]) -> dict[str, _Made]:
        """The judged pairs of sampled answers, by the prompt's id."""
        builder: Builder = self.config.builder
        wants = wants_of(self.config.judge)
        told = {one.id: builder.told(one) if wants else {} for one in given}
        known = [one for one in ready if wants <= told[one.id].keys()]
        groups, counts = self._sampled(known)
        groups = [replace(group, told=told[group.id]) for group in groups]
        fit = [group for group in groups if len(group.answers) > 1]
        judged = builder.pair(fit, self.config.judge, self.config.seed)
        found = {group.id: paired for group, paired in zip(fit, judged, strict=True)}
        none = Paired((), counts=Counter({TOO_FEW: 1}))

        def writer(group: Group, paired: Paired) -> Callable[[int, Asked], list[dict[str, Any]]]:
            return lambda number, asked: (
                self._rows(number, asked.turns, group, paired) if paired.pairs else []
            )

        made: dict[str, _Made] = {one.id: (lambda *_: [], Counter({UNTOLD: 1})) for one in ready}
        for group in groups:
            paired = found.get(group.id, none)
            made[group.id] = writer(group, paired), paired.counts + counts[group.id]
        return made

    def _decoded(self, given: Sequence[Asked]) -> tuple[list[Asked], dict[str, str]]:
        """What can be sampled from, media decoded, and why the others cannot, by the prompt's id."""
        adapter = self.model.adapter
        if one_by_one(self.config):
            return decode_originals(self.config, given, adapter)
        ready = decode_prompts([(one.id, one.turns) for one in given], adapter.frames)
        decoded = [replace(one, turns=turns) for one, (_, turns) in zip(given, ready, strict=True)]
        return decoded, {}

    def _sampled(self, ready: Sequence[Asked]) -> tuple[list[Group], dict[str, Counter[str]]]:
        """The different answers to every prompt, and counts of what was left out, by the prompt's id."""
        builder: Builder = self.config.builder
        n, cuts = builder.n, builder.cuts(self.model.adapter)
        seeds = [
            (derive_seed(self.config.seed, 0, one.id, "build") >> 1) + place  # below 2^63 whatever n is
            for one in ready
            for place in range(n)
        ]
        asked = [one for one in ready for _ in range(n)]
        with self.model.switch() as module, torch.no_grad():
            answers = builder.sample(self.model.adapter, module, asked, seeds)
        groups: list[Group] = []
        counts: dict[str, Counter[str]] = {}
        for place, one in enumerate(ready):
            part = slice(place * n, (place + 1) * n)
            whole = Group(one.id, one.turns, tuple(answers[part]), tuple(seeds[part]), cuts)
            group, counts[one.id] = distinct(whole)
            groups.append(group)
        return groups, counts

    def _rows(
        self, number: int, given: tuple[Message, ...], group: Group, paired: Paired
    ) -> list[dict[str, Any]]:
        """The rows of one prompt, whose media are written first."""
        folder = self.store.folder
        asked = prompt_fields(given, _media.store_prompt(folder, group.id, given, group.prompt))
        files = {}
        for place in sorted({at for made in paired.pairs for at in (made.chosen, made.rejected)}):
            answer = group.answers[place]
            if answer.kind != "text":
                data, ending = _media.encoded(answer, f"an answer to prompt {group.id!r}")
                files[place] = _media.store(folder, f"{number:06d}-{place:02d}{ending}", data)
        return rows_of(group, paired, asked, files, self.origin)
