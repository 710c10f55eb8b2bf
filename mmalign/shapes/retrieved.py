"""Pairs about pictures with a similar picture beside each: what `re_align` asks of its data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmalign.shapes.sight_pairs import CAPTION_PAIRS_FILE, read_pairs
from mmalign.shapes.sights import Thing, sample_sight
from mmalign.shapes.sources import CaptionPairs
from mmalign.types import Example, Message, PreferenceSample


@dataclass(frozen=True, kw_only=True)
class RetrievedPairs(CaptionPairs):
    """The pairs of CaptionPairs, each with its chosen answer under the picture of the same stream that shares
    most things with its own, as role `chosen_retrieved`. A retrieved picture is never of the same things."""

    def samples(self) -> Iterator[PreferenceSample]:
        """Every pair with both pictures drawn."""
        file = Path(self.path) if self.path is not None else CAPTION_PAIRS_FILE
        pairs = [pair for pair in read_pairs(file) if pair.split == self.prompts]
        places = nearest([sample_sight(pair.split, pair.seed, pair.number).things for pair in pairs])
        drawn = list(super().samples())
        for sample, place in zip(drawn, places, strict=True):
            (chosen,), (other,) = sample.examples["chosen"], drawn[place].examples["chosen"]
            shown = [part for part in other.prompt[0].parts if part.kind == "image"]
            words = [part for part in chosen.prompt[0].parts if part.kind == "text"]
            prompt = (Message(chosen.prompt[0].speaker, (*shown, *words)),)
            role = (Example(prompt, chosen.response),)
            yield replace(sample, examples={**sample.examples, "chosen_retrieved": role})


def nearest(scenes: Sequence[Sequence[Thing]]) -> list[int]:
    """For every scene the place of that with other things that shares most of them, the first of equals."""
    sets = [frozenset(things) for things in scenes]
    found = []
    for own in sets:
        shared = [-1 if other == own else len(own & other) for other in sets]
        found.append(shared.index(max(shared)))
    return found
