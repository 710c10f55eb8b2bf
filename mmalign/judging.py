"""Who scores responses: the contracts of judges, and of rewards that gradients flow through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from mmalign.messages import Message, Part


class Judge(Protocol):
    """A scorer of single responses, built by the dataclass that `evaluation.judge` names.

    A class attribute `costs`, a frozenset, names scores of which less is better; others count as gains.
    An attribute `reads`, a frozenset of "text", "image" and "video", names the kinds of responses it scores.
    An attribute `unchecked` that is true says that its scores were not checked against published numbers.
    """

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """Named scores; "score" is the total that responses are compared by, others are shown beside it."""


@runtime_checkable
class ManyJudge(Judge, Protocol):
    """A judge that takes many responses in one call, which pays where a model does the scoring."""

    def score_many(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float]]:
        """What `score` gives for every prompt and response, in order and whatever the batch."""


@runtime_checkable
class VerdictJudge(Judge, Protocol):
    """A judge that writes its verdicts in words, of which some may not be readable. `score` refuses those."""

    def verdicts(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float] | None]:
        """What `score` gives for every prompt and response, in order; None for a verdict that cannot be
        read."""


@runtime_checkable
class InformedJudge(VerdictJudge, Protocol):
    """A judge that may have to be told more than prompt and response, by names such as "reference", a right
    answer, or "caption", what a clip shows. Where it is not told what it wants it refuses."""

    @property
    def wants(self) -> frozenset[str]:
        """What it must be told; empty where prompt and response are enough."""

    def verdicts_given(
        self,
        prompts: Sequence[tuple[Message, ...]],
        responses: Sequence[Part],
        told: Sequence[Mapping[str, str]],
    ) -> list[Mapping[str, float] | None]:
        """`verdicts`, with what is known of every prompt."""


@runtime_checkable
class StepJudge(Judge, Protocol):
    """A judge that also compares unfinished pictures, and is told how noisy what they were made from was."""

    def score_steps(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part], timesteps: Sequence[int]
    ) -> Sequence[Mapping[str, float] | None]:
        """Named scores, in order, of responses that a denoiser predicts in one step from these noise levels,
        as it counts them: 0 is clean; None for a verdict that cannot be read. Other judges are given such
        responses by `score`."""


@runtime_checkable
class PixelReward(Protocol):
    """A score of pictures that gradients flow through, for objectives that train on a reward itself."""

    def reward(self, pixels: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores [B] in float32, with a graph, of RGB pictures [B, 3, H, W] in [0, 1], one caption each."""
