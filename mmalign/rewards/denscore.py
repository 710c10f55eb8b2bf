"""Denscore: a picture against every sentence of a long caption, with less of what all captions share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mmalign.rewards._clip_judge import ClipJudge
from mmalign.rewards._loading import read_tensors
from mmalign.types import UserError

NAME = "direction"
"""The tensor's name in a file of a common direction."""
_END = re.compile(r"(?<=[.!?;])\s+")


@dataclass(frozen=True, kw_only=True)
class Denscore(ClipJudge):
    """T' . I: the mean embedding T of a caption's sentences, with the share `keep` of its part along a
    common direction V, times the picture's embedding I.

    Not checked against published numbers.

    LongAlign (arXiv 2410.11817): T' = T - (1 - keep) (T . V) V. The part along V is what captions share, how
    good a picture looks at all; with less of it, training on the score overfits later. The mean T is not
    brought back to length 1. V is read from `common`, a .safetensors file with the tensor "direction" [E].
    Without it `reward` takes V from the captions it is given, the normalised mean of their T: with few
    captions that takes away most of the score, and it differs between batches, so that single responses are
    scored by T . I there. Published weights: luping-liu/Denscore.
    """

    keep: float = 0.3  # share that is left of what all captions have in common
    common: str | None = None  # .safetensors file with that direction; null: taken from the captions at hand

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep: must lie in [0, 1], got {self.keep}")
        if self.common is not None and self.keep == 1:
            raise ValueError("common: is not read with keep 1; remove it or choose a smaller keep")

    def ready(self) -> None:
        """Load towers and direction. Raises UserError if they cannot be had or do not fit."""
        super().ready()
        _ = self.direction

    @cached_property
    def direction(self) -> Tensor | None:
        """V [E] of length 1 from the file, None without one."""
        if self.common is None:
            return None
        where = f"{self.label}: common"
        tensors = read_tensors(Path(self.common).expanduser(), where)
        if NAME not in tensors:
            raise UserError(f"{where}: {self.common}: must hold a tensor {NAME!r}, has {sorted(tensors)[:5]}")
        found, width = tensors[NAME].float(), self.encoder.width
        if found.shape != (width,):
            raise UserError(f"{where}: {self.common}: must have shape [{width}], got {list(found.shape)}")
        if not found.isfinite().all() or found.norm() == 0:
            raise UserError(f"{where}: {self.common}: must be finite and not zero")
        return F.normalize(found, dim=0).to(self.encoder.device)

    @property
    def batch_coupled(self) -> bool:
        """True if `reward` reads the common direction from its batch, which a run does not take."""
        return self.common is None and self.keep < 1

    def caption_embeddings(self, captions: Sequence[str]) -> Tensor:
        """T [B, E]: the mean of the embeddings of each caption's sentences."""
        listed = [sentences(caption) for caption in captions]
        every = self.encoder.texts([one for part in listed for one in part])
        return torch.stack([part.mean(0) for part in every.split([len(part) for part in listed])])

    def save_direction(self, captions: Sequence[str], file: Path) -> None:
        """Write the common direction of these captions, hundreds or more, for `common`."""
        from safetensors.torch import save_file

        found = common_direction(self.caption_embeddings(captions))
        save_file({NAME: found.cpu().contiguous()}, file)

    def combine(self, pictures: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores [B] of picture embeddings [B, E] as judges of single responses give them."""
        texts = self.caption_embeddings(captions)
        if self.direction is not None:
            texts = reweighted(texts, self.direction, self.keep)
        return (texts * pictures).sum(-1)

    def reward(self, pixels: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores [B] with a graph of pictures [B, 3, H, W] in [0, 1], on the pixels' device."""
        seen = self.see(pixels, captions)
        texts = self.caption_embeddings(captions)
        direction = common_direction(texts) if self.direction is None else self.direction
        return (reweighted(texts, direction, self.keep) * seen).sum(-1).to(pixels.device)


def sentences(caption: str) -> list[str]:
    """A caption cut after . ! ? ; and a space; one of no sentence is one whole."""
    return [part for part in _END.split(caption.strip()) if part] or [caption]


def common_direction(texts: Tensor) -> Tensor:
    """V [E] of length 1: the normalised mean of T [B, E]."""
    return F.normalize(texts.mean(0), dim=0)


def reweighted(texts: Tensor, direction: Tensor, keep: float) -> Tensor:
    """T' [B, E]: T [B, E] with the share `keep` of its part along V [E], which has length 1."""
    along = (texts * direction).sum(-1, keepdim=True) * direction
    return texts - (1 - keep) * along
