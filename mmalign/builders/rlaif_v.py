"""RLAIF-V: answers of one model paired by how many of their claims are false (arXiv 2405.17220)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from mmalign._build import build_named, named_tree
from mmalign._names import KINDS
from mmalign.builders import _claims
from mmalign.builders._asking import about, words_of
from mmalign.builders._candidates import TOO_FEW, Asked, Group, distinct
from mmalign.builders._model import OwnWords
from mmalign.builders._whole_rows import NewRow, Remade, RowBuilder, Tools
from mmalign.types import Adapter, Message, Part, UserError, derive_seed
from mmalign.writing import Weighing, Writer

UNREAD = "answers whose claims could not be read"
UNASKED = "answers whose questions could not be read"
SILENT = "answers that make no claim"
CLOSE = "prompts without two answers so far apart in false claims"
SPARE = "pairs beyond those drawn"
LONGER = "pairs whose rejected answer is longer by more than {:g} of it"


@dataclass(frozen=True)
class _Checked:
    """An answer with its claims and what was found of each; without any where the answer has no score."""

    answer: str
    seed: int
    claims: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    yes: tuple[float, ...] = ()  # of each question the chance of yes, and of no
    no: tuple[float, ...] = ()

    @property
    def verdicts(self) -> list[bool]:
        return [yes > no for yes, no in zip(self.yes, self.no, strict=True)]

    @property
    def score(self) -> int | None:
        return _claims.score_of(self.verdicts) if self.claims else None

    def told(self) -> list[dict[str, Any]]:
        listed = zip(self.claims, self.questions, self.verdicts, self.yes, self.no, strict=True)
        return [
            {"claim": claim, "question": question, "true": true, "yes": round(yes, 6), "no": round(no, 6)}
            for claim, question, true, yes, no in listed
        ]


@dataclass(frozen=True)
class RlaifV(RowBuilder):
    """Samples `n` answers per prompt from one model, so that they differ in content and not in style. The
    helper divides each into claims and turns these into questions; `labeller`, a writer that tells chances,
    answers them under the prompt's media, as a question in the words of `ask`. A claim is true if the chances
    of `yes` are together above those of `no`; the score of an answer is minus its false claims.

    Of all pairs whose scores are `min_gap` or more apart, `most` per prompt are drawn. At the end, with
    `debias`, pairs whose rejected answer is longer by more than a share of itself are left out; that share is
    chosen so that chosen and rejected answers have mean lengths as near as can be. Answers that make no claim
    and those whose claims or questions cannot be read have no score (this project's own: the released code
    scores the former 0). Without a helper, or without a labeller, the model itself does their work.
    """

    n: int = 10  # answers sampled per prompt
    # section of a writer that tells chances; null: the model itself
    labeller: dict[str, Any] | None = field(default=None, metadata={"section": "helper"})
    # words of a question to the labeller, with {question} in its place
    ask: str = "{question} Please answer yes or no."
    yes: tuple[str, ...] = _claims.YES  # words whose chances together say that a claim is true
    no: tuple[str, ...] = _claims.NO  # words whose chances together say that it is false
    min_gap: int = 1  # false claims that rejected must have more than chosen, at least
    most: int = 2  # pairs of a prompt, drawn if there are more
    debias: bool = True  # leave out pairs whose rejected answer is far longer, until mean lengths are alike

    copies: ClassVar[bool] = False
    asks_helper: ClassVar[Literal["no", "yes", "may"]] = "may"

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ValueError(f"n: must be 2 or more, got {self.n}")
        for name in ("min_gap", "most"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be 1 or more, got {getattr(self, name)}")
        if self.ask.count("{question}") != 1:
            raise ValueError(f"ask: must hold {{question}} once, got {self.ask!r}")
        if not self.yes or not self.no:
            raise ValueError("yes: name at least one word each for yes and no")
        if self._named is not None:  # defaults written out, as in every other section
            object.__setattr__(self, "labeller", named_tree(KINDS["helper"], self._named))

    def ready_for(self, adapter: Adapter) -> None:
        """Loads the labeller. Raises UserError for one that tells no chances, or if the model is to be it and
        cannot."""
        labeller = self._named
        if labeller is None:
            if "distribution" not in adapter.offers:
                raise UserError(
                    f"builder.labeller: {type(adapter).__name__} tells no chances of words; name a writer "
                    "that does"
                )
            return
        if not isinstance(labeller, Weighing):
            raise UserError(
                f"builder.labeller: {type(labeller).__name__} tells no chances of words; use writer local"
            )
        labeller.ready()

    @cached_property
    def _named(self) -> Writer | None:
        if self.labeller is None:
            return None
        # whether code outside the package may be named was decided before this section was built
        found: Writer = build_named(KINDS["helper"], self.labeller, "labeller", allow_code=True)
        return found

    def make(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[Remade]:
        """Sample, check and pair the answers to every prompt."""
        sampled = self._sampled(rows, tools, seed)
        fit = [group for group, _ in sampled if len(group.answers) > 1]
        checked, lost = self._checked(fit, tools, seed)
        made = []
        for group, counts in sampled:
            if group.id not in checked:
                made.append(Remade(counts=counts + Counter({TOO_FEW: 1})))
                continue
            remade = self._paired(group, checked[group.id], seed)
            made.append(replace(remade, counts=remade.counts + counts + lost[group.id]))
        return made

    def sift(self, rows: Iterable[Mapping[str, Any]]) -> Mapping[str, str]:
        """Pairs that are left out for the sake of equal lengths."""
        if not self.debias:
            return {}
        lengths = {r["id"]: (_claims.words_of(r["chosen"]), _claims.words_of(r["rejected"])) for r in rows}
        limit = _claims.length_limit(list(lengths.values()))
        reason = LONGER.format(float(limit))
        return {name: reason for name, pair in lengths.items() if not _claims.within(pair, limit)}

    # ------------------------------------------------------------ answers and their claims

    def _sampled(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[tuple[Group, Counter[str]]]:
        seeds = [[_seed(seed, row, "build") + place for place in range(self.n)] for row in rows]
        prompts = [row.turns for row in rows for _ in range(self.n)]
        answers = tools.adapter.generate(tools.model, prompts, [one for own in seeds for one in own])
        found = []
        for place, (row, own) in enumerate(zip(rows, seeds, strict=True)):
            part = tuple(answers[place * self.n : (place + 1) * self.n])
            found.append(distinct(Group(row.id, row.turns, part, tuple(own))))
        return found

    def _checked(
        self, groups: Sequence[Group], tools: Tools, seed: int
    ) -> tuple[dict[str, list[_Checked]], dict[str, Counter[str]]]:
        """The answers of every group with what was found of their claims, and counts of those left out."""
        counts: dict[str, Counter[str]] = {group.id: Counter() for group in groups}
        asked = [(group, place) for group in groups for place in range(len(group.answers))]
        checked = [_Checked(str(group.answers[at].data).strip(), group.seeds[at]) for group, at in asked]
        first = [
            _claims.ask_claims(words_of(group.prompt), one.answer)
            for (group, _), one in zip(asked, checked, strict=True)
        ]
        said = tools.helper.write(first, [derive_seed(seed, 0, str(one.seed), "claims") for one in checked])
        for number, text in enumerate(said):
            claims = None if text is None else _claims.read_claims(text)
            if not claims:
                counts[asked[number][0].id][UNREAD if claims is None else SILENT] += 1
            checked[number] = replace(checked[number], claims=claims or ())
        left = [number for number, one in enumerate(checked) if one.claims]
        said = tools.helper.write(
            [_claims.ask_questions(checked[number].claims) for number in left],
            [derive_seed(seed, 0, str(checked[number].seed), "questions") for number in left],
        )
        for number, text in zip(left, said, strict=True):
            one = checked[number]
            questions = None if text is None else _claims.read_questions(text, len(one.claims))
            if questions is None:
                counts[asked[number][0].id][UNASKED] += 1
            kept = one.claims if questions is not None else ()
            checked[number] = replace(one, claims=kept, questions=questions or ())
        self._label([group for group, _ in asked], checked, tools)
        found: dict[str, list[_Checked]] = {group.id: [] for group in groups}
        for (group, _), one in zip(asked, checked, strict=True):
            found[group.id].append(one)
        return found, counts

    def _label(self, groups: Sequence[Group], checked: list[_Checked], tools: Tools) -> None:
        """Put into every answer the chances of yes and no; a question is asked once per prompt."""
        asked: dict[tuple[str, str], tuple[Message, ...]] = {}
        for group, one in zip(groups, checked, strict=True):
            for question in one.questions:
                asked.setdefault((group.id, question), self._question(group, question))
        labeller: Any = self._named or OwnWords(tools.adapter, tools.model)
        chances = labeller.chances(list(asked.values()), (*self.yes, *self.no))
        found = dict(zip(asked, chances, strict=True))
        for number, (group, one) in enumerate(zip(groups, checked, strict=True)):
            own = [found[group.id, question] for question in one.questions]
            checked[number] = replace(
                one,
                yes=tuple(sum(each[: len(self.yes)]) for each in own),
                no=tuple(sum(each[len(self.yes) :]) for each in own),
            )

    def _question(self, group: Group, question: str) -> tuple[Message, ...]:
        media = [part for turn in group.prompt for part in turn.parts if part.kind != "text"]
        return about(self.ask.replace("{question}", question), media)

    # ------------------------------------------------------------ pairs

    def _paired(self, group: Group, answers: Sequence[_Checked], seed: int) -> Remade:
        scores = [one.score for one in answers]
        rng = random.Random(derive_seed(seed, 0, group.id, "rlaif_v"))
        drawn, spare = _claims.choose_pairs(scores, self.min_gap, self.most, rng)
        counts = Counter({SPARE: spare, CLOSE: not drawn})
        return Remade(tuple(self._row(group, answers, pair) for pair in drawn), +counts)

    def _row(self, group: Group, answers: Sequence[_Checked], pair: tuple[int, int]) -> NewRow:
        chosen, rejected = (answers[place] for place in pair)
        assert chosen.score is not None and rejected.score is not None, "only scored answers are paired"
        columns = {
            "chosen_score": chosen.score,
            "rejected_score": rejected.score,
            "margin": chosen.score - rejected.score,
        }
        told = {
            "chosen": pair[0],
            "rejected": pair[1],
            "seeds": [one.seed for one in answers],
            "scores": [one.score for one in answers],
            "claims": {"chosen": chosen.told(), "rejected": rejected.told()},
        }
        sides = {"chosen": Part("text", chosen.answer), "rejected": Part("text", rejected.answer)}
        return NewRow(f"{pair[0]}-{pair[1]}", group.prompt, sides, columns=columns, told=told)


def _seed(seed: int, row: Asked, purpose: str) -> int:
    """A seed that leaves room to count up from it."""
    return derive_seed(seed, 0, row.id, purpose) >> 1
