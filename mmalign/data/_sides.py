"""Equal sides, swapped sides, and which rows are kept back: what is decided once all rows are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from mmalign.data._digest import digest
from mmalign.data._records import BLIND, CRITIQUES
from mmalign.types import Example, PreferenceSample, UserError, derive_seed


def is_identical(sample: PreferenceSample) -> bool:
    """Whether the two sides of a pair are equal in prompt and response."""
    if not {"chosen", "rejected"} <= set(sample.examples):
        return False
    sides = [[(one.prompt, one.response) for one in sample.examples[role]] for role in ("chosen", "rejected")]
    return digest(sides[0]) == digest(sides[1])


def scores_of(sample: PreferenceSample) -> tuple[float, float] | None:
    """The scores of a pair's chosen and rejected side; None where it has not both."""
    if not {"chosen", "rejected"} <= set(sample.examples):
        return None
    chosen, rejected = (sample.examples[role][0].labels.get("score") for role in ("chosen", "rejected"))
    return None if chosen is None or rejected is None else (chosen, rejected)


def has_own_turns(sample: PreferenceSample) -> bool:
    """Whether the sides of a pair answer different words, whatever their media are."""
    if not {"chosen", "rejected"} <= set(sample.examples):
        return False
    chosen, rejected = (_words(sample.examples[role][0]) for role in ("chosen", "rejected"))
    return chosen != rejected


def _words(example: Example) -> list[tuple[str, list[str]]]:
    return [
        (turn.speaker, " ".join(part.data for part in turn.parts if part.kind == "text").split())
        for turn in example.prompt
    ]


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
    if "margin" in labels:  # by how much the chosen side is the better one; scores go with their answers
        labels["margin"] = 0.0 - labels["margin"]
    if "segments" in labels:  # they say of every segment which side is better
        labels["segments"] = [-one for one in labels["segments"]]
    if "spans" in labels:  # places in the text of a role
        turned = {"chosen": "rejected", "rejected": "chosen"}
        labels["spans"] = {turned.get(role, role): places for role, places in labels["spans"].items()}
    examples = {**sample.examples, "chosen": rejected, "rejected": chosen}
    for role, other in (CRITIQUES, CRITIQUES[::-1]):
        examples.pop(role, None)
        if other in sample.examples:
            examples[role] = sample.examples[other]
    if BLIND in examples and sample.examples[BLIND] == rejected:  # the rejected answer a second time
        examples[BLIND] = chosen
    else:  # three answers have no other order that two sides could tell
        examples.pop(BLIND, None)
    if "chosen_retrieved" in examples:  # the answer that counts as chosen, beside the retrieved picture
        shown = zip(examples["chosen_retrieved"], rejected, strict=True)
        examples["chosen_retrieved"] = tuple(replace(one, response=new.response) for one, new in shown)
    return replace(sample, examples=examples, labels=labels)


def part_of(
    samples: list[PreferenceSample], heldout: int | float, which: Literal["train", "heldout"]
) -> list[PreferenceSample]:
    """The training rows or the held-out ones: rows of one prompt, media included, are on one side.

    Which side is decided by the hash of the prompt, which does not depend on the other rows: with a share,
    which is one of the prompts, a row never changes sides when the file grows. A count is one of rows: whole
    prompts until there are so many.
    """
    if not heldout:
        if which == "heldout":
            raise UserError("data.heldout is 0: no rows are kept back for evaluation")
        return samples
    prompts = _prompts_of(samples)
    marks = {prompt: derive_seed(0, 0, prompt, "heldout") for prompt in prompts}
    if isinstance(heldout, float):
        away = {prompt for prompt, mark in marks.items() if mark < heldout * 2**63}
    else:
        away = _first_prompts(
            sorted(marks, key=lambda one: (marks[one], one)), Counter(prompts), int(heldout)
        )
    count = sum(prompt in away for prompt in prompts)
    if count in (0, len(samples)):
        rule = "none" if not count else "all"
        raise UserError(
            f"data.heldout {heldout} keeps back {rule} of the {len(samples)} rows, which have "
            f"{len(marks)} different prompts: rows of one prompt stay together"
        )
    return [
        one for one, prompt in zip(samples, prompts, strict=True) if (prompt in away) == (which == "heldout")
    ]


def _first_prompts(ordered: Sequence[str], rows: Mapping[str, int], count: int) -> set[str]:
    """The first prompts that have at least `count` rows together."""
    away: set[str] = set()
    held = 0
    for prompt in ordered:
        if held >= count:
            break
        away.add(prompt)
        held += rows[prompt]
    return away


def _prompts_of(samples: Sequence[PreferenceSample]) -> list[str]:
    """The digest of every sample's prompt. Sides may have prompts of their own: samples that share any of
    them have one name, the smallest of all theirs. A picture that was retrieved for a row is mostly another
    row's own: it ties no rows together, or chains of them would put all on one side."""
    found = [
        sorted(
            {
                digest(one.prompt)
                for role, group in sample.examples.items()
                if role != "chosen_retrieved"
                for one in group
            }
        )
        for sample in samples
    ]
    leaders: dict[str, str] = {}

    def leader(prompt: str) -> str:
        while (above := leaders.setdefault(prompt, prompt)) != prompt:
            leaders[prompt] = prompt = leaders[above]
        return prompt

    for first, *others in found:
        for other in others:
            low, high = sorted((leader(first), leader(other)))
            leaders[high] = low
    return [leader(prompts[0]) for prompts in found]
