"""Questions about one picture with their true answers: what MIA-DPO's pairs are built from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from mmalign.data._sources import SourceOptions
from mmalign.shapes.sight_text import ask, ask_presence
from mmalign.shapes.sights import render_sight, sample_sight
from mmalign.types import Example, Message, Part, PreferenceSample

SEED = 5000
"""Seed of these scenes; no other pictures have it."""


@dataclass(frozen=True, kw_only=True)
class SingleRows(SourceOptions):
    """Training scenes in turn with a caption, with a question whose answer is yes, and with one whose answer
    is no; the answer is the row's response. Without `captions`, with the questions alone."""

    num: int = 900
    captions: bool = True

    def samples(self) -> Iterator[PreferenceSample]:
        """Every row."""
        for number in range(self.num):
            rng = random.Random(f"single rows/{number}")
            sight = sample_sight("training", SEED, number)
            place = number % 3 if self.captions else 1 + number % 2
            if place == 0:
                question = ask(sight, "caption", rng)
            else:
                question = ask_presence(sight.things, "true" if place == 1 else "random", rng)
            assert question is not None
            prompt = (Message("user", (Part("image", render_sight(sight)), Part("text", question.text))),)
            rows = {"chosen": (Example(prompt, (Part("text", question.answer),)),)}
            yield PreferenceSample(f"single-{number}", rows, origin=f"single row {number + 1}")
