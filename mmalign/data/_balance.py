"""A wanted share of positive samples: the labelled responses of a source as two pools with weights.

Diffusion-KTO (arXiv 2404.04465) draws its samples so that a given share of them is liked, whatever the share
in the data is. Here liked and disliked samples are two pools of the order of samples, each walked through on
its own, so that the share holds in every epoch and any step is still computed from its number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmalign.types import PreferenceSample, UserError


@dataclass(frozen=True)
class Balanced:
    """Positive and negative samples, the share of the positive ones that is drawn, and what that means."""

    positive: list[PreferenceSample]
    negative: list[PreferenceSample]
    ratio: float

    def line(self) -> str:
        """One plain line for the log."""
        counts = f"{len(self.positive)} positive and {len(self.negative)} negative responses"
        return f"data: {counts}, drawn {self.ratio:g} to {1 - self.ratio:g} (positive_ratio)"


def balanced(samples: Sequence[PreferenceSample], ratio: float) -> Balanced:
    """The samples by their label `binary`. Raises UserError for a sample without it, or if all are alike."""
    for sample in samples:
        if "binary" not in sample.labels:
            has = ", ".join(sample.examples)
            rule = "data.positive_ratio needs single responses with a label, true or false"
            raise UserError(f"{sample.origin}: {rule}; the row gives {has} to this objective")
    positive = [sample for sample in samples if sample.labels["binary"] > 0.5]
    negative = [sample for sample in samples if sample.labels["binary"] <= 0.5]
    if not positive or not negative:
        kind = "positive" if positive else "negative"
        raise UserError(f"data.positive_ratio {ratio:g}: all {len(samples)} rows are {kind}")
    return Balanced(positive, negative, ratio)
