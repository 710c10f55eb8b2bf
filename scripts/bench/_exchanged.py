"""A control for shapes_vlm.py: the same pairs under each other's pictures, so that seeing tells nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mmalign.shapes.sources import CaptionPairs
from mmalign.types import Example, Message, PreferenceSample


@dataclass(frozen=True, kw_only=True)
class ExchangedPairs(CaptionPairs):
    """The pairs of CaptionPairs, each under the picture of the pair before it."""

    def samples(self) -> Iterator[PreferenceSample]:
        """Every pair."""
        drawn = list(super().samples())
        for place, sample in enumerate(drawn):
            theirs = drawn[place - 1].examples["chosen"][0].prompt[0].parts
            pictures = [part for part in theirs if part.kind == "image"]
            examples = {}
            for role, (example,) in sample.examples.items():
                (turn,) = example.prompt
                words = [part for part in turn.parts if part.kind == "text"]
                prompt = (Message(turn.speaker, (*pictures, *words)),)
                examples[role] = (Example(prompt, example.response),)
            yield replace(sample, examples=examples)
