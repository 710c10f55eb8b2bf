"""VideoSAVi: a model corrects its own answers about clips, or rates them (arXiv 2412.00624)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from mmalign.builders import _asking
from mmalign.builders._asking import Turns
from mmalign.builders._candidates import EMPTY, Asked, Group, distinct
from mmalign.builders._judging import read_rating
from mmalign.builders._whole_rows import NewRow, Remade, RowBuilder, Tools
from mmalign.types import Adapter, Part, UserError, derive_seed
from mmalign.writing import Writer

MEDIA = "rows that do not show exactly one clip"
STRANGE = "lines in place of questions that could not be read"
UNASKED = "rows for which no question was written that could be read"
UNREAD = "critiques that could not be read"
CONTENT = "answers in which nothing was found wrong"
UNREFINED = "answers that were not written again"
KEPT = "answers that came back as they were"
FEW = "questions with fewer than two different answers"
UNRATED = "ratings that could not be read"
EVEN = "questions whose answers are rated too much alike"

_ASK = (
    "Write {count} different questions about this video: some about where things are and how they lie to "
    "each other, some about when things happen and in which order. Write one on each line, numbered 1. to "
    "{count}., and nothing else."
)
_ABOUT = "Question: {question}\nAnswer: {answer}\n"
_CRITICISE = (
    "Here is a question about this video with an answer.\n"
    + _ABOUT
    + "List what is wrong in the answer, one "
    "mistake on each line. Begin a line with Spatial: where the answer is wrong about things and places, and "
    "with Temporal: where it is wrong about motion, time or order. Write nothing else. If nothing is wrong, "
    "write only: Nothing is wrong."
)
_REFINE = (
    "Here is a question about this video with an answer.\n" + _ABOUT + "These mistakes were found in it:\n"
    "{mistakes}\nWrite the answer again without these mistakes. Reply with the new answer alone."
)
_SUMMARISE = "Describe this video in a few sentences: what is where, and what happens in which order."
_RATE = (
    "Here is a question about this video with an answer.\n{summary}" + _ABOUT + "Rate how right and how "
    "complete the answer is, and not how long it is. End with a line: Final Score: N, where N is a whole "
    "number from 1 to 10."
)
_MISTAKE = re.compile(r"(?:[-*]\s*)?(spatial|temporal)\s*:\s*(\S.*)", re.IGNORECASE)
_NOTHING = "nothing is wrong"


@dataclass(frozen=True)
class _Task:
    """A question about a row's clip. `name`: own, or the number of one that was written."""

    row: Asked
    name: str
    turns: Turns

    def seed(self, seed: int, purpose: str) -> int:
        return derive_seed(seed, 0, self.row.id, f"videosavi {self.name} {purpose}") >> 1

    def with_clip(self, template: str, answer: str, **more: str) -> Turns:
        """A question to whoever writes, about an answer to this one."""
        text = template.format(question=_asking.words_of(self.turns), answer=answer, **more)
        return _asking.about(text, [Part("video", _asking.only_clip(self.row))])


_Found = tuple[NewRow | None, Counter[str]]
"""What became of one question."""


@dataclass(frozen=True)
class Videosavi(RowBuilder):
    """Sets the model's own corrected answers against its first ones, or its best-rated against its worst.

    `questions`: how many the writer asks about every clip, 0 being the row's own. The writer is the helper,
    who must read clips, or else the model itself; the model gives all first answers. refine: the writer lists
    mistakes of an answer, in place or in time, and writes it again without them; that is chosen, the first
    one rejected. rate: the writer rates `answers` answers from 1 to 10; the best is chosen against the worst,
    where they lie `min_gap` or more apart. With `summary` it writes one of the clip before it rates (ISR-DPO,
    arXiv 2406.11280). All is read strictly, and what cannot be read is left out and counted. Questions to
    the writer and numbers are this project's own: none are published.
    """

    # corrected answers against first ones, or best-rated against worst
    compare: Literal["refine", "rate"] = "refine"
    questions: int = 0  # asked about every clip by the writer; 0: the row's own question
    answers: int | None = None  # sampled per question, of rate; 4 unless given
    min_gap: int | None = None  # least distance of two ratings, of rate; 1 unless given
    summary: bool = False  # have the writer sum up the clip before it rates

    copies: ClassVar[bool] = False
    asks_helper: ClassVar[Literal["no", "yes", "may"]] = "may"

    def __post_init__(self) -> None:
        if self.questions < 0:
            raise ValueError(f"questions: must be 0 or more, got {self.questions}")
        rate = self.compare == "rate"
        for name, value, least in (("answers", self.answers, 2), ("min_gap", self.min_gap, 1)):
            if value is not None and not rate:
                raise ValueError(f"{name}: is only read with compare rate, got {value}")
            if value is not None and value < least:
                raise ValueError(f"{name}: must be {least} or more, got {value}")
        if self.summary and not rate:
            raise ValueError("summary: is only read with compare rate")

    def ready_for(self, adapter: Adapter) -> None:
        """Raises UserError for a model that reads no clips."""
        if "video" not in adapter.media:
            raise UserError(
                "model: builder videosavi asks about clips, which this model does not read; use video_lm"
            )

    def make(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[Remade]:
        """One pair per question at most; every step asks all of them in one call."""
        counts = {row.id: Counter[str]() for row in rows}
        fit = [row for row in rows if _asking.only_clip(row) is not None]
        for row in rows:
            counts[row.id][MEDIA] += _asking.only_clip(row) is None
        tasks = self._questions(fit, tools.helper, seed, counts)
        found = (self._refined if self.compare == "refine" else self._rated)(tasks, tools, seed)
        made: dict[str, list[NewRow]] = {row.id: [] for row in rows}
        for task, (new, lost) in zip(tasks, found, strict=True):
            counts[task.row.id] += lost
            made[task.row.id] += [] if new is None else [new]
        return [Remade(tuple(made[row.id]), +counts[row.id]) for row in rows]

    def _questions(
        self, rows: Sequence[Asked], writer: Writer, seed: int, counts: dict[str, Counter[str]]
    ) -> list[_Task]:
        """The rows' own questions, or those that were written about their clips."""
        if not self.questions:
            return [_Task(row, "own", row.turns) for row in rows]
        clips = [Part("video", _asking.only_clip(row)) for row in rows]
        asked = [_asking.about(_ASK.format(count=self.questions), [clip]) for clip in clips]
        seeds = [derive_seed(seed, 0, row.id, "videosavi ask") >> 1 for row in rows]
        tasks = []
        for row, clip, text in zip(rows, clips, writer.write(asked, seeds), strict=True):
            listed, strange = _asking.read_questions(text, self.questions)
            counts[row.id].update({STRANGE: strange, UNASKED: int(not listed)})
            tasks += [_Task(row, f"{i}", _asking.about(one, [clip])) for i, one in enumerate(listed, 1)]
        return tasks

    # ------------------------------------------------------------ refine

    def _refined(self, tasks: Sequence[_Task], tools: Tools, seed: int) -> list[_Found]:
        first = _generated(tasks, [task.seed(seed, "answer") for task in tasks], tools)
        reasons: list[str | None] = [None if answer else EMPTY for answer in first]
        asked = [i for i, reason in enumerate(reasons) if reason is None]
        critiques = tools.helper.write(
            [tasks[i].with_clip(_CRITICISE, first[i]) for i in asked],
            [tasks[i].seed(seed, "critique") for i in asked],
        )
        mistakes: dict[int, list[str]] = {}
        for place, text in zip(asked, critiques, strict=True):
            listed = read_critique(text)
            if listed:
                mistakes[place] = listed
            else:
                reasons[place] = UNREAD if listed is None else CONTENT
        again = tools.helper.write(
            [tasks[i].with_clip(_REFINE, first[i], mistakes="\n".join(own)) for i, own in mistakes.items()],
            [tasks[i].seed(seed, "refine") for i in mistakes],
        )
        better = dict(zip(mistakes, again, strict=True))
        found: list[_Found] = []
        for place, (task, reason) in enumerate(zip(tasks, reasons, strict=True)):
            text = (better.get(place) or "").strip()
            if reason is None and not text:
                reason = UNREFINED
            if reason is None and _asking.bare(text) == _asking.bare(first[place]):
                reason = KEPT
            if reason is not None:
                found.append((None, Counter({reason: 1})))
                continue
            seeds = {"chosen": task.seed(seed, "refine"), "rejected": task.seed(seed, "answer")}
            told = {"mistakes": mistakes[place], "seeds": seeds}
            found.append((_new_row(task, text, first[place], told), Counter()))
        return found

    # ------------------------------------------------------------ rate

    def _rated(self, tasks: Sequence[_Task], tools: Tools, seed: int) -> list[_Found]:
        n = self.answers or 4
        seeds = [task.seed(seed, "answer") + place for task in tasks for place in range(n)]
        texts = _generated([task for task in tasks for _ in range(n)], seeds, tools)
        groups, counts = [], []
        for place, task in enumerate(tasks):
            part = slice(place * n, (place + 1) * n)
            parts = tuple(Part("text", text) for text in texts[part])
            group, lost = distinct(Group(task.name, task.turns, parts, tuple(seeds[part])))
            short = len(group.answers) < 2
            groups.append(replace(group, answers=(), seeds=()) if short else group)
            counts.append(lost + Counter({FEW: int(short)}))
        summaries = self._summaries(tasks, groups, tools.helper, seed)
        asked, own = [], []
        for place, (task, group) in enumerate(zip(tasks, groups, strict=True)):
            for number, answer in enumerate(group.answers):
                asked.append(task.with_clip(_RATE, str(answer.data), summary=summaries.get(place, "")))
                own.append(task.seed(seed, f"rate {number}"))
        ratings = iter(tools.helper.write(asked, own))
        return [
            self._best(task, group, [read_rating(next(ratings) or "") for _ in group.answers], lost)
            for task, group, lost in zip(tasks, groups, counts, strict=True)
        ]

    def _summaries(
        self, tasks: Sequence[_Task], groups: Sequence[Group], writer: Writer, seed: int
    ) -> dict[int, str]:
        """What the writer is told of its own summary before it rates, by the task's place; one that it did
        not write is left out."""
        places = [place for place, group in enumerate(groups) if group.answers and self.summary]
        clips = [Part("video", _asking.only_clip(tasks[place].row)) for place in places]
        found = writer.write(
            [_asking.about(_SUMMARISE, [clip]) for clip in clips],
            [tasks[place].seed(seed, "summary") for place in places],
        )
        return {p: f"The video shows: {text}\n" for p, text in zip(places, found, strict=True) if text}

    def _best(self, task: _Task, group: Group, ratings: Sequence[int | None], counts: Counter[str]) -> _Found:
        """The best-rated answer against the worst-rated, the first of equals."""
        counts[UNRATED] += sum(one is None for one in ratings)
        rated = [(one, place) for place, one in enumerate(ratings) if one is not None]
        if len(rated) < 2:
            return None, +counts
        (most, best), (least, worst) = max(rated, key=lambda one: one[0]), min(rated, key=lambda one: one[0])
        if most - least < (self.min_gap or 1):
            counts[EVEN] += 1
            return None, +counts
        chosen, rejected = (str(group.answers[place].data).strip() for place in (best, worst))
        told = {"ratings": list(ratings), "seeds": list(group.seeds)}
        return _new_row(task, chosen, rejected, told), +counts


def read_critique(text: str | None) -> list[str] | None:
    """The mistakes that a critique lists, as it names them; [] where it says that nothing is wrong, None
    where a line is neither or both are said."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    matches = [_MISTAKE.fullmatch(line) for line in lines]
    if lines and all(matches):
        return [f"{match[1].capitalize()}: {match[2]}" for match in matches if match is not None]
    return [] if len(lines) == 1 and _asking.bare(lines[0]) == _NOTHING else None


def _generated(tasks: Sequence[_Task], seeds: Sequence[int], tools: Tools) -> list[str]:
    """The model's own answers."""
    found = tools.adapter.generate(tools.model, [task.turns for task in tasks], seeds) if tasks else []
    return [str(one.data).strip() for one in found]


def _new_row(task: _Task, chosen: str, rejected: str, told: dict[str, Any]) -> NewRow:
    answers = {"chosen": Part("text", chosen), "rejected": Part("text", rejected)}
    return NewRow(task.name, task.turns, answers, told={"question": task.name, **told})
