"""TPO: what the model says of a clip seen well against what it says of it seen badly (arXiv 2501.13919)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from mmalign.builders import _asking
from mmalign.builders._asking import Turns
from mmalign.builders._candidates import Asked
from mmalign.builders._clip_views import VideoView, denser, piece
from mmalign.builders._drift import edit_distance
from mmalign.builders._whole_rows import NewRow, Pool, Remade, RowBuilder, Tools
from mmalign.rewards._scoring import TOTAL, score_readable
from mmalign.types import Adapter, Clip, Part, UserError, derive_seed
from mmalign.writing import Writer

MEDIA = "rows that do not show exactly one clip"
BROKEN = "rows whose clip cannot be read at more frames"
BRIEF = "views of clips with too few frames"
UNASKED = "questions that could not be read"
EMPTY = "pairs with a side without any text"
SAME = "pairs whose two sides say the same"
ALIKE = "pairs whose two sides are too much alike"
RIGHT = "pairs whose rejected answer is right"
WRONG = "pairs whose chosen answer is wrong"
UNREAD = "pairs on which the verdict could not be read, or changed with the order of the sides"
NOT_HIGHER = "pairs whose chosen answer the judge scores too low"

View = Literal["localised", "comprehensive"]

_DESCRIBE = "Describe what happens in this video."
_ASK = {
    "localised": "This is what one part of a video shows:\n{caption}\nWrite one question about the video "
    "that only this part of it answers. Do not mention the part or the description. Reply with the question "
    "alone.",
    "comprehensive": "This is what a video shows:\n{caption}\nWrite one question about the video that is "
    "answered only by who watches all of it. Do not mention the description. Reply with the question alone.",
}
_CHECK = (
    "A question about a video has two answers.\nWhat the video shows: {caption}\nQuestion: {question}\n"
    "Answer A: {first}\nAnswer B: {second}\nWhich of the answers are right? Reply with one word: A, B, both "
    "or neither."
)
_TURNED = {"A": "B", "B": "A", "both": "both", "neither": "neither"}
_REASONS = {"both": RIGHT, "B": WRONG, "neither": WRONG}


@dataclass(frozen=True)
class _Task:
    """A row under one pair of views, and what has been said of it so far."""

    row: Asked
    view: View
    clips: tuple[Clip, Clip]  # what the chosen and the rejected answer are given
    told: Mapping[str, Any]
    question: Turns | None  # about the whole clip; None: not read
    caption: str | None = None

    def seed(self, seed: int, purpose: str) -> int:
        return derive_seed(seed, 0, self.row.id, f"tpo {self.view} {purpose}")


@dataclass(frozen=True)
class Tpo(RowBuilder):
    """Asks the model one question about two views of a clip; what it answers to the fuller one is chosen.

    localised: chosen sees a part of the clip, `segment` of its time and drawn for each row, rejected the clip
    without that part, each as many frames as `model.frames.count` at most. comprehensive: chosen sees `dense`
    frames, rejected `sparse`. Rows show all of the clip to both, and say by `built` what was seen. A question
    is the row's own or `written`: the model describes what chosen sees, and the helper, or else the model,
    asks for that. Pairs are left out whose sides say the same or, as a share of characters, differ by less
    than `min_edit_distance_norm`; with filter helper also those of which the helper, told that description,
    does not say in either order of the sides that chosen alone is right; and with a judge those whose chosen
    side scores no more than `min_gap` above the other. The source describes this filter without its prompts;
    they, the rules beside it and all numbers are this project's own.
    """

    # what chosen and rejected see of a clip: a part and the rest, or many and few frames
    views: tuple[View, ...] = ("localised", "comprehensive")
    # the row's own, or written from a description of what chosen sees
    questions: Literal["row", "written"] = "row"
    filter: Literal["rule", "helper"] = "rule"  # pairs are left out by rule, or also by what the helper says
    segment: float = 0.25  # share of a clip's time that localised is about
    dense: int = 64  # frames that chosen sees in comprehensive
    sparse: int = 2  # frames that rejected sees there
    min_edit_distance_norm: float = 0.1  # least share of characters in which both sides differ
    min_gap: float = 0.0  # with a judge: what chosen must score above rejected, exclusive

    copies: ClassVar[bool] = False
    asks_judge: ClassVar[bool | Literal["may"]] = "may"
    asks_helper: ClassVar[Literal["no", "yes", "may"]] = "may"

    def __post_init__(self) -> None:
        if not self.views or len(set(self.views)) < len(self.views):
            raise ValueError(f"views: must name each once and at least one, got {list(self.views)}")
        if not 0 < self.segment < 1:
            raise ValueError(f"segment: must lie between 0 and 1, got {self.segment:g}")
        if not 1 <= self.sparse < self.dense:
            raise ValueError(f"sparse: must be from 1 to less than dense, got {self.sparse} and {self.dense}")
        if not 0 <= self.min_edit_distance_norm <= 1:
            raise ValueError(
                f"min_edit_distance_norm: must lie in [0, 1], got {self.min_edit_distance_norm:g}"
            )
        if self.min_gap < 0:
            raise ValueError(f"min_gap: must be 0 or more, got {self.min_gap:g}")

    def ready_for(self, adapter: Adapter) -> None:
        """Raises UserError for a model that reads no clips, and for `dense` below what it is shown anyway."""
        if adapter.frames is None or "video" not in adapter.media:
            raise UserError(
                "model: builder tpo asks about clips, which this model does not read; use video_lm"
            )
        if self.dense < adapter.frames.count:
            raise UserError(
                f"builder.dense: must be model.frames.count {adapter.frames.count} or more, got {self.dense}"
            )

    def make(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[Remade]:
        """One pair per row and view at most; the model is asked all of them in one call."""
        counts = {row.id: Counter[str]() for row in rows}
        tasks = self._tasks(rows, tools.pool, seed, counts)
        if self.questions == "written" or self.filter == "helper":
            tasks = _captioned(tasks, tools, seed)
        if self.questions == "written":
            tasks = _questioned(tasks, tools.helper, seed)
        for task in tasks:
            counts[task.row.id][UNASKED] += task.question is None
        kept = [task for task in tasks if task.question is not None]
        answers = _answered(kept, tools, seed)
        reasons = [self._against(*pair) for pair in answers]
        self._ask_helper(kept, answers, reasons, tools.helper, seed)
        self._ask_judge(kept, answers, reasons, tools.judge)
        made: dict[str, list[NewRow]] = {row.id: [] for row in rows}
        for task, sides, reason in zip(kept, answers, reasons, strict=True):
            if reason is not None:
                counts[task.row.id][reason] += 1
            else:
                made[task.row.id].append(_new_row(task, sides, task.seed(seed, "answer")))
        return [Remade(tuple(made[row.id]), +counts[row.id]) for row in rows]

    # ------------------------------------------------------------ views

    def _tasks(
        self, rows: Sequence[Asked], pool: Pool, seed: int, counts: dict[str, Counter[str]]
    ) -> list[_Task]:
        """The rows, each under its pairs of views."""
        fit = [row for row in rows if _asking.only_clip(row) is not None]
        clips = denser(fit, pool, self.dense)
        tasks = []
        for row in rows:
            clip = clips.get(row.id)
            if not isinstance(clip, Clip):
                counts[row.id][MEDIA if clip is None else BROKEN] += 1
                continue
            for view in self.views:
                task = self._task(row, view, clip, pool, seed)
                counts[row.id][BRIEF] += task is None
                tasks += [] if task is None else [task]
        return tasks

    def _task(self, row: Asked, view: View, clip: Clip, pool: Pool, seed: int) -> _Task | None:
        """The row under one pair of views; None where the clip is too short for it."""
        count = self.dense if pool.frames is None else pool.frames.count
        shown = self._views(view, clip, count, seed, row.id)
        if shown is None:
            return None
        told: dict[str, Any] = {"view": view, "of_frames": len(clip.frames)}
        told |= {"chosen_view": shown[0].told(), "rejected_view": shown[1].told()}
        question = row.turns if self.questions == "row" else None
        return _Task(row, view, (shown[0].of(clip), shown[1].of(clip)), told, question)

    def _views(
        self, view: View, clip: Clip, count: int, seed: int, name: str
    ) -> tuple[VideoView, VideoView] | None:
        """What chosen and rejected see of a clip; None where that would be nothing, or alike."""
        total = len(clip.frames)
        if view == "comprehensive":
            fewer = VideoView(num_frames=self.sparse)
            return None if total <= self.sparse else (VideoView(num_frames=self.dense), fewer)
        length = max(1, round(self.segment * total))
        if length >= total:
            return None
        first = random.Random(derive_seed(seed, 0, name, "tpo segment")).randrange(total - length + 1)
        span = piece(clip, first, length)
        return VideoView(segment=span, num_frames=count), VideoView(drop=span, num_frames=count)

    # ------------------------------------------------------------ filters

    def _against(self, chosen: str, rejected: str) -> str | None:
        """Why the two answers make no pair, as far as their words tell."""
        if not chosen or not rejected:
            return EMPTY
        if _asking.bare(chosen) == _asking.bare(rejected):
            return SAME
        return ALIKE if edit_distance(chosen, rejected) < self.min_edit_distance_norm else None

    def _ask_helper(
        self,
        tasks: Sequence[_Task],
        answers: Sequence[tuple[str, str]],
        reasons: list[str | None],
        helper: Writer,
        seed: int,
    ) -> None:
        """Add the helper's reasons against pairs that have none yet."""
        places = [i for i, reason in enumerate(reasons) if reason is None and self.filter == "helper"]
        questions, seeds = [], []
        for place in places:
            task, (chosen, rejected) = tasks[place], answers[place]
            asked = _asking.words_of(task.question or ())
            for order, (first, second) in enumerate(((chosen, rejected), (rejected, chosen))):
                text = _CHECK.format(caption=task.caption, question=asked, first=first, second=second)
                questions.append(_asking.about(text))
                seeds.append(task.seed(seed, f"check {order}"))
        found = [_asking.read_word(text, tuple(_TURNED)) for text in helper.write(questions, seeds)]
        for place, straight, turned in zip(places, found[::2], found[1::2], strict=True):
            verdict = straight if turned is not None and straight == _TURNED[turned] else None
            reasons[place] = None if verdict == "A" else _REASONS.get(verdict or "", UNREAD)

    def _ask_judge(
        self,
        tasks: Sequence[_Task],
        answers: Sequence[tuple[str, str]],
        reasons: list[str | None],
        judge: Any,
    ) -> None:
        """Add the judge's reasons against pairs that have none yet."""
        places = [i for i, reason in enumerate(reasons) if reason is None and judge is not None]
        asked = [
            (tasks[i].question or (), Part("text", side), tasks[i].row.id)
            for i in places
            for side in answers[i]
        ]
        if not asked:
            return
        found = score_readable(judge, *map(list, zip(*asked, strict=True)))
        for place, own, other in zip(places, found[::2], found[1::2], strict=True):
            if own is None or other is None:
                reasons[place] = UNREAD
            elif own[TOTAL] - other[TOTAL] <= self.min_gap:
                reasons[place] = NOT_HIGHER


def _captioned(tasks: Sequence[_Task], tools: Tools, seed: int) -> list[_Task]:
    """The tasks with the model's words on what the chosen answer is given."""
    asked = [_asking.about(_DESCRIBE, [Part("video", task.clips[0])]) for task in tasks]
    seeds = [task.seed(seed, "caption") for task in tasks]
    found = tools.adapter.generate(tools.model, asked, seeds) if asked else []
    return [replace(task, caption=str(one.data).strip()) for task, one in zip(tasks, found, strict=True)]


def _questioned(tasks: Sequence[_Task], helper: Writer, seed: int) -> list[_Task]:
    """The tasks with questions that are written for what the chosen answer is given."""
    asked = [_asking.about(_ASK[task.view].format(caption=task.caption)) for task in tasks]
    found = helper.write(asked, [task.seed(seed, "question") for task in tasks])
    done = []
    for task, text in zip(tasks, found, strict=True):
        question = _asking.read_question(text)
        clip = [Part("video", _asking.only_clip(task.row))]
        done.append(replace(task, question=None if question is None else _asking.about(question, clip)))
    return done


def _answered(tasks: Sequence[_Task], tools: Tools, seed: int) -> list[tuple[str, str]]:
    """The model's answers to both views, drawn from the same random numbers."""
    asked = [_asking.with_clip(task.question or (), clip) for task in tasks for clip in task.clips]
    seeds = [task.seed(seed, "answer") for task in tasks for _ in task.clips]
    answers = tools.adapter.generate(tools.model, asked, seeds) if asked else []
    found = [str(one.data).strip() for one in answers]
    return list(zip(found[::2], found[1::2], strict=True))


def _new_row(task: _Task, sides: tuple[str, str], seed: int) -> NewRow:
    assert task.question is not None
    answers = {"chosen": Part("text", sides[0]), "rejected": Part("text", sides[1])}
    told = {**task.told} | ({} if task.caption is None else {"caption": task.caption})
    told |= {"seeds": dict.fromkeys(answers, seed)}
    return NewRow(task.view, task.question, answers, told=told)
