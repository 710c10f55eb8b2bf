"""One round's samples: prompts answered by the policy, answers judged, and made into what is trained on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn

from mmalign._online import Online
from mmalign.config import RunConfig
from mmalign.data._pairing import PairRule, choose
from mmalign.rewards._scoring import TOTAL, score_readable
from mmalign.training._online_modes import Mode, mode_of
from mmalign.training._online_store import Draft
from mmalign.training.optim import evaluating
from mmalign.types import (
    Adapter,
    Example,
    Message,
    Part,
    PathSampler,
    PreferenceSample,
    SampledPath,
    UserError,
    derive_seed,
)

_EMPTY = "answers without any text"
_UNREAD = "answers on which the judge's verdict could not be read"
_UNJUDGED = "prompts on none of whose branches a verdict could be read"
_FEW = "prompts with fewer than two answers"
_TIES = "pairs whose two sides score alike"
UNBRANCHED = 4  # steps before a path's first branch, as published for 20 steps


@dataclass(frozen=True)
class Asked:
    """A prompt of a round, its media decoded; `place` counts all prompts asked in the round."""

    place: int
    id: str
    turns: tuple[Message, ...]


@dataclass
class Found:
    """Samples, every score that was given, and counts of what was left out, by reason."""

    drafts: list[Draft] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Group:
    """The answers to one prompt that can be used, with their scores and, where wanted, their paths."""

    asked: Asked
    answers: Sequence[Part]
    scores: Sequence[Mapping[str, float]]
    paths: Sequence[SampledPath] = ()


@contextmanager
def sampled_from(adapter: Adapter, config: RunConfig) -> Iterator[nn.Module]:
    """The policy as it scores in training, without dropout and without a graph."""
    policy, half = adapter.policy, config.train.precision == "bf16"
    with (
        torch.no_grad(),
        evaluating(policy),
        torch.autocast(adapter.device.type, torch.bfloat16, enabled=half),
    ):
        yield policy


class Sampling:
    """What makes the samples of one round; nothing here depends on which process asks which prompts."""

    def __init__(self, config: RunConfig, adapter: Adapter, round_number: int) -> None:
        assert config.online is not None
        self._section: Online = config.online
        self._config, self._adapter, self._round = config, adapter, round_number
        self._mode: Mode = mode_of(config.objective)

    def ask(self, asked: Sequence[Asked]) -> Found:
        """Samples from these prompts, which are answered together."""
        found = Found()
        if not asked:
            return found
        if self._mode == "branches":
            self._branch(asked, found)
            return found
        for group in self._groups(asked, found):
            if self._mode == "rewards":
                found.drafts += self._rewarded(group)
            else:
                found.drafts += self._paired(group, found)
        return found

    def is_offline(self, one: Asked) -> bool:
        """Whether the prompt's own pair of the data trains: drawn for every prompt of every round by itself
        (Mixed-DPO, arXiv 2407.02477)."""
        share = self._section.offline or 0.0
        return derive_seed(self._config.seed, self._round, f"{one.place}/{one.id}", "offline") < share * 2**63

    def offline(self, one: Asked) -> Draft:
        """That pair as a sample of the round."""
        return Draft(self._name(one, "data"), one.id, {}, offline=True)

    def _seeds(self, asked: Sequence[Asked], count: int) -> list[int]:
        return [
            derive_seed(self._config.seed, self._round, f"{one.place}/{one.id}", f"answer {i}")
            for one in asked
            for i in range(count)
        ]

    def _groups(self, asked: Sequence[Asked], found: Found) -> Iterator[_Group]:
        """Answers to every prompt with their scores; empty ones are left out, and those on which the judge's
        verdict cannot be read."""
        n = self._section.n
        turns = [one.turns for one in asked for _ in range(n)]
        seeds, paths = self._seeds(asked, n), list[SampledPath]()
        with sampled_from(self._adapter, self._config) as policy:
            if self._mode == "answers":
                answers = self._adapter.generate(policy, turns, seeds)
            else:
                paths = cast(PathSampler, self._adapter).sample_paths(policy, turns, seeds)
                answers = [path.response for path in paths]
        kept = [i for i, part in enumerate(answers) if part.kind != "text" or part.data.strip()]
        found.left_out[_EMPTY] += len(answers) - len(kept)
        names = [asked[i // n].id for i in kept]
        asks = [turns[i] for i in kept], [answers[i] for i in kept], names
        given = zip(kept, score_readable(self._section.judge, *asks), strict=True)
        scores = {i: one for i, one in given if one is not None}
        found.left_out[_UNREAD] += len(kept) - len(scores)
        found.scores += [one[TOTAL] for one in scores.values()]
        for place, one in enumerate(asked):
            own = [i for i in range(place * n, place * n + n) if i in scores]
            yield _Group(
                one, [answers[i] for i in own], [scores[i] for i in own], [paths[i] for i in own if paths]
            )

    def _paired(self, group: _Group, found: Found) -> list[Draft]:
        """Pairs as lists of a file are paired."""
        if len(group.answers) < 2:
            found.left_out[_FEW] += 1
            return []
        rule = PairRule(self._section.strategy or "best_worst", min_gap=self._section.min_gap or 0.0)
        choice = choose(group.scores, rule)
        found.left_out[_TIES] += len(choice.ties)
        found.left_out.update(choice.left_out)
        drafts = []
        for pair in choice.pairs:
            places = {"chosen": pair.chosen, "rejected": pair.rejected}
            draft = Draft(
                self._name(group.asked, f"{pair.chosen}-{pair.rejected}"),
                group.asked.id,
                {role: group.answers[i] for role, i in places.items()},
                {"margin": pair.gap},
                {role: group.scores[i] for role, i in places.items()},
                {role: group.paths[i].data for role, i in places.items() if group.paths},
            )
            drafts += self._fitting(draft, group.asked, found)
        return drafts

    def _fitting(self, draft: Draft, asked: Asked, found: Found) -> list[Draft]:
        """The pair, or nothing if the adapter cannot train on its answers, with the reason counted."""
        if draft.paths:
            return [draft]
        examples = {role: (Example(asked.turns, (part,)),) for role, part in draft.answers.items()}
        try:
            self._adapter.check(PreferenceSample(draft.id, examples, origin=draft.id), tuple(examples))
        except UserError as error:
            found.left_out[str(error).partition(": ")[2] or str(error)] += 1
            return []
        return [draft]

    def _rewarded(self, group: _Group) -> list[Draft]:
        """Single paths, whose score becomes an advantage when the whole round is there."""
        return [
            Draft(
                self._name(group.asked, str(i)),
                group.asked.id,
                {"completion": part},
                {"advantage": scores[TOTAL]},
                {"completion": scores},
                {"completion": path.data},
            )
            for i, (part, scores, path) in enumerate(
                zip(group.answers, group.scores, group.paths, strict=True)
            )
        ]

    def _branch(self, asked: Sequence[Asked], found: Found) -> None:
        """Paths whose every step has a better and a worse branch."""
        section = self._section
        first = UNBRANCHED if section.unbranched is None else section.unbranched
        read: set[int] = set()  # places of prompts on whose branches the judge said anything

        def judged(media: Sequence[Part], places: Sequence[int], level: int) -> list[float]:
            turns, names = [asked[i].turns for i in places], [asked[i].id for i in places]
            levels = [level] * len(media)
            with torch.autocast(self._adapter.device.type, enabled=False):  # the policy's, not the judge's
                given = score_readable(section.judge, turns, media, names, timesteps=levels)
            read.update(place for place, one in zip(places, given, strict=True) if one is not None)
            found.left_out[_UNREAD] += given.count(None)
            found.scores += [one[TOTAL] for one in given if one is not None]
            return [math.nan if one is None else one[TOTAL] for one in given]

        with sampled_from(self._adapter, self._config) as policy:
            made = cast(PathSampler, self._adapter).branch_paths(
                policy, [one.turns for one in asked], self._seeds(asked, 1), (section.n, first), judged
            )
        found.left_out[_UNJUDGED] += len(asked) - len(read)
        for one, path in ((asked[place], made[place]) for place in sorted(read)):
            labels = {"step_margins": list(path.margins)}
            sides = {"chosen": path.chosen, "rejected": path.rejected}
            name = self._name(one, "branched")
            found.drafts.append(Draft(name, one.id, {"answer": path.response}, labels, paths=sides))

    def _name(self, asked: Asked, which: str) -> str:
        return f"round {self._round}/{asked.place}/{asked.id}/{which}"
