"""Video-language models: clips, and pictures, in the prompt; the answer is text and scored exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from mmalign.adapters._vision_config import VisionOptions
from mmalign.types import Frames


@dataclass(frozen=True)
class VideoLm(VisionOptions):
    """A model that reads clips and pictures in its prompt (Qwen2.5-VL, LLaVA-OneVision and their kin)."""

    media: ClassVar[frozenset[str]] = frozenset({"image", "video"})

    frames: Frames = field(default_factory=Frames)  # how clips are cut from videos

    @property
    def clips(self) -> Frames:
        """How clips are cut from videos."""
        return self.frames
