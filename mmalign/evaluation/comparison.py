"""What a comparison of two models found: the answers, their scores, and the figures computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mmalign.evaluation import _files
from mmalign.evaluation.changes import Changes, apart, changes
from mmalign.evaluation.means import Means, paired_means
from mmalign.evaluation.win_rate import WinRate, win_rate
from mmalign.rewards._scoring import TOTAL as TOTAL  # the score that responses are compared by
from mmalign.types import Part, UserError

Groups = Mapping[str, tuple[str, ...]]
"""What a prompt belongs to, by kind: {"category": ("Animals",), "challenge": ("Basic",)}."""


@dataclass(frozen=True)
class Answered:
    """One prompt with both models' responses. `text` is the prompt in words, `media` the pictures in it,
    a clip being one picture of its frames; the scores are empty where nothing judged them."""

    id: str
    text: str
    media: tuple[Part, ...]
    base: Part
    tuned: Part
    base_scores: Mapping[str, float]
    tuned_scores: Mapping[str, float]
    groups: Groups = field(default_factory=dict)


@dataclass(frozen=True)
class JudgeNote:
    """Who scored: a judge's name, what it says of itself, and whether it is an `unchecked` build whose scores
    nobody has held against published ones. Its scores are called `prefix` + name. `verbal`: it writes its
    verdicts, of which some may not be readable."""

    name: str
    words: str = ""
    unchecked: bool = False
    prefix: str = ""
    verbal: bool = False

    @property
    def total(self) -> str:
        """The name of its total among the scores."""
        return self.prefix + TOTAL


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of the prompts, the evaluation's seed, and the step of the run whose weights answered
    as the tuned model, where known; `costs` names scores of which less is better, `judges` says who scored,
    the one that decides first. Figures are computed from the rows."""

    rows: tuple[Answered, ...]
    seed: int
    step: int | None = None
    costs: tuple[str, ...] = ()
    judges: tuple[JudgeNote, ...] = ()

    def __post_init__(self) -> None:
        judged = {TOTAL in scores for row in self.rows for scores in (row.base_scores, row.tuned_scores)}
        if not judged or (len(judged) > 1 and not any(note.verbal for note in self.judges[:1])):
            raise ValueError(f"rows must be one or more, with a {TOTAL!r} for all responses or for none")

    @property
    def names(self) -> list[str]:
        """Names of the scores that some prompt has for both answers: every judge's total first, by judge."""
        found = {name for row in self.rows for name in row.base_scores if name in row.tuned_scores}
        first = [TOTAL, *(judge.total for judge in self.judges if judge.prefix)]
        listed = [name for name in first if name in found]
        return [*listed, *sorted(found - set(listed), key=lambda name: ("/" in name, name))]

    @property
    def totals(self) -> list[str]:
        """Names of the judges' totals, the deciding one first."""
        totals = {TOTAL, *(judge.total for judge in self.judges)}
        return [name for name in self.names if name in totals]

    @property
    def win_rate(self) -> WinRate | None:
        """The tuned model's win rate on the first judge's total; None without a judge."""
        return self.win_rates.get(TOTAL)

    @property
    def win_rates(self) -> dict[str, WinRate]:
        """The tuned model's win rate on every score; of a cost the lower number wins."""
        return {name: self._rate(name, self.rows) for name in self.names}

    @property
    def unread(self) -> dict[str, int]:
        """By judge, how many of its verdicts on the answers could not be read, where there are any; a prompt
        with such a verdict does not count in that judge's figures."""
        given = [scores for row in self.rows for scores in (row.base_scores, row.tuned_scores)]
        found = {
            note.name: sum(note.total not in scores for scores in given)
            for note in self.judges
            if note.verbal
        }
        return {name: count for name, count in found.items() if count}

    @property
    def means(self) -> dict[str, Means]:
        """Means by name, in the order of `names`; a prompt counts if both answers have the score."""
        return {name: paired_means(_both(name, self.rows)) for name in self.names}

    @property
    def changes(self) -> dict[str, Changes]:
        """Changes from prompt to prompt by name, in the order of `names`."""
        return {name: changes(_both(name, self.rows), name in self.costs) for name in self.names}

    def group_rates(self, score: str) -> dict[tuple[str, str], WinRate]:
        """Win rates on one score within every group of prompts, by kind of group and its name."""
        members: dict[tuple[str, str], list[Answered]] = {}
        for row in self.rows:
            if score in row.base_scores and score in row.tuned_scores:
                for kind, listed in row.groups.items():
                    for group in listed:
                        members.setdefault((kind, group), []).append(row)
        kinds = list(dict.fromkeys(kind for kind, _ in members))
        ordered = sorted(members, key=lambda key: (kinds.index(key[0]), key[1]))
        return {key: self._rate(score, members[key]) for key in ordered}

    def _rate(self, name: str, rows: Sequence[Answered]) -> WinRate:
        base, tuned = zip(*_both(name, rows), strict=True)
        return win_rate(tuned, base) if name in self.costs else win_rate(base, tuned)

    def grouped(self, groups: Mapping[str, Groups]) -> Comparison:
        """The same comparison with the groups of every prompt, by its id."""
        return replace(self, rows=tuple(replace(row, groups=groups.get(row.id, {})) for row in self.rows))

    def figures(self) -> dict[str, object]:
        """Win rates and means as JSON values."""
        means, rates = (
            {name: asdict(value) for name, value in found.items()} for found in (self.means, self.win_rates)
        )
        return {"win_rate": rates.get(TOTAL), "win_rates": rates, "means": means, "unread": self.unread}

    def lines(self) -> list[str]:
        """The same in plain lines."""
        rate, told = self.win_rate, ["no judge: responses are in the report, unscored"]
        if rate is not None:
            interval = f"[{rate.low:.1%}, {rate.high:.1%}]"
            told = [f"win rate {rate.rate:.1%} {interval}, ties {rate.ties:.1%}, {rate.num} prompts"]
        told += [
            f"{note.name}: not checked against published numbers" for note in self.judges if note.unchecked
        ]
        told += [
            f"{name}: {count} of {2 * len(self.rows)} verdicts could not be read; their prompts are left out"
            for name, count in self.unread.items()
        ]
        for name, mean in self.means.items():
            won = f"   wins {self.win_rates[name].rate:.1%}"
            base, tuned = apart(mean.base, mean.tuned)
            told.append(f"{name:14} {base:>8} -> {tuned:>8}{won}")
        return told

    def write(self, folder: Path) -> Path:
        """Write evaluation/results.json and the pictures into a run folder; returns the JSON file.

        An earlier evaluation there is replaced. No times and no paths are written.
        """
        figures: dict[str, object] = {"win_rate": self.win_rate, "win_rates": self.win_rates}
        figures["groups"] = [
            {"score": total, "kind": kind, "group": group, "win_rate": rate}
            for total in self.totals
            for (kind, group), rate in self.group_rates(total).items()
        ]
        figures |= {
            "means": self.means,
            "changes": self.changes,
            "costs": list(self.costs),
            "unread": self.unread,
            "judges": list(self.judges),
        }
        return _files.write(folder, self.rows, {"seed": self.seed, "step": self.step}, figures)


def read(folder: Path) -> Comparison | None:
    """The comparison in a run folder, None if it has none; UserError if the files are not a comparison."""
    path = folder / "evaluation" / "results.json"
    if not path.exists():
        return None
    try:
        found = _files.read(path)
        judges = tuple(JudgeNote(**judge) for judge in found.judges)
        rows = tuple(Answered(**row) for row in found.rows)
        return Comparison(rows, found.seed, found.step, found.costs, judges)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a comparison ({type(error).__name__}: {error}); evaluate the run again"
        ) from error


def _both(name: str, rows: Sequence[Answered]) -> list[tuple[float, float]]:
    """A score of both answers, (base, tuned), of the prompts that have it."""
    return [
        (row.base_scores[name], row.tuned_scores[name])
        for row in rows
        if name in row.base_scores and name in row.tuned_scores
    ]
