"""Builds without a model of their own, where a helper writes everything: what stands in the model's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from mmalign.clips import Frames
from mmalign.types import Kind, PreferenceSample


@dataclass(frozen=True)
class NoModel:
    """In the place of section model: rows may hold anything that such a build's helper or judge reads."""

    kind: ClassVar[Kind] = "exact"
    media: ClassVar[frozenset[str]] = frozenset({"image", "video"})


class NoAdapter:
    """In the place of a loaded model: it has no weights and no limits. Clips are cut by the default rule."""

    kind: Kind = "exact"
    media = NoModel.media
    frames = Frames()

    def __init__(self) -> None:
        self.policy: nn.Module = nn.Identity()

    def check(self, sample: PreferenceSample, roles: Sequence[str]) -> Sequence[str]:
        """Nothing is too long for it."""
        return ()

    def fingerprint(self) -> str:
        """That of nothing."""
        return ""
