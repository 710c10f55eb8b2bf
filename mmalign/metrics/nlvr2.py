"""NLVR2 (arXiv 1811.00491): is a statement true of two pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from mmalign.metrics._choices import ChoiceItem, ChoiceMetric
from mmalign.metrics._reading import asked, check_paths, medium, one_of, rows_of, unique, word
from mmalign.metrics._seam import Graded, Numbers, Sums, ratio
from mmalign.metrics._truth import truth
from mmalign.types import UserError


@dataclass(frozen=True)
class Nlvr2(ChoiceMetric):
    """acc, the share of right answers, and consistency, that of statements which are judged rightly of all
    their pairs of pictures; a statement counts where all of its pairs in the file were answered.

    `questions`: lines with `identifier`, `sentence` and `label` (True or False); `images`: the folder of the
    pictures, named by the identifier without its last part, then -img0.png and -img1.png. An answer says
    true or false, or yes or no, as its first word or of the statement ("it is not true"). No published scorer
    for written answers was read.
    """

    asks = "nlvr2"

    questions: str  # lines of JSON with `identifier`, `sentence` and `label`
    images: str  # folder of the pictures, IDENTIFIER-img0.png and -img1.png
    # what is asked, with {sentence} in its place
    prompt: str = "Is this statement true of the two pictures? {sentence} Answer True or False."

    def __post_init__(self) -> None:
        check_paths(questions=self.questions, images=self.images)
        if "{sentence}" not in self.prompt:
            raise ValueError("prompt: must hold {sentence}, where the statement goes")

    @cached_property
    def items(self) -> Mapping[str, ChoiceItem]:
        """Every statement with its two pictures."""
        found, ids = {}, []
        for where, row in rows_of(self.questions):
            name, sentence = word(row, "identifier", where), word(row, "sentence", where)
            if len(name.split("-")) != 4:
                raise UserError(f"{where}: identifier must have four parts, as dev-850-0-0, got {name!r:.60}")
            ids.append(name)
            pair = name.rpartition("-")[0]
            pictures = [medium("image", self.images, f"{pair}-img{i}.png") for i in (0, 1)]
            turns = asked(*pictures, self.prompt.replace("{sentence}", sentence))
            label = one_of(row, "label", ("True", "False"), where)
            found[name] = ChoiceItem(name, turns, label, ("True", "False"), name.split("-")[1])
        unique(ids, self.questions)
        return found

    def said(self, item: ChoiceItem, answer: str) -> str | None:
        """True or False, where an answer is clear."""
        found = truth(answer)
        return None if found is None else str(found)

    def grade(self, answers: Mapping[str, str]) -> list[Graded]:
        """One item per question, and one per statement of which every pair was answered."""
        found = super().grade(answers)
        right = {item.id: item.counts["right"] for item in found}
        statements: dict[str, list[str]] = {}
        for name in self.items:
            _, group, _, sentence = name.split("-")
            statements.setdefault(f"{group}-{sentence}", []).append(name)
        for name, pairs in statements.items():
            if right.keys() >= set(pairs):
                counts = {"statements": 1.0, "consistent": float(all(right[pair] for pair in pairs))}
                found.append(Graded(f"statement {name}", counts, cluster=name.split("-")[0], asked=False))
        return found

    def values(self, sums: Sums) -> dict[str, Numbers]:
        """acc, unanswered and consistency."""
        return {**super().values(sums), "consistency": ratio(sums["consistent"], sums["statements"])}
