"""CLIP score: how well a picture matches its caption, by any two-tower model of transformers or open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mmalign.rewards._clip_judge import ClipJudge


@dataclass(frozen=True)
class ClipScore(ClipJudge):
    """100 cos(picture, caption) in a two-tower model.

    Not checked against published numbers.

    Papers differ in scale and end the score at 0 (arXiv 2104.08718: 2.5 max(cos, 0)); here it does not end
    there, so that a gradient is left on both sides. A caption is cut at the model's length, mostly 77 tokens.
    """

    def combine(self, pictures: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores [B] of picture embeddings [B, E]."""
        return 100 * self.cosines(pictures, captions)
