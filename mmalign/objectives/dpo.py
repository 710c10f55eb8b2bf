"""Direct Preference Optimization; on a diffusion or flow model the same line is Diffusion-DPO or Flow-DPO."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmalign.objectives._pairs import PAIR_WITH_REFERENCE, Ratios, pair_metrics, ratios, require
from mmalign.types import AllMean, LogProbs, Objective, Outcome, Scores, State

_DECAY = 0.99  # of the running mean that an adaptive beta follows


@dataclass(frozen=True)
class DPO(Objective):
    """DPO (arXiv 2305.18290, eq. 7) and, on surrogate scores, Diffusion-DPO (arXiv 2311.12908, eq. 14).

    loss = -(1 - e) log sigmoid(z) - e log sigmoid(-z), z = beta * (h_chosen - h_rejected) - offset, with h
    the log-ratio policy / reference summed over tokens. A surrogate is -w(t) * error / 2, so the published
    beta of the half-squared-error convention applies as it stands: 0.1 for text, 2000 (SD1.5) to 5000 (SDXL)
    for diffusion, 100 to 2000 for flow models. Scripts without the half print half of our beta.
    `label_smoothing` e is the assumed share of flipped labels (conservative DPO); `margin` times the row's
    label `margin` is the offset (ODPO, arXiv 2402.10571). The trainer averages a step by the pairs' weights,
    divided by their sum. In large steps, whose sums hardly differ, that is VideoDPO (arXiv 2412.14167) up to
    a constant, where a weight multiplies its pair's loss; in a step of one pair the weight does nothing.

    `beta_schedule: one_minus_t_sq` is the beta(t) of Flow-DPO (arXiv 2501.13918): every noise draw counts
    times the squared signal, (1 - t)^2 of a flow and alphas_cumprod of a diffusion. That turns the error of a
    predicted velocity into the error of the noise it implies: it is a constant beta on noise errors. Its
    authors found the constant beta on velocities better. A model that predicts noise has that error already;
    there the schedule only takes weight from noisy steps.

    `target_gradient` g lets beta follow the margins: beta = log((1 - g) / g) over a running mean of |margin|
    (decay 0.99, over all processes), so that a typical pair keeps the share g of its gradient. `beta` is then
    the largest value, which holds while the margins are still about 0.
    """

    # strength of the pull to the reference: 0.1 for text, 2000 to 5000 for diffusion, 100 to 2000 for flows
    beta: float = 0.1
    label_smoothing: float = 0.0  # assumed share of flipped labels
    margin: float = 0.0  # times the row's label `margin`: what beta * margin should exceed
    # one beta for all noise levels, or beta times the squared signal
    beta_schedule: Literal["constant", "one_minus_t_sq"] = "constant"
    # share of its gradient that a typical pair keeps, to which beta is led; null: beta stays
    target_gradient: float | None = None

    roles = PAIR_WITH_REFERENCE
    surrogate_beta = 2000.0

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")
        require(0 <= self.label_smoothing < 0.5, f"label_smoothing: [0, 0.5), got {self.label_smoothing}")
        require(self.margin >= 0, f"margin: must be 0 or more, got {self.margin}")
        target = self.target_gradient
        require(target is None or 0 < target < 0.5, f"target_gradient: must lie in (0, 0.5), got {target}")

    @property
    def needs(self) -> frozenset[str]:
        """Only models with denoising errors have a signal to weigh draws by."""
        return frozenset({"ratio"} if self.beta_schedule == "constant" else {"ratio", "error"})

    @property
    def fields(self) -> tuple[str, ...]:
        """A margin per pair is needed only if it is used."""
        return ("margin",) if self.margin else ()

    @property
    def batch_coupled(self) -> bool:
        """A beta that follows the margins is one for the whole step."""
        return self.target_gradient is not None

    def initial_state(self) -> State:
        """`mean_margin`: running mean of |margin|, 0 until there is one."""
        return {} if self.target_gradient is None else {"mean_margin": torch.zeros(())}

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; ln 2 where policy and reference agree."""
        h = ratios(scores) if self.beta_schedule == "constant" else _signal_ratios(scores)
        beta: float | Tensor = self.beta
        if self.target_gradient is not None:
            beta, state = self._follow(h.margin.detach(), state, all_mean)
        z = beta * h.margin
        if self.margin:
            z = z - self.margin * labels["margin"]
        loss = -(1 - self.label_smoothing) * F.logsigmoid(z) - self.label_smoothing * F.logsigmoid(-z)
        metrics = pair_metrics(h, beta)
        if isinstance(beta, Tensor):
            metrics["beta"] = beta.expand_as(loss)
        return Outcome(loss, metrics, state)

    def _follow(self, margin: Tensor, state: State, all_mean: AllMean) -> tuple[Tensor, State]:
        """The beta of this step, a scalar, and the state after it."""
        assert self.target_gradient is not None
        now, before = all_mean(margin.abs()), state["mean_margin"].to(margin)
        mean = torch.where(before > 0, _DECAY * before + (1 - _DECAY) * now, now)
        wanted = math.log((1 - self.target_gradient) / self.target_gradient) / mean
        return wanted.clamp(max=self.beta), {"mean_margin": mean}


def _signal_ratios(scores: Scores) -> Ratios:
    """Log-ratios with every noise draw times its squared signal."""

    def ratio(ours: LogProbs, theirs: LogProbs) -> Tensor:
        if ours.signal is None:
            raise ValueError("beta_schedule one_minus_t_sq: these scores carry no noise level")
        return replace(ours, values=ours.signal.square() * ours.unit_ratio(theirs)).total()

    policy, reference = scores["policy"], scores["reference"]
    return Ratios(*(ratio(policy[role], reference[role]) for role in ("chosen", "rejected")))
