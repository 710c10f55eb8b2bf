"""Prompts of the world of drawn shapes, said again: what a small rewriter of prompts is taught on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from mmalign.data._sources import SourceOptions
from mmalign.shapes.preferences import heldout_prompts, spoiled
from mmalign.shapes.scenes import (
    BASE,
    HELD_OUT,
    OPPOSITE,
    Caption,
    caption_of,
    parse_caption,
    sample_scene,
    sample_training_caption,
)
from mmalign.types import Example, Message, Part, PreferenceSample

ASK = "Reword: {prompt}"
"""What the rewriter is asked."""


@dataclass(frozen=True, kw_only=True)
class Rewrites(SourceOptions):
    """Captions with a rewrite, asked for as ASK has it; some rewrites are careless and have one fact wrong.

    A careful rewrite says the same, of two shapes in the other order: "a blue square right of a red circle".
    `prompts`: "training" has one rewrite each, the share `careless` of them careless; "heldout" has captions
    with combinations never seen in training, each with a careful rewrite, chosen, and a careless one.
    """

    num: int = 2000
    seed: int = 0
    careless: float = 0.4
    prompts: Literal["training", "heldout"] = "training"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num < 1:
            raise ValueError(f"num: must be at least 1, got {self.num}")
        if not 0 <= self.careless <= 1:
            raise ValueError(f"careless: must lie in [0, 1], got {self.careless:g}")

    def samples(self) -> Iterator[PreferenceSample]:
        """Every caption with its rewrite or rewrites."""
        rng = random.Random(f"rewrites {self.prompts} {self.seed}")
        for number, caption in enumerate(self._captions(rng), 1):
            careful, careless = turned(caption), turned(_changed(caption, rng))
            sides = {"chosen": careful, "rejected": careless}
            if self.prompts == "training":
                sides = {"chosen": careless if rng.random() < self.careless else careful}
            prompt = (Message("user", (Part("text", ASK.replace("{prompt}", caption.text)),)),)
            examples = {role: (Example(prompt, (Part("text", said.text),)),) for role, said in sides.items()}
            name = f"rewrite-{self.prompts}-{self.seed}-{number}"
            yield PreferenceSample(name, examples, origin=f"rewrites {self.prompts} row {number}")

    def _captions(self, rng: random.Random) -> Iterator[Caption]:
        if self.prompts == "heldout":
            # a caption of two such combinations keeps one whichever fact is changed, and is passed over
            drawn = map(parse_caption, heldout_prompts(2 * self.num, self.seed))
            yield from islice((one for one in drawn if len(one.combinations & HELD_OUT) == 1), self.num)
            return
        for _ in range(self.num):
            yield sample_training_caption(BASE, rng)


def _changed(caption: Caption, rng: random.Random) -> Caption:
    """A caption with another fact in the place of one."""
    return caption_of(spoiled(sample_scene(caption, BASE, rng), BASE, rng))


def turned(caption: Caption) -> Caption:
    """The same facts, of two shapes in the other order."""
    if caption.relation is None:
        return caption
    return Caption(caption.things[::-1], OPPOSITE[caption.relation])
