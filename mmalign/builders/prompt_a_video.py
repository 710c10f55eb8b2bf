"""Prompt-A-Video: rewrites of prompts, paired by what a media model makes of them (arXiv 2412.15156)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mmalign.builders import _asking
from mmalign.builders._candidates import TOO_FEW, Asked, Group, distinct
from mmalign.builders._whole_rows import NewRow, Remade, RowBuilder, Tools
from mmalign.rewards._scoring import score_readable
from mmalign.rewards._wrapping import check_template, wrapped
from mmalign.types import Adapter, Message, Part, UserError, derive_seed

MEDIA = "prompts that show a picture or clip"
DIGITS = "prompts with too many digits"
UNREAD = "rewrites whose score could not be read"
POOR = "rewrites among the best of which a score is too low"
CLOSE = "pairs whose scores lie too close"
LONG = "pairs whose chosen rewrite has too many words"

_WEIGHTS = {"VQ": 1.0, "TC": 1.0, "FC": 1.0, "DD": 1.1, "TVA": 1.3, "AES": 0.8, "MPS": 1 / 3}
_LEAST = {"VQ": 2.6, "TC": 2.6, "FC": 2.55, "DD": 2.65, "TVA": 2.9, "AES": 5.5, "MPS": 8.5}


@dataclass(frozen=True)
class PromptAVideo(RowBuilder):
    """Samples `n` rewrites of every prompt and sets the best one or two against those that score far lower.

    The judge gives named scores of a rewrite under the original prompt, as `painted` does from what a media
    model makes of it. Their sum with `weights` ranks the rewrites. Each of the `top` ranks is chosen if every
    score that `least` names lies above its bound, against all lower ranks whose sum is more than `gap` below.
    Left out are prompts with media or with more than `max_digits` digits, and pairs whose chosen rewrite has
    more than `max_words` words. The names in the defaults are those of the paper's scorers: visual quality,
    temporal and factual consistency, dynamics, alignment, aesthetic score and MPS. The model is asked
    `template` with the prompt in its place, as a user's turn where `chat`, and rows hold what it was asked.
    """

    n: int = 5  # rewrites sampled per prompt
    template: str = (
        "Rewrite this prompt for a video generator, so that the video shows what it says, looks good and "
        "moves. Reply with the new prompt alone.\nPrompt: {prompt}"
    )  # what the model is asked, with {prompt} in its place
    chat: bool = True  # ask as a user's turn, not as plain text
    # of the judge's scores, by name, in the sum that ranks rewrites
    weights: dict[str, float] = field(default_factory=lambda: dict(_WEIGHTS))
    # bounds that scores of a chosen rewrite must lie above, by name
    least: dict[str, float] = field(default_factory=lambda: dict(_LEAST))
    top: int = 2  # so many best ranks may be chosen
    gap: float = 1.4  # sums must lie further apart than this
    max_words: int = 130  # words of a chosen rewrite, at most
    max_digits: int = 2  # digits of a prompt, at most

    copies: ClassVar[bool] = False
    asks_judge: ClassVar[bool | Literal["may"]] = True

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ValueError(f"n: must be 2 or more, got {self.n}")
        if not 1 <= self.top < self.n:
            raise ValueError(f"top: must be from 1 to less than n, got {self.top}")
        check_template(self.template)
        if not self.weights:
            raise ValueError("weights: name at least one score")
        for name, value in (("gap", self.gap), ("max_digits", self.max_digits)):
            if value < 0:
                raise ValueError(f"{name}: must be 0 or more, got {value:g}")
        if self.max_words < 1:
            raise ValueError(f"max_words: must be 1 or more, got {self.max_words}")

    def ready_for(self, adapter: Adapter) -> None:
        """Every model that answers in words will do."""

    def make(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[Remade]:
        """The pairs of every prompt; all rewrites are sampled in one call and scored in another."""
        groups: dict[str, Group] = {}
        counts = {row.id: Counter[str]() for row in rows}
        fit = []
        for row in rows:
            if any(part.kind != "text" for turn in row.turns for part in turn.parts):
                counts[row.id][MEDIA] += 1
            elif sum(one.isdigit() for one in _asking.words_of(row.turns)) > self.max_digits:
                counts[row.id][DIGITS] += 1
            else:
                fit.append(row)
        for group, lost in self._sampled(fit, tools, seed):
            counts[group.id] += lost
            if len(group.answers) > 1:
                groups[group.id] = group
            else:
                counts[group.id][TOO_FEW] += 1
        asked = [
            (_caption(row), answer, row.id)
            for row in fit
            if row.id in groups
            for answer in groups[row.id].answers
        ]
        listed = map(list, zip(*asked, strict=True)) if asked else ([], [], [])
        scores = iter(score_readable(tools.judge, *listed))
        made: dict[str, tuple[NewRow, ...]] = {}
        for row in fit:
            if row.id in groups:
                own = [next(scores) for _ in groups[row.id].answers]
                made[row.id] = self._paired(row, groups[row.id], own, counts[row.id])
        return [Remade(made.get(row.id, ()), +counts[row.id]) for row in rows]

    def total(self, scores: Mapping[str, float]) -> float:
        """The sum that rewrites are ranked by. Raises UserError for a judge that lacks one of the scores."""
        if missing := sorted({*self.weights, *self.least} - set(scores)):
            raise UserError(
                f"judge: gives no score {missing[0]!r}, which builder.weights or builder.least names; "
                f"it gives {', '.join(scores)}"
            )
        return sum(weight * scores[name] for name, weight in self.weights.items())

    def _asked(self, row: Asked) -> tuple[Message, ...]:
        text = wrapped(_asking.words_of(row.turns), self.template)
        return (Message("user" if self.chat else "text", (Part("text", text),)),)

    def _sampled(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[tuple[Group, Counter[str]]]:
        """The different rewrites of every prompt, and counts of the others."""
        seeds = [[(derive_seed(seed, 0, row.id, "build") >> 1) + i for i in range(self.n)] for row in rows]
        prompts = [self._asked(row) for row in rows for _ in range(self.n)]
        flat = [one for own in seeds for one in own]
        answers = tools.adapter.generate(tools.model, prompts, flat) if rows else []
        found = []
        for place, (row, own) in enumerate(zip(rows, seeds, strict=True)):
            texts = answers[place * self.n : (place + 1) * self.n]
            parts = tuple(Part("text", one.data.strip()) for one in texts)
            found.append(distinct(Group(row.id, self._asked(row), parts, tuple(own))))
        return found

    def _paired(
        self, row: Asked, group: Group, scores: Sequence[Mapping[str, float] | None], counts: Counter[str]
    ) -> tuple[NewRow, ...]:
        totals = {i: self.total(own) for i, own in enumerate(scores) if own is not None}
        counts[UNREAD] += len(scores) - len(totals)
        order = sorted(totals, key=lambda place: -totals[place])
        made = []
        for rank, chosen in enumerate(order[: self.top]):
            own = scores[chosen] or {}
            if not all(own[name] > bound for name, bound in self.least.items()):
                counts[POOR] += 1
                continue
            lower = order[rank + 1 :]
            far = [other for other in lower if totals[chosen] - totals[other] > self.gap]
            counts[CLOSE] += len(lower) - len(far)
            if len(str(group.answers[chosen].data).split()) > self.max_words:
                counts[LONG] += len(far)
                continue
            made += [_new_row(group, chosen, other, totals, scores) for other in far]
        return tuple(made)


def _caption(row: Asked) -> tuple[Message, ...]:
    """The original prompt, as judges are told it."""
    return (Message("text", (Part("text", _asking.words_of(row.turns)),)),)


def _new_row(
    group: Group,
    chosen: int,
    rejected: int,
    totals: Mapping[int, float],
    scores: Sequence[Mapping[str, float] | None],
) -> NewRow:
    sides = {"chosen": chosen, "rejected": rejected}
    columns = {f"{side}_score": totals[place] for side, place in sides.items()}
    columns["margin"] = totals[chosen] - totals[rejected]
    told = {**sides, "seeds": list(group.seeds), "scores": [None if s is None else dict(s) for s in scores]}
    answers = {side: group.answers[place] for side, place in sides.items()}
    return NewRow(f"{chosen}-{rejected}", group.prompt, answers, columns=columns, told=told)
