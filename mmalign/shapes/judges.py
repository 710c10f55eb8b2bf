"""The exact judges of the built-in world behind the scorer protocol, for `evaluation.judge`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmalign.shapes.judge_image import judge
from mmalign.shapes.judge_text import judge_text
from mmalign.types import Message, Part, UserError


@dataclass(frozen=True)
class ImageJudge:
    """Reads a picture: share of the caption's facts that hold, plus the stated style (solid shapes)."""

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

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """Total (the tone), grammar in [0, 1] and exact validity."""
        if response.kind != "text":
            raise UserError(f"StoryJudge reads text, got a response of kind {response.kind}")
        verdict = judge_text(_text(prompt), response.data)
        return {"score": verdict.score, "grammar": verdict.grammar, "valid": float(verdict.valid)}


def _text(prompt: tuple[Message, ...]) -> str:
    return "".join(part.data for message in prompt for part in message.parts if part.kind == "text")
