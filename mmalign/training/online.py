"""Training on what the policy itself samples: a data source whose rows are made in rounds.

A round asks prompts of the run's data, samples and judges answers, and gives `online.steps` optimizer steps
of samples. It is made when its first step is asked for, so by the policy as it stands then. Processes share
the prompts, and every round is kept in the run folder: a run that goes on in the middle of one repeats none
of its sampling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmalign import config as configs
from mmalign._online import Online
from mmalign.config import RunConfig, Train
from mmalign.data._first_pass import unpair
from mmalign.data._loader import Loader, Recipe
from mmalign.data._order import Order
from mmalign.data._row_cache import RowCache
from mmalign.rewards._scoring import ready
from mmalign.training._agree import on_main
from mmalign.training._online_blind import BlindAnswers
from mmalign.training._online_making import Making, turns_of
from mmalign.training._online_modes import BLIND, mode_of
from mmalign.training._online_store import RoundStore
from mmalign.training._state import trainable_tensors
from mmalign.training.console import Console
from mmalign.training.rows import OnSkip, Pool, RunData, Steps, scored_roles
from mmalign.types import Adapter, Example, Item, PreferenceSample, Prepared, Row, UserError, derive_seed


@dataclass
class OnlineData(RunData):
    """The prompts of a run's data, and the round that trains now."""

    current: Mapping[str, Any] | None = None  # the round's record, with its number
    fresh: list[float] = field(default_factory=list)  # scores of a round that no step has told of yet
    blind: BlindAnswers | None = None  # what writes them; `admit` makes it
    console: Console = field(kw_only=True)

    @classmethod
    def of(cls, data: RunData, console: Console) -> OnlineData:
        """From data read for its prompts."""
        return cls(data.pools, data.heldout, data.world, data.hash, data.notes, data.skipped, console=console)

    def num_steps(self, train: Train) -> int:
        """Steps of the run."""
        assert train.steps is not None
        return train.steps

    def order(self, config: RunConfig) -> Order:
        """The endless stream of prompts; a step of it is what one round asks at first."""
        section = _section(config)
        if section.prompts > self.rows:
            raise UserError(
                f"online.prompts: {section.prompts} are more than the data has, {self.rows}; lower it"
            )
        order = super().order(replace(config, train=replace(config.train, batch=self.world.size)))
        return replace(order, batch=section.prompts, processes=1, rank=0)

    def admit(self, adapter: Adapter, config: RunConfig, console: Console) -> None:
        """Refuse prompts with media that the model does not read, and check pairs that are mixed in as in any
        run; load the judge."""
        for pool in [*self.pools, *self.heldout]:
            for sample in pool.samples:
                check_prompt(adapter, sample)
        if _section(config).offline is not None:
            RunData.admit(replace(self, heldout=self._held_pairs()), adapter, config, console)
        samples = [sample for pool in self.pools for sample in pool.samples]
        self.blind = BlindAnswers.of(config, adapter, samples)
        if _section(config).judge is not None:
            ready(_section(config).judge)

    def loader(
        self,
        adapter: Adapter,
        config: RunConfig,
        on_skip: OnSkip | None = None,
        cache: RowCache | None = None,
    ) -> Steps:
        """Samples of rounds, step by step; what is sampled once is never kept in a cache of rows."""
        return _Rounds(self, adapter, config, on_skip)

    def heldout_items(self, adapter: Adapter, config: RunConfig) -> list[Item]:
        """Held-out pairs, where rounds mix pairs in; other held-out rows are prompts alone, answered when the
        run is evaluated."""
        return RunData.heldout_items(replace(self, heldout=self._held_pairs()), adapter, config)

    def _held_pairs(self) -> list[Pool]:
        return [pool for pool in self.heldout if any(set(one.examples) > {"prompt"} for one in pool.samples)]

    def news(self) -> dict[str, Tensor]:
        """Scores of the round that has just been made, told once and by one process."""
        told, self.fresh = self.fresh, []
        return {"round/score": torch.tensor(told, dtype=torch.float64)} if told and self.world.is_main else {}

    def round_samples(self, config: RunConfig) -> list[PreferenceSample]:
        """The samples of the round that trains now, answers as files, in the roles that were sampled."""
        assert self.current is not None, "a step of the round was asked for"
        return _samples(self, config, self.current)

    def samples_by_id(self) -> dict[str, PreferenceSample]:
        """The prompts."""
        return {sample.id: sample for pool in self.pools for sample in pool.samples}


@dataclass
class _Rounds:
    """Steps of samples, each round of them made when its first step is asked for."""

    data: OnlineData
    adapter: Adapter
    config: RunConfig
    on_skip: OnSkip | None

    def steps(self, start: int = 0, stop: int | None = None) -> Iterator[list[Item]]:
        """Items of step `start`, `start` + 1, ... Raises UserError where a run is to go on in the middle of
        a round whose files are gone."""
        per_round, number = _section(self.config).steps, start
        while stop is None or number < stop:
            index, place = divmod(number, per_round)
            record = self._round(index, place == 0)
            end = per_round if stop is None else min(per_round, stop - index * per_round)
            for items in self._items(record, index, place, end):
                number += 1
                yield items

    def _round(self, index: int, begins: bool) -> Mapping[str, Any]:
        data, world = self.data, self.data.world
        weights = _weights(self.adapter)
        if data.current is None or data.current["round"] != index or begins:
            store, same = RoundStore(Path(self.config.output)), configs.identity(self.config)
            found = on_main(world, partial(store.read, index))
            if found is not None and found["config"] != same:
                found = None
            if begins and found is not None and found["weights"] != weights:
                found = None  # made by an earlier part of the run, from where another came to stand
            if found is None and not begins:
                raise UserError(
                    f"output: {store.of(index)} is gone, in the middle of which the run is to go on; choose "
                    "another output"
                )
            if found is None:
                found = Making(data, self.adapter, self.config, index, store).make(weights, same)
            if begins:
                self._forget(store, index)
                data.fresh = list(found["scores"])
            data.current = found
        return data.current

    def _forget(self, store: RoundStore, index: int) -> None:
        """Remove paths that no checkpoint's step comes back to."""
        folders = (Path(self.config.output) / "checkpoints").glob("step-*")
        steps = [int(one.name[5:]) for one in folders if one.name[5:].isdecimal()]
        oldest = min([index, *(step // _section(self.config).steps for step in steps)])
        on_main(self.data.world, partial(store.forget_paths, oldest))

    def _items(self, record: Mapping[str, Any], index: int, place: int, end: int) -> Iterator[list[Item]]:
        """This process's share of the steps `place` to `end` of a round."""
        world, train = self.data.world, self.config.train
        seed = derive_seed(self.config.seed, index, "", "round")
        store = RoundStore(Path(self.config.output))
        if mode_of(self.config.objective) != "answers":
            held = record["samples"]
            order = Order(seed, (len(held),), train.batch, None, world.size, world.rank)
            for step in range(place, end):
                yield [_path_item(store, index, held[one.index], one.epoch) for one in order.step(step)]
            return
        samples = _samples(self.data, self.config, record)
        if "completion" in scored_roles(self.config.objective):
            samples = unpair(samples).samples
        order = Order(seed, (len(samples),), train.batch, None, world.size, world.rank)
        recipe = self._recipe()
        loader = Loader([samples], order, recipe, train.workers, train.timeout_s, self.on_skip)
        yield from loader.steps(place, end)

    def _recipe(self) -> Recipe:
        objective, adapter = self.config.objective, self.adapter

        def prepare(sample: PreferenceSample, roles: Sequence[str]) -> Prepared:
            ready = adapter.prepare(sample, roles)
            return replace(ready, rows=tuple(replace(row, key=None) for row in ready.rows))

        redraw = self.config.views.redraw
        return Recipe(prepare, scored_roles(objective), objective.views, redraw, "stop", adapter.frames)


def check_prompt(adapter: Adapter, sample: PreferenceSample) -> Sequence[str]:
    """What has to be shortened in a prompt, as `Adapter.check` says. Raises UserError for one with media that
    the model does not read, and for what else it cannot answer."""
    kinds = {part.kind for turn in turns_of(sample) for part in turn.parts} - {"text"}
    if strange := sorted(kinds - adapter.media):
        raise UserError(f"{sample.origin}: its prompt holds {strange[0]}s, and the model reads none there")
    # such an adapter knows the role
    return adapter.check(sample, ("prompt",)) if "sampler" in adapter.offers else ()


def _samples(data: OnlineData, config: RunConfig, record: Mapping[str, Any]) -> list[PreferenceSample]:
    """The pairs of a round as any source would give them; pictures are not decoded yet. Where answers written
    blind are scored, a pair without one has its rejected answer there, as a row of two answers has."""
    store, known = RoundStore(Path(config.output)), data.samples_by_id()
    made = []
    for one in record["samples"]:
        row = known[one["prompt"]]
        turns = turns_of(row)
        examples = {
            role: (Example(turns, (store.answer(record["round"], answer),), one["scores"].get(role, {})),)
            for role, answer in one["answers"].items()
        }
        if one.get("offline"):
            whole = _with_own(row, examples) if _section(config).blind is not None else row.examples
            made.append(replace(row, id=one["id"], examples=whole))
        else:
            made.append(PreferenceSample(one["id"], examples, one["labels"], origin=one["id"]))
    if BLIND not in scored_roles(config.objective):
        return made
    return [
        replace(one, examples={BLIND: one.examples["rejected"], **one.examples})
        if "rejected" in one.examples
        else one
        for one in made
    ]


def _with_own(
    row: PreferenceSample, written: Mapping[str, tuple[Example, ...]]
) -> dict[str, tuple[Example, ...]]:
    """The answers of a row and what was written for it, in place of what the row has there: for a row without
    another rejected answer that is the rejected one, too."""
    own = {role: given for role, given in row.examples.items() if role != BLIND}
    before, now = row.examples.get(BLIND), written.get(BLIND)
    if now is None:
        return own
    if before is not None and [one.response for one in before] == [one.response for one in own["rejected"]]:
        own["rejected"] = now
    return {**own, BLIND: now}


def _path_item(store: RoundStore, index: int, held: Mapping[str, Any], epoch: int) -> Item:
    """A sample of paths, whose rows are encoded already."""
    rows = tuple(Row(role, 0, data) for role, data in store.paths(index, held).items())
    prepared = Prepared(held["id"], rows, encoded=True)
    return Item(prepared, epoch, held["labels"], {}, 1.0, held["id"])


def _section(config: RunConfig) -> Online:
    assert config.online is not None
    return config.online


def _weights(adapter: Adapter) -> str:
    """Hash of what trains, as it is now."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in trainable_tensors(adapter.policy).items():
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
