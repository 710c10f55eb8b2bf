"""Pairs about pictures with an answer that stops looking half-way: what `bdhs` asks of its data."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmalign.shapes.sight_pairs import CAPTION_PAIRS_FILE, read_pairs
from mmalign.shapes.sight_text import caption_of, named_things, parse_caption, parse_question
from mmalign.shapes.sights import ALL_THINGS, Thing, sample_sight
from mmalign.shapes.sources import CaptionPairs
from mmalign.types import Example, Part, PreferenceSample, UserError


@dataclass(frozen=True, kw_only=True)
class BlindPairs(CaptionPairs):
    """The pairs of CaptionPairs, each with its chosen answer ended otherwise, as role `bdhs`: the last thing
    of a caption is one that the picture does not show, yes is no. Made by rule, the same for the same pair;
    of a model of your own a build makes such answers."""

    def samples(self) -> Iterator[PreferenceSample]:
        """Every pair with its picture drawn."""
        file = Path(self.path) if self.path is not None else CAPTION_PAIRS_FILE
        pairs = [pair for pair in read_pairs(file) if pair.split == self.prompts]
        for pair, sample in zip(pairs, super().samples(), strict=True):
            there = sample_sight(pair.split, pair.seed, pair.number).things
            said = otherwise(pair.question, pair.chosen, there, random.Random(f"blind {pair.id}"))
            role = (Example(sample.examples["chosen"][0].prompt, (Part("text", said),)),)
            yield replace(sample, examples={**sample.examples, "bdhs": role})


def otherwise(question: str, answer: str, there: Sequence[Thing], rng: random.Random) -> str:
    """The answer with an end that is wrong of a picture of the things `there`."""
    if parse_question(question) is not None:
        return "no" if answer.strip() == "yes" else "yes"
    absent = [thing for thing in ALL_THINGS if thing not in there and thing not in named_things(answer)]
    try:
        kept = parse_caption(answer)[:-1]
    except UserError:  # what a model wrote need not be a caption
        kept = ()
    return caption_of((*kept, rng.choice(absent)))
