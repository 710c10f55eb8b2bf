"""Vision-language models: any `AutoModelForImageTextToText`, scored exactly, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmalign.adapters._vision_config import VisionOptions


@dataclass(frozen=True)
class Vlm(VisionOptions):
    """A model that reads no, one or many pictures per prompt (LLaVA, Qwen2.5-VL, SmolVLM and their kin)."""

    media: ClassVar[frozenset[str]] = frozenset({"image"})
