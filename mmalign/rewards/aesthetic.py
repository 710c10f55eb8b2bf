"""LAION aesthetic score: a small head on CLIP picture features, trained on people's ratings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from mmalign.rewards._clip_judge import ClipJudge
from mmalign.rewards._loading import read_tensors
from mmalign.types import UserError

SIZES = (1024, 128, 64, 16, 1)
"""Outputs of the head's layers; the first takes the E numbers of an embedding, 768 in the published head."""
PLACES = (0, 2, 4, 6, 7)
"""Their places in the published file; the others are dropout, which does nothing here."""


@dataclass(frozen=True, kw_only=True)
class Aesthetic(ClipJudge):
    """Five linear layers on the normalised CLIP picture embedding, about 1 to 10.

    Not checked against published numbers.

    The "improved aesthetic predictor" of LAION, without activations between its layers, as in the published
    sac+logos+ava1-l14-linearMSE.pth, whose tower is OpenAI's CLIP ViT-L/14 (openai/clip-vit-large-patch14,
    or ViT-L-14-quickgelu of open_clip). The caption is not read.
    """

    head: str  # file of the head's weights

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.head.strip():
            raise ValueError("head: must name a file, got an empty string")

    def ready(self) -> None:
        """Load head and tower. Raises UserError if they cannot be had or do not fit."""
        _ = self.layers

    @cached_property
    def layers(self) -> nn.Sequential:
        """The head on the tower's device, checked against the tower's width."""
        file = Path(self.head).expanduser()
        tensors = read_tensors(file, f"{self.label}: head")
        widths = [tensors[key].shape[-1] for key in (f"layers.{PLACES[0]}.weight",) if key in tensors]
        inputs = (*widths, *SIZES[:-1]) if widths else SIZES
        wanted = {
            f"layers.{place}.{name}": shape
            for place, before, after in zip(PLACES, inputs, SIZES, strict=True)
            for name, shape in (("weight", (after, before)), ("bias", (after,)))
        }
        found = {key: tuple(value.shape) for key, value in tensors.items()}
        if found != wanted:
            key = sorted(set(found.items()) ^ set(wanted.items()))[0][0]
            raise UserError(
                f"{self.label}: head: {file}: {key} has shape {found.get(key, 'none')}, "
                f"the published head {wanted.get(key, 'none')}"
            )
        width = self.encoder.width
        if widths[0] != width:
            raise UserError(
                f"{self.label}: head: {file}: reads {widths[0]} numbers of a picture and the tower in "
                f"{self.path} gives {width}; name the tower that the head was trained on"
            )
        with torch.device("meta"):  # draws no fresh weights
            steps: list[nn.Module] = [nn.Identity() for _ in range(PLACES[-1] + 1)]
            for place, before, after in zip(PLACES, inputs, SIZES, strict=True):
                steps[place] = nn.Linear(before, after)
        layers = nn.Sequential(*steps)
        layers.load_state_dict(
            {k.removeprefix("layers."): v.float() for k, v in tensors.items()}, assign=True
        )
        return layers.to(self.encoder.device).eval().requires_grad_(False)

    def combine(self, pictures: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores [B] of picture embeddings [B, E]."""
        with torch.autocast(pictures.device.type, enabled=False):
            scores: Tensor = self.layers(pictures)
        return scores[:, 0]
