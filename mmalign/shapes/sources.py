"""The built-in world as data sources, named in configs as mmalign.shapes.sources:ImagePairs.

They come through the same door as a source of your own: a dataclass with `samples()`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmalign.data._sources import SourceOptions
from mmalign.judging import Judge
from mmalign.shapes.judges import CaptionJudge, ImageJudge, MotionJudge
from mmalign.shapes.preferences import (
    ImagePair,
    faithful_pairs,
    heldout_prompts,
    style_pairs,
    validation_prompts,
)
from mmalign.shapes.render import render
from mmalign.shapes.scenes import BASE, parse_caption, refilled, sample_scene
from mmalign.shapes.sight_pairs import (
    CAPTION_PAIRS_FILE,
    CLIP_PAIRS_FILE,
    SightPair,
    clip_of,
    read_pairs,
)
from mmalign.shapes.sights import render_sight, sample_sight
from mmalign.types import Example, Message, Part, PreferenceSample, UserError


@dataclass(frozen=True, kw_only=True)
class ImagePairs(SourceOptions):
    """Pairs of rendered pictures, the same for the same numbers.

    `prefer`: "style" prefers filled shapes over outlines in the same scene; "faithful" prefers the captioned
    scene over one with a single wrong fact. `prompts`: "training", or the two disjoint sets with combinations
    never seen in training, "validation" for choosing settings and "heldout" for figures (style only).
    `judged`: both pictures have their `score` by ImageJudge, and the pair its difference as `margin`.
    """

    num: int = 600  # pairs
    seed: int = 0  # of the pairs
    # filled shapes over outlines, or the captioned scene over one with a wrong fact
    prefer: Literal["style", "faithful"] = "style"
    # for training, for choosing settings (validation), or for figures (heldout)
    prompts: Literal["training", "validation", "heldout"] = "training"
    judged: bool = False  # give both pictures their `score` by ImageJudge, and the pair its `margin`

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num < 1:
            raise ValueError(f"num: must be at least 1, got {self.num}")
        if self.prompts != "training" and self.prefer != "style":
            raise ValueError("prompts: only style pairs are made for prompts outside training")

    def samples(self) -> Iterator[PreferenceSample]:
        """Every pair with decoded pictures and a caption as its prompt."""
        yield from _scored(self._drawn(), ImageJudge()) if self.judged else self._drawn()

    def _drawn(self) -> Iterator[PreferenceSample]:
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


@dataclass(frozen=True, kw_only=True)
class CaptionPairs(SourceOptions):
    """Captions of pictures, and answers on what is there: pairs of the shipped model's own answers.

    `prompts`: "training", or scenes of the two disjoint streams "validation", for choosing settings, and
    "heldout", for figures; those are taken as they come, not by what a model says of them. `path`: another
    file of such pairs (null: the shipped one). `judged`: both answers have their `score` by CaptionJudge, and
    the pair its difference as `margin`.
    """

    # scenes of training, for choosing settings (validation), or for figures (heldout)
    prompts: Literal["training", "validation", "heldout"] = "training"
    path: str | None = None  # another file of such pairs; null: the shipped one
    judged: bool = False  # give both answers their `score` by CaptionJudge, and the pair its `margin`

    def samples(self) -> Iterator[PreferenceSample]:
        """Every pair with its picture drawn."""
        yield from _scored(self._drawn(), CaptionJudge()) if self.judged else self._drawn()

    def _drawn(self) -> Iterator[PreferenceSample]:
        for pair, origin in _listed(self.path, CAPTION_PAIRS_FILE, self.prompts):
            picture = render_sight(sample_sight(pair.split, pair.seed, pair.number))
            yield _sample(pair, Part("image", picture), origin)


@dataclass(frozen=True, kw_only=True)
class ClipPairs(SourceOptions):
    """Questions about clips, most of them on motion, with a right and a wrong answer of the shipped model.

    `prompts`, `path` and `judged` (by MotionJudge) are those of CaptionPairs.
    """

    # clips of training, for choosing settings (validation), or for figures (heldout)
    prompts: Literal["training", "validation", "heldout"] = "training"
    path: str | None = None  # another file of such pairs; null: the shipped one
    judged: bool = False  # give both answers their `score` by MotionJudge, and the pair its `margin`

    def samples(self) -> Iterator[PreferenceSample]:
        """Every pair with its clip of four frames."""
        yield from _scored(self._drawn(), MotionJudge()) if self.judged else self._drawn()

    def _drawn(self) -> Iterator[PreferenceSample]:
        for pair, origin in _listed(self.path, CLIP_PAIRS_FILE, self.prompts):
            yield _sample(pair, Part("video", clip_of(pair.split, pair.seed, pair.number)), origin)


def _listed(path: str | None, shipped: Path, prompts: str) -> Iterator[tuple[SightPair, str]]:
    """The pairs of one stream, with the places they come from."""
    file = Path(path) if path is not None else shipped
    found = False
    for number, pair in enumerate(read_pairs(file), 1):
        if pair.split == prompts:
            found = True
            yield pair, f"{file.name} row {number}"
    if not found:
        raise UserError(f"{file}: holds no pair with split {prompts!r}; choose other prompts")


def _sample(pair: SightPair, medium: Part, origin: str) -> PreferenceSample:
    prompt = (Message("user", (medium, Part("text", pair.question))),)
    sides = {"chosen": pair.chosen, "rejected": pair.rejected}
    examples = {role: (Example(prompt, (Part("text", text),)),) for role, text in sides.items()}
    return PreferenceSample(pair.id, examples, origin=origin)


def _scored(samples: Iterable[PreferenceSample], judge: Judge) -> Iterator[PreferenceSample]:
    """The same pairs with what the judge makes of both sides."""
    for sample in samples:
        (chosen,), (rejected,) = sample.examples["chosen"], sample.examples["rejected"]
        better, worse = (judge.score(one.prompt, one.response[0])["score"] for one in (chosen, rejected))
        examples = {
            "chosen": (replace(chosen, labels={"score": better}),),
            "rejected": (replace(rejected, labels={"score": worse}),),
        }
        yield replace(sample, examples=examples, labels={**sample.labels, "margin": better - worse})
