"""DenseDPO: a preference for every segment of two clips that share their motion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from mmalign.objectives._pairs import PAIR_WITH_REFERENCE, require
from mmalign.objectives._units import mean_where, share_where, unit_labels, unit_ratios
from mmalign.types import AllMean, Objective, Outcome, Scores, State


@dataclass(frozen=True)
class DenseDPO(Objective):
    """DenseDPO (arXiv 2506.03517) on clips whose denoising errors are averaged inside temporal segments.

    loss = mean over the segments with y != 0 of -log sigmoid(y z), z = beta * (h_chosen - h_rejected) of the
    segment. y is the row's label `segments`, a list with one of 1 (the chosen clip is better there), -1 (the
    rejected one is) and 0 (neither, left out) for every segment. A pair of zeros only has loss 0. Every pair
    counts alike, however many of its segments are labelled. `beta` has the size it has in DPO: 500 to 5000 on
    clips. With one segment per clip and y = 1 it is DPO.
    """

    beta: float = 500.0  # strength of the pull to the reference: 500 to 5000 on clips

    roles = PAIR_WITH_REFERENCE
    needs = frozenset({"ratio", "segments"})
    fields = ("segments",)
    surrogate_beta = 500.0

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta: must be above 0, got {self.beta}")

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S]; ln 2 where policy and reference agree. Raises UserError for a label that does
        not fit the segments of both clips."""
        wanted = unit_labels(labels, "segments", scores["policy"]["chosen"].mask, (-1, 0, 1))
        unit_labels(labels, "segments", scores["policy"]["rejected"].mask)  # as many segments on this side
        z = self.beta * (unit_ratios(scores, "chosen") - unit_ratios(scores, "rejected"))
        labelled, signed = wanted != 0, wanted.to(z.dtype) * z
        loss = mean_where(-F.logsigmoid(signed), labelled)
        metrics = {
            "reward/margin": mean_where(signed.detach(), labelled),
            "accuracy": share_where(signed > 0, labelled),
            "implicit_acc": share_where(0.5 * (1.0 + torch.sign(signed.detach())), labelled),
            "segments": labelled.sum(-1).to(z.dtype),
        }
        return Outcome(loss, metrics, state)
