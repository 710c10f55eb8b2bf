"""One round made on all processes together: they share the prompts, and write what they sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from mmalign.config import RunConfig
from mmalign.data._prompts import decode_prompts
from mmalign.training._agree import on_main, together
from mmalign.training._online_modes import mode_of
from mmalign.training._online_sampling import Asked, Sampling, sampled_from
from mmalign.training._online_store import RoundStore
from mmalign.types import Adapter, Message, PreferenceSample, UserError

if TYPE_CHECKING:
    from mmalign.training.online import OnlineData

_TRIES = 8  # so many times as many prompts are asked before a round without samples for a step stops the run
_CLOSE = 1e-6  # added to the deviation of scores that an advantage is divided by


@dataclass(frozen=True)
class _Part:
    """What came of the prompts that were answered together."""

    number: int
    samples: list[dict[str, Any]]
    scores: list[float]
    left_out: Counter[str]


@dataclass(frozen=True)
class Making:
    """Making round `index` of a run."""

    data: OnlineData
    adapter: Adapter
    config: RunConfig
    index: int
    store: RoundStore

    def make(self, weights: str, identity: str) -> dict[str, Any]:
        """Ask, judge and write; returns the round's record. Raises RuntimeError if the answers to many
        prompts do not make the samples of one step."""
        world, batch = self.data.world, self.config.train.batch
        first = on_main(world, self._first_block)
        on_main(world, partial(self.store.begin, self.index))
        samples: list[dict[str, Any]] = []
        scores: list[float] = []
        left_out: Counter[str] = Counter()
        block = first
        while len(samples) < batch:
            if block - first == _TRIES:
                raise RuntimeError(
                    f"round {self.index}: the answers to {_TRIES * self._asked} prompts make "
                    f"{len(samples)} samples, and a step takes {batch}; left out: {dict(left_out)}"
                )
            for part in self._ask(block, block - first):
                samples += part.samples
                scores += part.scores
                left_out.update(part.left_out)
            block += 1
        if mode_of(self.config.objective) == "rewards":
            add_advantages(samples, self._several)
        record = {"round": self.index, "config": identity, "weights": weights, "next_block": block}
        record |= {"scores": scores, "left_out": dict(+left_out), "samples": samples}
        on_main(world, partial(self.store.finish, self.index, record))
        for reason, count in sorted((+left_out).items()):
            self.data.console.note(f"round {self.index}: left out: {count} {reason}")
        return record

    @property
    def _asked(self) -> int:
        assert self.config.online is not None
        return self.config.online.prompts

    @property
    def _several(self) -> bool:
        assert self.config.online is not None
        return self.config.online.n > 1

    def _first_block(self) -> int:
        """Prompts go on where the round before stopped."""
        if self.index == 0:
            return 0
        before = self.store.record(self.index - 1)
        if before is None:
            raise UserError(
                f"output: {self.store.of(self.index - 1)} is gone, which says what prompts come next; choose "
                "another output"
            )
        return int(before["next_block"])

    def _ask(self, block: int, turn: int) -> list[_Part]:
        """All samples of one block of prompts, in the prompts' order."""
        assert self.config.online is not None
        world, size = self.data.world, self.config.online.batch
        places = enumerate(self.data.order(self.config).step(block), turn * self._asked)
        asked = [(number, self.data.pools[one.source].samples[one.index]) for number, one in places]
        groups = [asked[i : i + size] for i in range(0, len(asked), size)]
        mine = range(world.rank, len(groups), world.size)
        found = together(world, lambda: [self._answered(i, groups[i]) for i in mine])
        return sorted((part for parts in found for part in parts), key=lambda part: part.number)

    def _answered(self, number: int, group: Sequence[tuple[int, PreferenceSample]]) -> _Part:
        """Samples from prompts that are answered together, written."""
        sampling = Sampling(self.config, self.adapter, self.index)
        whole = [Asked(place, sample.id, turns_of(sample)) for place, sample in group]
        online = [one for one in whole if not sampling.is_offline(one)]
        given = [(one.id, one.turns) for one in (online if self.data.blind is None else whole)]
        ready = dict(decode_prompts(given, self.adapter.frames, self.config.train.timeout_s))
        found = sampling.ask([Asked(one.place, one.id, ready[one.id]) for one in online])
        found.drafts += [sampling.offline(one) for one in whole if sampling.is_offline(one)]
        if self.data.blind is not None:
            known = {sample.id: sample for _, sample in group}
            with sampled_from(self.adapter, self.config) as policy:
                made = self.data.blind.added(found.drafts, known, ready, policy, self.index)
            found.drafts, lacking = made
            found.left_out.update(lacking)
        samples = [
            self.store.add(self.index, draft, f"{group[0][0]:05d}-{i:03d}")
            for i, draft in enumerate(found.drafts)
        ]
        return _Part(number, samples, found.scores, found.left_out)


def add_advantages(samples: Sequence[dict[str, Any]], per_prompt: bool) -> None:
    """Turn the scores that stand as `advantage` into advantages: less their mean and divided by their
    deviation, over the answers to one prompt or over the round (arXiv 2305.13301, section 5)."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        key = sample["id"].rpartition("/")[0] if per_prompt else ""
        groups.setdefault(key, []).append(sample["labels"])
    for labels in groups.values():
        scores = torch.tensor([one["advantage"] for one in labels], dtype=torch.float64)
        values = (scores - scores.mean()) / (scores.std(correction=0) + _CLOSE)
        for one, value in zip(labels, values.tolist(), strict=True):
            one["advantage"] = value


def turns_of(sample: PreferenceSample) -> tuple[Message, ...]:
    """The prompt of a sample that has nothing else."""
    return sample.examples["prompt"][0].prompt
