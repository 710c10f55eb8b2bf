"""A style that the built-in image model has never seen, as pairs and as a judge: pale blue ground.

All pictures of its pretraining have a ground of equal red, green and blue.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from mmalign.data._sources import SourceOptions
from mmalign.shapes.judge_image import judge
from mmalign.shapes.render import render
from mmalign.shapes.scenes import BASE, sample_scene, sample_training_caption
from mmalign.types import Example, Message, Part, PreferenceSample

LESS_RED, LESS_GREEN = 45, 20
"""What the tint takes off a grey ground."""


@dataclass(frozen=True, kw_only=True)
class TintedPairs(SourceOptions):
    """The same scene twice, on a pale blue ground (chosen) and on its own grey one; training captions."""

    num: int = 600
    seed: int = 0

    def samples(self) -> Iterator[PreferenceSample]:
        """Every pair."""
        rng = random.Random(f"tinted pairs {self.seed}")
        for index in range(self.num):
            caption = sample_training_caption(BASE, rng)
            scene = sample_scene(caption, BASE, rng)
            red, green, blue = scene.ground
            tinted = replace(scene, ground=(red - LESS_RED, green - LESS_GREEN, blue))
            prompt = (Message("text", (Part("text", caption.text),)),)
            sides = {"chosen": render(tinted), "rejected": render(scene)}
            examples = {role: (Example(prompt, (Part("image", one),)),) for role, one in sides.items()}
            yield PreferenceSample(f"tinted-{self.seed}-{index}", examples, origin=f"tinted pair {index + 1}")


@dataclass(frozen=True)
class TintJudge:
    """How blue the ground is, and the share of the caption's facts that hold."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """`style`: blue minus red of the border's median, as a share of what the tint takes off (0 grey, 1 as
        in the pairs); `score`: faithfulness + style / 2."""
        verdict = judge(response.data, prompt[-1].parts[0].data)
        pixels = np.asarray(response.data.convert("RGB"), dtype=np.float64)
        border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
        ground = np.median(border, axis=0)
        style = float(ground[2] - ground[0]) / LESS_RED
        return {
            "score": verdict.faithfulness + style / 2,
            "style": style,
            "faithfulness": verdict.faithfulness,
            "strict": float(verdict.strict),
        }
