"""MVBench (arXiv 2311.17005): choices about short clips, 20 tasks of what changes over time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from mmalign.data._video_parts import CutFile
from mmalign.metrics._choices import ChoiceItem, ChoiceMetric, lettered
from mmalign.metrics._letters import LETTERS
from mmalign.metrics._reading import asked, check_paths, from_one, rows_of, word, words
from mmalign.types import Part, UserError


@dataclass(frozen=True)
class Mvbench(ChoiceMetric):
    """One acc per task, and macro, the mean of the tasks. As published, empty answers are left out of both;
    others without a readable choice count as wrong, and `unanswered` is the share of both kinds.

    `questions`: the folder of the tasks' files, task.json each with rows of `video`, `question`, `candidates`
    and `answer`. `videos`: the folder of the videos, or one for each task, {action_sequence: ...}. Rows of
    some tasks name a part of the video, `start` and `end` in seconds, and are asked about that alone; with
    `bounds: ignore` about the whole video, which makes another benchmark of them. A video may be a folder of
    frames, `frame_rate` a second of them (episodic_reasoning has 3). Published scorers take the first letter
    that stands alone; here a choice is read as for the other benchmarks, and letters that contradict each
    other are not.
    """

    asks = "mvbench"
    leaves_out = "empty"
    answer_fields = ((), ("pred",))
    copied = (("question", "candidates"), ("answer",))

    questions: str  # folder of the tasks' files, task.json each
    videos: str | dict[str, str]  # folder of the videos, or one for each task, {action_sequence: ...}
    # ask about the part of a video that a row names, or about the whole
    bounds: Literal["cut", "ignore"] = "cut"
    frame_rate: float = 3.0  # frames a second of videos that are folders of frames

    def __post_init__(self) -> None:
        folders = self.videos if isinstance(self.videos, dict) else {"videos": self.videos}
        check_paths(questions=self.questions, **folders)
        if not (math.isfinite(self.frame_rate) and self.frame_rate > 0):
            raise ValueError(f"frame_rate: must be above 0, got {self.frame_rate}")

    @cached_property
    def items(self) -> Mapping[str, ChoiceItem]:
        """Every question of every task with its video in front; ids are task/number."""
        place = Path(self.questions).expanduser()
        files = sorted(place.glob("*.json"))
        if not files:
            raise UserError(f"{self.questions}: holds no task's .json file")
        found: dict[str, ChoiceItem] = {}
        for path in files:
            for number, (where, row) in enumerate(rows_of(path), 1):
                found[f"{path.stem}/{number}"] = self._item(path.stem, f"{path.stem}/{number}", where, row)
        return found

    def predictions(self, path: Path) -> dict[str, str]:
        """Answers by task and number."""
        return from_one(super().predictions(path), self.items, path)

    def _item(self, task: str, name: str, where: str, row: Mapping[str, object]) -> ChoiceItem:
        folder = self.videos if isinstance(self.videos, str) else self.videos.get(task)
        if folder is None:
            raise UserError(f"{where}: videos has no folder for task {task}")
        options, answer = words(row, "candidates", where), word(row, "answer", where)
        if answer not in options:
            raise UserError(f"{where}: answer must be one of the candidates, got {answer!r:.60}")
        text = f"{word(row, 'question', where)}\n{lettered(options)}\nAnswer with a letter alone."
        turns = asked(self._video(folder, where, row), text)
        letter, groups = LETTERS[options.index(answer)], {"task": (task,)}
        return ChoiceItem(name, turns, letter, tuple(options), f"{task}/{row['video']}", groups, task)

    def _video(self, folder: str, where: str, row: Mapping[str, object]) -> Part:
        """The row's video, or the part of it that its times name."""
        place = str(Path(folder).expanduser().resolve())
        cut = self.bounds == "cut"
        start, end = (_seconds(row, name, where) if cut else None for name in ("start", "end"))
        if end is not None and end <= (start or 0.0):
            raise UserError(f"{where}: end must be above start, got {end:g} and {start or 0:g}")
        return Part("video", CutFile(place, word(row, "video", where), start or 0.0, end, self.frame_rate))


def _seconds(row: Mapping[str, object], name: str, where: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise UserError(f"{where}: {name} must be seconds, 0 or more, got {value!r:.60}")
    return float(value)
