"""The model that answers the prompts of a build: as its files have it, or as a run trained it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmalign._build import named_tree
from mmalign._names import KINDS, name_of
from mmalign.builders._config import BuildConfig
from mmalign.builders._no_model import NoAdapter, NoModel
from mmalign.builders._rows import portable
from mmalign.types import Adapter, Message, UserError
from mmalign.writers._chances import first_chances
from mmalign.writers._turns import given_whole
from mmalign.writing import Writer

_AT_ONCE = 32  # questions of one forward


@dataclass(frozen=True)
class OwnWords(Writer):
    """The build's own model as the writer, by its `model.generation`."""

    adapter: Adapter
    model: nn.Module

    def ready(self) -> None:
        """The model is loaded already."""

    def write(self, questions: Sequence[tuple[Message, ...]], seeds: Sequence[int]) -> list[str | None]:
        """Its answers; None for one that is empty or cut off. Raises UserError as the adapter does."""
        found = self.adapter.generate(self.model, questions, seeds) if questions else []
        return [given_whole(one) for one in found]

    def chances(
        self, questions: Sequence[tuple[Message, ...]], words: Sequence[str]
    ) -> list[tuple[float, ...]]:
        """Its chances to begin an answer with each word, as `Weighing` has it."""
        found: list[tuple[float, ...]] = []
        for begin in range(0, len(questions), _AT_ONCE):
            part = questions[begin : begin + _AT_ONCE]
            found += first_chances(self.adapter, self.model, part, words)
        return found


@dataclass(frozen=True)
class Answering:
    """A loaded model: `switch` yields the module to sample from, `told` says in plain values what it is."""

    adapter: Adapter
    switch: Callable[[], AbstractContextManager[nn.Module]]
    told: dict[str, Any]


def section_of(config: BuildConfig, allow_code: bool) -> Any:
    """Section model of the build, or of the run it names. Raises UserError for one without answers."""
    if config.run is None:
        section = NoModel() if config.model is None else config.model
    else:
        from mmalign.training.finished import read_config

        section = read_config(Path(config.run), allow_code).model
    if section.kind == "reward":
        name = name_of(KINDS["model"], type(section))
        raise UserError(f"model: adapter {name} scores answers and gives none; use it as the judge")
    return section


def open_model(config: BuildConfig, device: torch.device, allow_code: bool) -> Answering:
    """Load the model. Raises UserError as the adapter does, and for a run without a checkpoint."""
    if config.run is not None:
        from mmalign.training.finished import open_run

        finished = open_run(Path(config.run), allow_code, device)
        section = named_tree(KINDS["model"], finished.config.model)
        told = {"run": Path(config.run).name, "step": finished.step, **portable(section)}
        return Answering(finished.adapter, finished.tuned, told)
    adapter: Any = NoAdapter() if config.model is None else config.model.build(device, torch.float32)
    policy = adapter.policy.requires_grad_(False).eval()

    @contextmanager
    def switch() -> Iterator[nn.Module]:
        yield policy

    told = {} if config.model is None else portable(named_tree(KINDS["model"], config.model))
    return Answering(adapter, switch, told)
