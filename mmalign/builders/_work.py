"""The work on one block of prompts: answers are sampled, judged and paired, and their parts written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmalign.builders import _media
from mmalign.builders._candidates import TOO_FEW, Asked, Builder, Group, Paired, distinct
from mmalign.builders._config import BuildConfig
from mmalign.builders._model import Answering
from mmalign.builders._originals import BROKEN, decode_originals
from mmalign.builders._rows import prompt_fields, rows_of
from mmalign.builders._store import Store
from mmalign.data._prompts import decode_prompts
from mmalign.types import Message, derive_seed


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

    def do(self, blocks: Sequence[int]) -> None:
        """Sample, judge and pair the prompts of these blocks, and write the parts that are missing."""
        for block in blocks:
            self._do(block)

    def _do(self, block: int) -> None:
        size = self.config.batch
        numbers = range(block * size, min((block + 1) * size, len(self.prompts)))
        given = [self.prompts[number] for number in numbers]
        ready, broken = self._decoded(given)
        groups, counts = self._sampled(ready)
        fit = [group for group in groups if len(group.answers) > 1]
        builder: Builder = self.config.builder
        judged = builder.pair(fit, self.config.judge, self.config.seed)
        found = {group.id: paired for group, paired in zip(fit, judged, strict=True)}
        none = Paired((), counts=Counter({TOO_FEW: 1}))
        by_name = {group.id: group for group in groups}
        for number, asked in zip(numbers, given, strict=True):
            if number not in self.missing:
                continue
            if asked.id in broken:
                self.store.add(number, [], Counter({BROKEN: 1}), broken[asked.id])
                continue
            paired = found.get(asked.id, none)
            rows = self._rows(number, asked.turns, by_name[asked.id], paired) if paired.pairs else []
            self.store.add(number, rows, paired.counts + counts[asked.id], None)

    def _decoded(self, given: Sequence[Asked]) -> tuple[list[Asked], dict[str, str]]:
        """What can be sampled from, media decoded, and why the others cannot, by the prompt's id."""
        adapter = self.model.adapter
        if self.config.builder.copies:
            return decode_originals(self.config, given, adapter)
        ready = decode_prompts([(one.id, one.turns) for one in given], adapter.frames)
        return [Asked(*one) for one in ready], {}

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
