"""Human Preference Score v2: a CLIP ViT-H/14 trained on people's rankings (arXiv 2306.09341)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mmalign.rewards._clip_judge import ClipJudge


@dataclass(frozen=True)
class HpsV2(ClipJudge):
    """100 cos(picture, caption) of an HPSv2 checkpoint.

    Not checked against published numbers.

    `path` is the checkpoint itself, such as HPS_v2.1_compressed.pt. As in its published evaluation the whole
    picture is read: its longer side fills the input, and a black border the rest.
    """

    architecture: str | None = "ViT-H-14"  # open_clip's name of the model

    def whole(self) -> bool:
        """The whole picture is read."""
        return True

    def combine(self, pictures: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores [B] of picture embeddings [B, E]."""
        return 100 * self.cosines(pictures, captions)
