"""What became of the rows of a source: counts of everything that was left out, and plain lines about them."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from mmalign.clips import ASSUMED_RATE
from mmalign.data._records import CANONICAL


@dataclass(frozen=True)
class Skipped:
    """A row that was left out."""

    id: str
    origin: str
    reason: str


@dataclass
class LoadReport:
    """What became of a source's rows; nothing is left out without a count here."""

    title: str = "the source"
    rows: int = 0
    kept: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    signs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    unrated_answers: int = 0  # of lists, used or not
    lists: Counter[str] = field(default_factory=Counter)  # by the rule that made pairs of them
    pairs: int = 0
    pairs_left_out: Counter[str] = field(default_factory=Counter)
    ties: int = 0
    ties_dropped: int = 0
    heldout: int = 0
    other_splits: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    identical: int = 0
    identical_dropped: int = 0
    flipped: int = 0
    scored_pairs: int = 0  # whose sides were put in order by the source and have scores
    reversed_scores: int = 0  # of these
    unrated: int = 0  # clips that are folders of frames without a rate
    own_turns: int = 0  # pairs whose sides do not answer the same words
    unknown_columns: Counter[str] = field(default_factory=Counter)
    media_columns: dict[str, str] = field(default_factory=dict)  # of these: "image" or "video", by looks
    seeing: int = 0  # samples that hold a picture or a clip
    roles: Counter[str] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)
    data_hash: str = ""

    def lines(self) -> list[str]:
        """One plain line per fact worth saying."""
        roles = ", ".join(f"{role} {count}" for role, count in sorted(self.roles.items()))
        used = f"{self.kept} samples from" if self.lists else f"{self.kept} of"
        lines = [*self._formats(), f"data: {used} {self.rows} rows used ({roles})"]
        lines += [f"data: {count} rows left out: {why}" for why, count in sorted(self.left_out.items())]
        if self.unrated_answers:
            lines.append(f"data: {self.unrated_line()}")
        if self.lists:
            rules = "; ".join(f"{count} {rule}" for rule, count in sorted(self.lists.items()))
            lines.append(f"data: {self.pairs} pairs made of {self.lists.total()} lists: {rules}")
        lines += [f"data: {n} pairs left out: {why}" for why, n in sorted(self.pairs_left_out.items())]
        if self.ties:
            fate = "left out; ties: keep keeps them" if self.ties_dropped else "kept, in the file's order"
            lines.append(f"data: {'1 tie' if self.ties == 1 else f'{self.ties} ties'} ({fate})")
        if self.heldout:
            lines.append(f"data: {self.heldout} rows belong to the other side of the held-out split")
        if self.other_splits:
            lines.append(f"data: rows of other splits left out: {counts_of(self.other_splits)}")
        if len(self.splits) > 1:
            lines.append(f"data: no split chosen, rows of all splits are used: {counts_of(self.splits)}")
        if self.identical:
            fate = "left out" if self.identical_dropped else "kept; they carry no gradient"
            lines.append(f"data: {self.identical} pairs whose two sides are equal ({fate})")
        if self.reversed_scores:
            lines.append(f"data: {self.reversed_line()}; data.pairs would order them anew")
        if self.unrated:
            what = f"folders of frames without a rate (fps); {ASSUMED_RATE:g} a second is assumed"
            lines.append(f"data: {self.unrated} clips are {what}")
        if 0 < self.seeing < self.kept:
            lines.append(
                f"data: {self.kept - self.seeing} of {self.kept} samples hold no picture and no clip"
            )
        if self.own_turns:
            what = "pairs whose sides answer different words; the last turn of either alone is scored"
            lines.append(f"data: {self.own_turns} {what}")
        if self.flipped:
            lines.append(f"data: {self.flipped} pairs have their sides swapped (flip)")
        if self.unknown_columns:
            lines.append(f"data: columns not used: {counts_of(self.unknown_columns)}{self._slips()}")
        if self.skipped:
            share = 100 * len(self.skipped) / max(1, self.rows)
            first = self.skipped[0]
            lines.append(f"data: {len(self.skipped)} broken rows left out ({share:.1f} %); {first.reason}")
        return lines

    def unseeing_line(self, media: Collection[str]) -> str | None:
        """That no sample has a medium although the model reads `media`; None if one has, or it reads none."""
        if not media or self.seeing or not self.kept:
            return None
        what = "picture or clip" if "video" in media else "picture"
        line = f"{self.title}: none of {self.kept} samples has a {what}, and the model would see text alone"
        if not self.media_columns:
            return line
        column, kind = next(iter(self.media_columns.items()))
        hint = f"; set data.columns: {{{kind}s: {column}}}" if set(self.formats) <= {"canonical"} else ""
        return f"{line}; columns not used that look like media: {', '.join(self.media_columns)}{hint}"

    def unrated_line(self) -> str:
        """Answers that take part in no pair, since one of their ratings is no number."""
        counted = "1 answer" if self.unrated_answers == 1 else f"{self.unrated_answers} answers"
        return f"{counted} left out: a rating is missing or no number"

    def reversed_line(self) -> str:
        """Pairs whose scores speak against their order."""
        count = f"{self.reversed_scores} of {self.scored_pairs} rows"
        return f"{count}: the chosen side's score is below the rejected one's"

    def _slips(self) -> str:
        """Unused columns that look like a misspelt field: a picture, say, would just be missing."""
        long = [name for name in self.unknown_columns if len(name) > 3]
        pairs = [(name, difflib.get_close_matches(name, CANONICAL, 1, 0.75)) for name in long]
        found = [f"is {name!r} meant to be {near[0]!r}?" for name, near in sorted(pairs) if near]
        return f"; {' '.join(found)}" if found else ""

    def _formats(self) -> list[str]:
        """What the rows were recognised as, unless they are the project's own."""
        if set(self.formats) <= {"canonical"}:
            return []
        lines = []
        for name, count in sorted(self.formats.items()):
            what = f"read as {name} rows" if len(self.formats) == 1 else f"{count} rows read as {name}"
            told = [sign for sign in self.signs[name] if sign in self.unknown_columns]
            read = ", ".join(sign for sign in self.signs[name] if sign not in told)
            lines.append(f"data: {self.title} {what} ({read}{'; told by ' if told else ''}{', '.join(told)})")
        return lines


def counts_of(counter: Mapping[str, int]) -> str:
    """Names with their counts, in the order of the names."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))
