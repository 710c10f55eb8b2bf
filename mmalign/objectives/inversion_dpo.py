"""Inversion-DPO: preferences on a denoiser's departure from its reference along inverted sampling paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from mmalign.objectives._pairs import PAIR, PAIR_WITH_REFERENCE, require
from mmalign.types import Inversion, LogProbs, Outcome, PathObjective, Scores, State


@dataclass(frozen=True)
class InversionDPO(PathObjective):
    """Inversion-DPO (arXiv 2507.11554), on the guided noise predictions at every step of a DDIM inversion.

    d_k = mean squared gap between the predictions of policy and reference at step k, W_k = 1 / (2 abar_k),
    G = mean_k W_k (d_k(chosen) - d_k(rejected)), loss = -log sigmoid(sign * beta / 2 * G). Errors are means
    over the latents, so beta is of the size of Diffusion-DPO's.

    `trajectory: reference` inverts with the reference, once, and keeps the path; its own predictions lead it
    and are the target. With such a path the likelihood ratio falls with the gap, so that sign -1 moves the
    chosen side towards the reference and the rejected one away; the released code, and the default, is +1.
    `trajectory: policy` inverts with the policy at every step, where the ratio grows with the gap.

    A squared gap is flat where both models agree: the gradient at the start is exactly zero, and a run that
    starts from its reference in equal precision does not move. `mmalign.objectives.inpo` has no such start.
    `count` scores that many of the steps at random, an unbiased estimate of G.
    """

    beta: float = 2000.0  # strength of the pull to the reference, as in dpo on diffusion
    # which model inverts: the reference, once, or the policy at every step
    trajectory: Literal["reference", "policy"] = "reference"
    # 1 as released; -1 moves chosen towards the reference and rejected away, on its trajectory
    sign: Literal[1, -1] = 1
    guidance: float = 2.0  # of the predictions; 1: none
    steps: int = 40  # of the inversion
    count: int | None = None  # so many of them are scored, drawn at random; null: all

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(self.guidance >= 1, f"guidance: must be 1 or more, got {self.guidance}")
        require(self.steps >= 1, f"steps: must be 1 or more, got {self.steps}")
        require(
            self.count is None or 1 <= self.count < self.steps,
            f"count: must be 1 or more and below steps, got {self.count}",
        )

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """The path of the reference holds its predictions; along the policy's it has to be asked."""
        return {"policy": PAIR} if self.trajectory == "reference" else PAIR_WITH_REFERENCE

    @property
    def needs(self) -> frozenset[str]:
        """Inverted paths, and predictions where no path holds the reference's."""
        return frozenset({"inversion"} if self.trajectory == "reference" else {"inversion", "prediction"})

    @property
    def inversion(self) -> Inversion:
        """The whole walk, led by the chosen source."""
        return Inversion(self.trajectory, self.steps, True, self.guidance, count=self.count)

    def partial(self, scores: Scores, labels: Mapping[str, Any]) -> Tensor:
        """sign * beta / 2 * G of the scored steps, [S]."""
        weighted = self._weighted(scores, "chosen") - self._weighted(scores, "rejected")
        return 0.5 * self.sign * self.beta * weighted

    def _weighted(self, scores: Scores, role: str) -> Tensor:
        policy = scores["policy"][role]
        assert policy.signal is not None
        gap = self._gap(policy, scores["reference"][role] if "reference" in scores else None)
        return (gap / (2 * policy.signal**2)).sum(-1) / (self.count or self.steps)

    def _gap(self, policy: LogProbs, reference: LogProbs | None) -> Tensor:
        """d_k of the scored steps, [S, P]."""
        if reference is None:
            assert policy.error is not None
            return policy.error
        assert policy.prediction is not None and reference.prediction is not None
        return (policy.prediction - reference.prediction).pow(2).flatten(2).mean(-1)

    def finish(self, number: Tensor, state: State) -> Outcome:
        """Loss [S]; ln 2 where policy and reference agree."""
        z = number.detach()
        metrics = {"reward/margin": z, "accuracy": (z > 0).to(z.dtype), "implicit_acc": 0.5 * (1 + z.sign())}
        return Outcome(-F.logsigmoid(number), metrics, state)
