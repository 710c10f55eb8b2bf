"""The exact judges of the built-in world behind the scorer protocol, for `evaluation.judge`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from mmalign.clips import Clip
from mmalign.shapes.judge_answers import judge_clip_answer, judge_sight_answer
from mmalign.shapes.judge_image import judge
from mmalign.shapes.judge_text import judge_text
from mmalign.types import Message, Part, UserError


@dataclass(frozen=True)
class ImageJudge:
    """Reads a picture: share of the caption's facts that hold, plus the stated style (solid shapes)."""

    reads: ClassVar[frozenset[str]] = frozenset({"image"})

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """Total, faithfulness in [0, 1], strict verdict, template IoU and solidity in [0, 1]."""
        if response.kind != "image":
            raise UserError(f"ImageJudge reads pictures, got a response of kind {response.kind}")
        verdict = judge(response.data, _text(prompt))
        return {
            "score": verdict.score,
            "faithfulness": verdict.faithfulness,
            "strict": float(verdict.strict),
            "iou": verdict.iou,
            "solidity": verdict.solidity,
        }


@dataclass(frozen=True)
class StoryJudge:
    """Reads a story: warm minus gloomy words as the stated style, and whether grammar and facts hold."""

    reads: ClassVar[frozenset[str]] = frozenset({"text"})

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """Total (the tone), grammar in [0, 1] and exact validity."""
        if response.kind != "text":
            raise UserError(f"StoryJudge reads text, got a response of kind {response.kind}")
        verdict = judge_text(_text(prompt), response.data)
        return {"score": verdict.score, "grammar": verdict.grammar, "valid": float(verdict.valid)}


@dataclass(frozen=True)
class CaptionJudge:
    """Reads the prompt's picture and the caption: recall of what is there minus the share of what is not."""

    reads: ClassVar[frozenset[str]] = frozenset({"text"})
    costs: ClassVar[frozenset[str]] = frozenset({"hallucinates"})

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """Of captions total, recall, hallucinates and exact; of "Is there ...?" total and presence."""
        image = _medium(prompt, "image", "CaptionJudge")
        if not isinstance(image, Image.Image):
            raise UserError(f"CaptionJudge reads decoded pictures, got {type(image).__name__}")
        return judge_sight_answer(image, _text(prompt).strip(), _said(response, "CaptionJudge"))


@dataclass(frozen=True)
class MotionJudge:
    """Reads the prompt's clip and the answer: whether it is right, and whether it follows the habit."""

    reads: ClassVar[frozenset[str]] = frozenset({"text"})
    costs: ClassVar[frozenset[str]] = frozenset({"habit"})

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """Total (1 if right), the same as motion, order, count or presence, and habit (0 or 1)."""
        clip = _medium(prompt, "video", "MotionJudge")
        if not isinstance(clip, Clip):
            raise UserError(f"MotionJudge reads decoded clips, got {type(clip).__name__}")
        return judge_clip_answer(clip, _text(prompt).strip(), _said(response, "MotionJudge"))


def _medium(prompt: tuple[Message, ...], kind: str, judge_name: str) -> object:
    found = [part.data for message in prompt for part in message.parts if part.kind == kind]
    if len(found) != 1:
        raise UserError(f"{judge_name} reads one {kind} per prompt, got {len(found)}")
    return found[0]


def _said(response: Part, judge_name: str) -> str:
    if response.kind != "text":
        raise UserError(f"{judge_name} reads text, got a response of kind {response.kind}")
    return str(response.data)


def _text(prompt: tuple[Message, ...]) -> str:
    return "".join(part.data for message in prompt for part in message.parts if part.kind == "text")
