"""Equal sides, swapped sides, and which rows are kept back: what is decided once all rows are read."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from mmalign.data._digest import digest
from mmalign.types import PreferenceSample, UserError, derive_seed


def is_identical(sample: PreferenceSample) -> bool:
    """Whether the two sides of a pair are equal in prompt and response."""
    if not {"chosen", "rejected"} <= set(sample.examples):
        return False
    sides = [[(one.prompt, one.response) for one in sample.examples[role]] for role in ("chosen", "rejected")]
    return digest(sides[0]) == digest(sides[1])


def flipped(samples: list[PreferenceSample], share: float) -> tuple[list[PreferenceSample], int]:
    """Exactly the share of the pairs, rounded, with their sides swapped: those whose ids hash lowest; and
    their number. A count left to chance would leave a shuffled-label control with a preference of its own."""
    pairs = [sample.id for sample in samples if {"chosen", "rejected"} <= set(sample.examples)]
    ordered = sorted(pairs, key=lambda name: (derive_seed(0, 0, name, "flip"), name))
    chosen = set(ordered[: round(share * len(ordered))])
    return [_swapped(sample) if sample.id in chosen else sample for sample in samples], len(chosen)


def _swapped(sample: PreferenceSample) -> PreferenceSample:
    chosen, rejected = sample.examples["chosen"], sample.examples["rejected"]
    labels = dict(sample.labels)
    if "segments" in labels:  # they say of every segment which side is better
        labels["segments"] = [-one for one in labels["segments"]]
    return replace(
        sample, examples={**sample.examples, "chosen": rejected, "rejected": chosen}, labels=labels
    )


def part_of(
    samples: list[PreferenceSample], heldout: int | float, which: Literal["train", "heldout"]
) -> list[PreferenceSample]:
    """The training rows or the held-out ones. The hash of an id does not depend on the other rows, so with a
    share a row never changes sides when the file grows."""
    if not heldout:
        if which == "heldout":
            raise UserError("data.heldout is 0: no rows are kept back for evaluation")
        return samples
    marks = {sample.id: derive_seed(0, 0, sample.id, "heldout") for sample in samples}
    if isinstance(heldout, float):
        away = {name for name, mark in marks.items() if mark < heldout * 2**63}
    else:
        away = set(sorted(marks, key=lambda name: (marks[name], name))[: int(heldout)])
    if not away or len(away) == len(samples):
        rule = "keeps back none" if not away else "keeps back all"
        raise UserError(f"data.heldout {heldout} {rule} of the {len(samples)} rows")
    return [sample for sample in samples if (sample.id in away) == (which == "heldout")]
