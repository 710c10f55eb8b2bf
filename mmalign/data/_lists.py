"""Lists of scored responses become pairs, scored pairs are ordered anew, rows of a group become a list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from mmalign.data._digest import digest
from mmalign.data._load_report import LoadReport
from mmalign.data._options import SourceOptions
from mmalign.data._pairing import Pair, PairRule, choose
from mmalign.types import Example, PreferenceSample, UserError

_SIDES = ("chosen", "rejected")


@dataclass
class Lists:
    """The lists of one source: by which rule each becomes pairs, and groups that are not yet whole."""

    options: SourceOptions
    report: LoadReport
    # sample id -> its format's own rule
    rules: dict[str, PairRule] = field(default_factory=dict)
    groups: dict[str, list[PreferenceSample]] = field(default_factory=dict)

    def add(self, group: str, sample: PreferenceSample) -> None:
        """Keep one response of a group. Raises UserError if its prompt is not that of the group."""
        members = self.groups.setdefault(group, [])
        if members and digest(_example(members[0]).prompt) != digest(_example(sample).prompt):
            raise UserError(
                f"{sample.origin}: is of group {group!r}, but its prompt is not that of {members[0].origin}"
            )
        members.append(sample)

    def grouped(self) -> Iterator[PreferenceSample]:
        """Every group as one list, in the order of their first rows; groups of one response are counted."""
        for group, members in self.groups.items():
            if len(members) < 2:
                self.report.left_out["alone in its group"] += 1
                continue
            origin = f"{members[0].origin} and {len(members) - 1} more of group {group!r}"
            responses = {"responses": tuple(_example(one) for one in members)}
            yield replace(members[0], id=group, examples=responses, origin=origin)

    def takes(self, sample: PreferenceSample) -> bool:
        """Whether a rule makes pairs of the sample."""
        rule = self.options.pairs or self.rules.get(sample.id)
        return rule is not None and _answers(sample) is not None

    def pairs(self, sample: PreferenceSample) -> Iterator[PreferenceSample]:
        """The pairs of a sample that `takes` is true of; ties carry the label tie. Raises UserError naming
        the row where scores are missing."""
        rule, answers = self.options.pairs or self.rules[sample.id], _answers(sample)
        assert answers is not None
        try:
            choice = choose([example.labels for example in answers], rule)
        except UserError as error:
            raise UserError(f"{sample.origin}: {error} (data.pairs)") from None
        self.report.lists[str(rule)] += 1
        self.report.pairs += len(choice.pairs) + len(choice.ties)
        self.report.pairs_left_out.update(choice.left_out)
        return (
            _pair(sample, answers, pair)
            for pair in sorted([*choice.pairs, *choice.ties], key=lambda one: (one.chosen, one.rejected))
        )


def _pair(sample: PreferenceSample, answers: tuple[Example, ...], pair: Pair) -> PreferenceSample:
    name = f"{sample.id}/{pair.chosen}-{pair.rejected}" if len(answers) > 2 else sample.id
    labels = {**sample.labels, "margin": pair.gap, "tie": float(pair.gap == 0)}
    if pair.chosen > pair.rejected:  # character ranges were those of the other side
        labels.pop("spans", None)
        if "segments" in labels:  # they say of every segment which side is better
            labels["segments"] = [-one for one in labels["segments"]]
    examples = {"chosen": (answers[pair.chosen],), "rejected": (answers[pair.rejected],)}
    return replace(sample, id=name, examples=examples, labels=labels)


def _answers(sample: PreferenceSample) -> tuple[Example, ...] | None:
    """The responses of a list, or the two sides of a pair; None for a single response."""
    if "responses" in sample.examples:
        return sample.examples["responses"]
    if set(_SIDES) <= sample.examples.keys():
        return tuple(sample.examples[role][0] for role in _SIDES)
    return None


def _example(sample: PreferenceSample) -> Example:
    ((example,),) = sample.examples.values()
    return example
