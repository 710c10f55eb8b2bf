"""Which tokens differ between the two answers of a pair, where one was made from the other by corrections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

import torch
from torch import Tensor

from mmalign.types import LogProbs

_LEAST = 3  # tokens of a match that counts; shorter ones are chance


def changed_tokens(rejected: Sequence[int], chosen: Sequence[int]) -> tuple[list[int], list[int]]:
    """Places of the tokens that were replaced, in the rejected and in the chosen answer.

    What stands between two matching stretches of at least three tokens was replaced where both answers hold
    something there. What only one of them holds was added or left out: no token of it counts as changed. A
    match at the very beginning counts whatever its length, for it goes on from the prompt, and so does one at
    the very end, which may be no more than the token that ends answers.
    """
    found = SequenceMatcher(None, rejected, chosen).get_matching_blocks()  # an empty one ends the list
    last = (len(rejected), len(chosen))
    kept = [
        m
        for m in found
        if m.size >= _LEAST or m.size == 0 or m.a == m.b == 0 or (m.a + m.size, m.b + m.size) == last
    ]
    ends = [(0, 0), *((m.a + m.size, m.b + m.size) for m in kept)]
    mine: list[int] = []
    theirs: list[int] = []
    for (from_a, from_b), match in zip(ends[:-1], kept, strict=True):
        if match.a > from_a and match.b > from_b:
            mine += range(from_a, match.a)
            theirs += range(from_b, match.b)
    return mine, theirs


def edit_weights(sides: Mapping[str, LogProbs], weight: float) -> dict[str, Tensor]:
    """Weights [N, K] of every role's tokens: `weight` where an answer differs from its pair's other side,
    else 1. The roles made of a side, as `chosen_crop`, differ as it does; others keep 1. Paddings are 1."""
    opposite = {"chosen": "rejected", "rejected": "chosen"}
    answers = {role: _answers(side) for role, side in sides.items()}
    weights = {}
    for role, side in sides.items():
        own = torch.ones(side.mask.shape, dtype=side.values.dtype)
        base = role.partition("_")[0]
        if base in opposite:
            for row, (ids, other) in enumerate(zip(answers[role], answers[opposite[base]], strict=True)):
                both = (ids, other) if base == "rejected" else (other, ids)
                own[row, changed_tokens(*both)[base == "chosen"]] = weight
        weights[role] = own.to(side.values.device, non_blocking=True)
    return weights


def _answers(side: LogProbs) -> list[list[int]]:
    """The ids of every answer, without padding."""
    if side.ids is None:
        raise ValueError("these scores carry no ids of tokens")
    return [[one for one in ids if one >= 0] for ids in side.ids.tolist()]
