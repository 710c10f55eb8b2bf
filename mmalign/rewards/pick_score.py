"""PickScore: a CLIP model trained on people's choices between two pictures (arXiv 2305.01569)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mmalign.rewards._clip_judge import ClipJudge


@dataclass(frozen=True)
class PickScore(ClipJudge):
    """exp(logit scale) cos(picture, caption) of yuvalkirstain/PickScore_v1.

    Not checked against published numbers.

    A difference d of two scores under one caption means that the first is preferred with probability
    sigmoid(d) (arXiv 2305.01569). Published code takes tokenizer and preprocessor of
    laion/CLIP-ViT-H-14-laion2B-s32B-b79K: name it in `processor` where the folder has none.
    """

    def combine(self, pictures: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores [B] of picture embeddings [B, E]."""
        return self.encoder.scale * self.cosines(pictures, captions)
