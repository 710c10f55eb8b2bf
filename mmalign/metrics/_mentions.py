"""Mentions against what is there: the counts and values that CHAIR and its relatives share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from mmalign.metrics._seam import Graded, Numbers, Sums, ratio


def grade_mentions(
    name: str, mentions: Sequence[tuple[str, str]], there: Collection[str], cluster: str = ""
) -> Graded:
    """One caption from its mentions (words, what they name) and what the picture shows."""
    wrong = [(said, named) for said, named in mentions if named not in there]
    right = {named for _, named in mentions if named in there}
    counts: Mapping[str, float] = {
        "captions": 1,
        "mentions": len(mentions),
        "wrong": len(wrong),
        "hallucinates": bool(wrong),
        "naming": bool(mentions),
        "named": len(right),
        "there": len(there),
    }
    shown = {"wrong": [list(one) for one in wrong], "named": sorted(right), "there": sorted(there)}
    return Graded(name, counts, cluster=cluster, shown=shown)


def chair_values(sums: Sums) -> dict[str, Numbers]:
    """chair_i: wrong mentions of all; chair_s: captions with a wrong one of all; recall: distinct true things
    named of all that are there."""
    return {
        "chair_i": ratio(sums["wrong"], sums["mentions"]),
        "chair_s": ratio(sums["hallucinates"], sums["captions"]),
        "recall": ratio(sums["named"], sums["there"]),
    }
