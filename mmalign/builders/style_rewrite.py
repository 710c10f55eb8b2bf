"""Answers said again in a model's own style, where the meaning stays (Align2LLaVA, arXiv 2409.18541)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mmalign.builders import _asking
from mmalign.builders._candidates import Asked
from mmalign.builders._store import AS_BEFORE
from mmalign.builders._whole_rows import NewRow, Remade, RowBuilder, Tools
from mmalign.rewards._scoring import TOTAL, score_readable
from mmalign.rewards._templates import check_template, question
from mmalign.types import Adapter, Part, derive_seed

UNFIT = "rows without an answer in words"
UNWRITTEN = "rewrites that do not have the form that was asked for"
SAME = "rewrites that repeat the answer"
DRIFTED = "rewrites that change what the answer says"
UNREAD = "rewrites on which the verdict could not be read"
WORSE = "rewrites that the judge scores lower than the answer"

_YES, _NO = "yes", "no"
_REPLY = re.compile(r"\s*Rewritten:[ \t]*\n(?P<text>.+)", re.DOTALL)


@dataclass(frozen=True)
class StyleRewrite(RowBuilder):
    """Has every row's answer written again as the writer would say it, and checked; rows hold what stands.

    The writer, the helper or else the model itself, is told question and answer and no pictures; its reply
    is a line Rewritten: with the new answer below. With verify writer it is then asked by `verify_template`
    whether both answers say the same, and must reply yes; with a judge, the rewrite must score no more than
    `max_loss` below the answer. A rewrite that fails, or on which a verdict cannot be read, is put back to
    the answer as it was (on_drift revert, as the source has it), or its row left out (drop); both are
    counted, apart. Both templates are this project's own words: none are published.
    """

    # who says whether a rewrite says the same: the writer, or nobody
    verify: Literal["writer", "none"] = "writer"
    # a rewrite that fails: put the answer back, or leave out the row
    on_drift: Literal["revert", "drop"] = "revert"
    max_loss: float = 0.0  # with a judge: what a rewrite may score below the answer
    template: str = (
        "This is the answer to the question {question}\nWrite it again in your own words. Keep every fact "
        "as it is, add none and leave none out. Reply with the line Rewritten: and below it the new answer, "
        "and nothing else.\n\nText:\n{answer}"
    )  # question to the writer, with {question} and {answer}
    verify_template: str = (
        "These are two answers to the question {question}\nDo they say exactly the same, with nothing added, "
        "left out or changed? Reply with yes or no alone.\n\nFirst text:\n{answer}\n\nSecond text:\n{rewrite}"
    )  # question whether both say the same, with {question}, {answer} and {rewrite}

    writes: ClassVar[str] = "rows"
    asks_judge: ClassVar[bool | Literal["may"]] = "may"
    asks_helper: ClassVar[Literal["no", "yes", "may"]] = "may"

    def __post_init__(self) -> None:
        known = frozenset({"question", "answer"})
        check_template("template", self.template, frozenset({"answer"}), known)
        both = frozenset({"answer", "rewrite"})
        check_template("verify_template", self.verify_template, both, known | both)
        if self.max_loss < 0:
            raise ValueError(f"max_loss: must be 0 or more, got {self.max_loss:g}")

    def ready_for(self, adapter: Adapter) -> None:
        """Every model that answers in words will do."""

    def make(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[Remade]:
        """One row per row at most; every step asks for all of them in one call."""
        answers = ["".join(p.data if p.kind == "text" else "" for p in row.original).strip() for row in rows]
        fit = [place for place, answer in enumerate(answers) if answer]
        rewrites = self._rewritten(rows, answers, fit, tools, seed)
        reasons: dict[int, str] = {}
        for place, text in rewrites.items():
            if not text:
                reasons[place] = UNWRITTEN
            elif _asking.bare(text) == _asking.bare(answers[place]):
                reasons[place] = SAME
        self._ask_writer(rows, answers, rewrites, reasons, tools, seed)
        self._ask_judge(rows, answers, rewrites, reasons, tools.judge)
        return [
            self._remade(row, answers[place], rewrites.get(place, ""), reasons.get(place), _seed(seed, row))
            if answers[place]
            else Remade(counts=Counter({UNFIT: 1}))
            for place, row in enumerate(rows)
        ]

    def _remade(self, row: Asked, answer: str, rewrite: str, reason: str | None, seed: int) -> Remade:
        """The row with the answer that stands, and what was wrong with its rewrite."""
        if reason is not None and self.on_drift == "drop":
            return Remade(counts=Counter({reason: 1}))
        counts = Counter({AS_BEFORE + reason: 1} if reason is not None else {})
        told: dict[str, Any] = {"rewritten": reason is None, "seeds": {"rewrite": seed}}
        told |= {"answer": answer} if reason is None else {"rewrite": rewrite, "reason": reason}
        standing = Part("text", rewrite if reason is None else answer)
        return Remade((NewRow("rewrite", row.turns, {"chosen": standing}, told=told),), counts)

    def _rewritten(
        self, rows: Sequence[Asked], answers: Sequence[str], fit: Sequence[int], tools: Tools, seed: int
    ) -> dict[int, str]:
        """What the writer makes of the answers, by place; "" where it gives nothing."""
        asked = [
            question(self.template, {"question": _question(rows[i]), "answer": answers[i]}, ()) for i in fit
        ]
        seeds = [_seed(seed, rows[i]) for i in fit]
        found = tools.helper.write(asked, seeds)
        replies = [_REPLY.fullmatch(text or "") for text in found]
        return {
            place: match["text"].strip() if match else "" for place, match in zip(fit, replies, strict=True)
        }

    def _ask_writer(
        self,
        rows: Sequence[Asked],
        answers: Sequence[str],
        rewrites: dict[int, str],
        reasons: dict[int, str],
        tools: Tools,
        seed: int,
    ) -> None:
        """Add the writer's reasons against rewrites that have none yet."""
        places = [place for place in rewrites if place not in reasons and self.verify == "writer"]
        asked = [
            question(
                self.verify_template,
                {"question": _question(rows[i]), "answer": answers[i], "rewrite": rewrites[i]},
                (),
            )
            for i in places
        ]
        seeds = [derive_seed(seed, 0, rows[i].id, "style_rewrite verify") for i in places]
        for place, text in zip(places, tools.helper.write(asked, seeds), strict=True):
            verdict = _asking.read_word(text, (_YES, _NO))
            if verdict != _YES:
                reasons[place] = DRIFTED if verdict == _NO else UNREAD

    def _ask_judge(
        self,
        rows: Sequence[Asked],
        answers: Sequence[str],
        rewrites: dict[int, str],
        reasons: dict[int, str],
        judge: Any,
    ) -> None:
        """Add the judge's reasons against rewrites that have none yet."""
        places = [place for place in rewrites if place not in reasons and judge is not None]
        if not places:
            return
        texts = [text for place in places for text in (rewrites[place], answers[place])]
        prompts = [rows[place].turns for place in places for _ in range(2)]
        names = [rows[place].id for place in places for _ in range(2)]
        found = score_readable(judge, prompts, [Part("text", text) for text in texts], names)
        for place, new, old in zip(places, found[::2], found[1::2], strict=True):
            if new is None or old is None:
                reasons[place] = UNREAD
            elif new[TOTAL] < old[TOTAL] - self.max_loss:
                reasons[place] = WORSE


def _seed(seed: int, row: Asked) -> int:
    """What a row's rewrite is drawn from."""
    return derive_seed(seed, 0, row.id, "style_rewrite")


def _question(row: Asked) -> str:
    return _asking.words_of(row.turns)
