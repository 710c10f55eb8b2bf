"""Models that go on with an answer somebody else began, as some ways of making pairs ask for."""

from __future__ import annotations

from collections.abc import Sequence
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
