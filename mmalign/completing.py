"""What some ways of making pairs ask of a model besides answers: to go on with an answer somebody else began,
to tell what of its pictures an answer of its own attended to, and which pictures look alike to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from mmalign.messages import Message, Part


@runtime_checkable
class Completer(Protocol):
    """An adapter whose model goes on with begun answers."""

    def complete(
        self,
        model: nn.Module,
        prompts: Sequence[tuple[Message, ...]],
        begun: Sequence[str],
        seeds: Sequence[int],
    ) -> list[Part]:
        """What follows the given beginning of the answer to every prompt (media decoded), the beginning not
        repeated; otherwise as `generate`, which it equals for empty ones. Raises UserError as `generate`
        does, and for a beginning that holds control tokens."""


@runtime_checkable
class HidingCompleter(Protocol):
    """A completer that can hide places of the pictures and clips of a prompt from the model's attention."""

    def media_tokens(self, prompts: Sequence[tuple[Message, ...]]) -> list[tuple[int, ...]]:
        """How many places each picture or clip of a prompt (decoded) takes, in the order of the prompt."""

    def complete(
        self,
        model: nn.Module,
        prompts: Sequence[tuple[Message, ...]],
        begun: Sequence[str],
        seeds: Sequence[int],
        visible: Sequence[Tensor | None] | None = None,
    ) -> list[Part]:
        """What follows each beginning, as `Completer` has it. `visible`: for a prompt, which places of all
        its media may be attended to, bool [sum of its `media_tokens`]; None: all. No token of the prompt or
        of the answer looks at the others, at any step; positions stay as they are (arXiv 2407.02477)."""


@dataclass(frozen=True)
class Attended:
    """A greedy answer and what it looked at.

    `certainty` [n]: the probability of every token that was chosen, that of the end among them. `attention`:
    for each medium of the prompt, in order, how much its places [places] were attended to, mean over heads
    and over the steps behind the first; None for an answer of one step. `grids`: rows and columns in which
    the places of a medium stand, None where its family lays them out otherwise.
    """

    answer: Part
    certainty: Tensor
    attention: tuple[Tensor, ...] | None
    grids: tuple[tuple[int, int] | None, ...]


@runtime_checkable
class Attentive(Protocol):
    """An adapter whose model tells what its answers attend to."""

    def attend(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], layer: int | float
    ) -> list[Attended]:
        """A greedy answer to every prompt (media decoded), with the attention of one layer of the language
        model: its number from 0, or a share of the depth below 1. Raises UserError as `generate` does, for a
        layer that is not there or keeps no attention, and for media that cannot be told apart."""


@runtime_checkable
class Seeing(Protocol):
    """An adapter whose model tells which pictures look alike to it."""

    def picture_vectors(self, model: nn.Module, pictures: Sequence[Part]) -> Tensor:
        """What its vision tower makes of every picture (decoded), one vector of length 1 each whatever the
        others, float32 [pictures, E] on the CPU. Raises UserError for other media."""
