"""The built-in world as data sources, named in configs as mmalign.shapes.sources:ImagePairs.

They come through the same door as a source of your own: a dataclass with `samples()`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mmalign.data._sources import SourceOptions
from mmalign.shapes.preferences import (
    ImagePair,
    faithful_pairs,
    heldout_prompts,
    style_pairs,
    validation_prompts,
)
from mmalign.shapes.render import render
from mmalign.shapes.scenes import BASE, parse_caption, refilled, sample_scene
from mmalign.types import Example, Message, Part, PreferenceSample


@dataclass(frozen=True, kw_only=True)
class ImagePairs(SourceOptions):
    """Pairs of rendered pictures, the same for the same numbers.

    `prefer`: "style" prefers filled shapes over outlines in the same scene; "faithful" prefers the captioned
    scene over one with a single wrong fact. `prompts`: "training", or the two disjoint sets with combinations
    never seen in training, "validation" for choosing settings and "heldout" for figures (style only).
    """

    num: int = 600
    seed: int = 0
    prefer: Literal["style", "faithful"] = "style"
    prompts: Literal["training", "validation", "heldout"] = "training"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num < 1:
            raise ValueError(f"num: must be at least 1, got {self.num}")
        if self.prompts != "training" and self.prefer != "style":
            raise ValueError("prompts: only style pairs are made for prompts outside training")

    def samples(self) -> Iterator[PreferenceSample]:
        """Every pair with decoded pictures and a caption as its prompt."""
        for number, pair in enumerate(self._pairs(), 1):
            prompt = (Message("text", (Part("text", pair.prompt),)),)
            sides = {"chosen": pair.chosen, "rejected": pair.rejected}
            examples = {role: (Example(prompt, (Part("image", image),)),) for role, image in sides.items()}
            yield PreferenceSample(pair.id, examples, origin=f"shapes {self.prompts} pair {number}")

    def _pairs(self) -> Iterator[ImagePair]:
        if self.prompts == "training":
            make = style_pairs if self.prefer == "style" else faithful_pairs
            yield from make(self.num, self.seed)
            return
        chosen = validation_prompts if self.prompts == "validation" else heldout_prompts
        rng = random.Random(f"scenes {self.prompts} {self.seed}")
        for index, text in enumerate(chosen(self.num, self.seed)):
            scene = sample_scene(parse_caption(text), BASE, rng)
            name = f"{self.prompts}-{self.seed}-{index}"
            yield ImagePair(name, text, render(refilled(scene, True)), render(refilled(scene, False)))
