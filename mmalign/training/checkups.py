"""What a run measures at its start, every `eval_every` steps and at its end, besides training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from mmalign.config import RunConfig
from mmalign.data._prompts import decode_prompts
from mmalign.evaluation import over_training
from mmalign.evaluation.compare import Prompt, answers, seen_of, words_of
from mmalign.evaluation.questions import different_prompts, questions
from mmalign.training._agree import on_main
from mmalign.training._held_prompts import answered
from mmalign.training.collapse import Watch
from mmalign.training.console import Console
from mmalign.training.heldout import evaluate
from mmalign.training.noise_levels import NoiseLevels, noise_levels
from mmalign.training.optim import evaluating
from mmalign.training.reference import make_switch
from mmalign.training.rows import RunData
from mmalign.training.scorer import Scorer
from mmalign.training.state import Position
from mmalign.training.step import Engine, Micro
from mmalign.types import UserError


@dataclass
class Checkups:
    """The objective on held-out rows, pairs at fixed noise levels, and answers to the same few prompts.

    Nothing here changes what training does next: models are put back into their mode, and the generators of
    random numbers into their state.
    """

    engine: Engine
    micros: Sequence[Micro]
    config: RunConfig
    console: Console
    levels: NoiseLevels | None = None
    prompts: Sequence[Prompt] = ()
    watch: Watch = field(default_factory=Watch)
    timed: bool = False

    def __bool__(self) -> bool:
        """True if there is anything to measure."""
        return bool(self.micros or self.prompts)

    def begin(self, position: Position) -> None:
        """Take up where the run stands: what lies after that step is of a part that is done again."""
        output = Path(self.config.output)
        if self.levels is not None and self.levels.start is not None and position.step:
            self.levels = self.levels.resumed(position.start_errors)
            if self.levels.start is None:
                self.console.note(
                    "held-out noise levels: the errors at the start of the run are not known at these "
                    "levels; errors are compared with the reference only, which follows the policy"
                )
        if self.engine.world.is_main:
            over_training.forget(output, position.step if position.step else -1)
            if position.step:
                self.watch.replay(output / "metrics.jsonl", position.step)

    def take(self, position: Position) -> None:
        """Measure everything, and write it into metrics.jsonl and evaluation/grid; on every process."""
        values: dict[str, float] = {}
        with untouched_randomness(self.engine.world.device):
            if self.micros:
                values |= evaluate(self.engine, self.micros, position.objective)
            if self.levels is not None:
                values |= {f"heldout/{name}": value for name, value in self._levels().items()}
                position.start_errors = self.levels.saved()
            if self.prompts:
                self._answer(position.step)
        if values:
            position.log(values)
        for line in self.watch.see(position.step, values):
            self.console.say(f"warning: {line}")  # the report finds it by itself

    def _levels(self) -> dict[str, float]:
        assert self.levels is not None
        began = time.monotonic()
        values = self.levels.measure()
        if not self.timed:
            self.console.say(f"{self.levels.cost} at every evaluation: {time.monotonic() - began:.1f} s")
            self.timed = True
        return values

    def _answer(self, step: int) -> None:
        """Every process answers its share; the main one writes."""
        world, section, policy = self.engine.world, self.config.evaluation, self.engine.adapter.policy

        @contextmanager
        def trained() -> Iterator[nn.Module]:
            with evaluating(policy):
                yield policy

        mine = self.prompts[world.rank :: world.size]
        given = answers(self.engine.adapter, trained, mine, section.batch, section.seed) if mine else []
        parts = world.gather([seen_of(part) for part in given])
        ordered = [parts[place % world.size][place // world.size] for place in range(len(self.prompts))]
        ids, turns = zip(*self.prompts, strict=True)
        texts = tuple(words_of(one) for one in turns)
        snapshot = over_training.Snapshot(step, ids, texts, tuple(ordered))
        on_main(world, lambda: over_training.keep(Path(self.config.output), snapshot))


def checkups(
    engine: Engine, micros: Sequence[Micro], config: RunConfig, data: RunData, console: Console
) -> Checkups:
    """What this run measures. Raises UserError for an `evaluation.grid` that nothing can answer."""
    section = config.evaluation
    live = _without_cache(engine, config)
    levels = noise_levels(live, micros, section.levels, section.level_pairs)
    if levels is not None and live.cached is not None:
        console.note(
            "reference cached: at fixed noise levels only the policy's errors are measured, since the cache "
            "holds the reference's at other ones"
        )
    return Checkups(engine, micros, config, console, levels, _prompts(engine, config, data))


def _without_cache(engine: Engine, config: RunConfig) -> Engine:
    """The engine with the live model in place of a cached reference where that costs nothing: LoRA off."""
    section = config.lora
    if engine.cached is None or section is None or section.path is not None or config.reference.path:
        return engine
    scorer = Scorer(engine.adapter, config.train.precision)  # scores without a graph, so nothing wraps it
    scorer.add_sources({"reference": make_switch("lora_off", engine.adapter, config, torch.float32)})
    return replace(engine, scorer=scorer, cached=None)


def _prompts(engine: Engine, config: RunConfig, data: RunData) -> list[Prompt]:
    """The prompts to answer over training: the first of the held-out rows, or of the prompt file."""
    section, adapter = config.evaluation, engine.adapter
    count = answered(config)
    if not count:
        return []
    if adapter.kind == "reward":
        raise UserError(f"evaluation.grid: a reward model gives no answers; set it to 0, got {count}")
    if section.prompts is not None:
        asked, _ = questions(section.prompts.read(), count, adapter.kind)
    else:
        asked = different_prompts((sample for pool in data.heldout for sample in pool.samples), count)
    if not asked and section.grid is not None:
        raise UserError(
            "evaluation.grid: there are no prompts; add section heldout, data.heldout or evaluation.prompts"
        )
    return decode_prompts(asked, adapter.frames, config.train.timeout_s)


@contextmanager
def untouched_randomness(device: torch.device) -> Iterator[None]:
    """Generators of random numbers go on afterwards as if the block had not been."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, enabled=True):
        yield
