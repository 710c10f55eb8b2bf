"""MVBench (arXiv 2311.17005): choices about short clips, 20 tasks of what changes over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from mmalign.metrics._choices import LETTERS, ChoiceItem, ChoiceMetric, lettered
from mmalign.metrics._reading import asked, check_paths, medium, rows_of, word, words
from mmalign.types import UserError


@dataclass(frozen=True)
class Mvbench(ChoiceMetric):
    """One acc per task over the questions with a readable choice, and macro, the mean of the tasks; answers
    without one are left out of both and told as `unanswered`.

    `questions`: the folder of the tasks' files, task.json each with rows of `video`, `question`, `candidates`
    and `answer`. `videos`: the folder of the videos, or one for each task, {action_sequence: ...}. Rows of
    some tasks name a part of the video, `start` and `end` in seconds; clips are cut from whole videos here,
    so such rows are refused, or with `bounds: ignore` asked of the whole video, which makes another benchmark
    of them.
    """

    asks = "mvbench"
    only_answered = True

    questions: str
    videos: str | dict[str, str]
    bounds: Literal["refuse", "ignore"] = "refuse"

    def __post_init__(self) -> None:
        folders = self.videos if isinstance(self.videos, dict) else {"videos": self.videos}
        check_paths(questions=self.questions, **folders)

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

    def _item(self, task: str, name: str, where: str, row: Mapping[str, object]) -> ChoiceItem:
        if self.bounds == "refuse" and (row.get("start") is not None or row.get("end") is not None):
            raise UserError(
                f"{where}: is about a part of its video (start, end), which cannot be cut; cut the videos "
                "and drop both fields, or set bounds: ignore"
            )
        folder = self.videos if isinstance(self.videos, str) else self.videos.get(task)
        if folder is None:
            raise UserError(f"{where}: videos has no folder for task {task}")
        options, answer = words(row, "candidates", where), word(row, "answer", where)
        if answer not in options:
            raise UserError(f"{where}: answer must be one of the candidates, got {answer!r:.60}")
        text = f"{word(row, 'question', where)}\n{lettered(options)}\nAnswer with a letter alone."
        turns = asked(medium("video", folder, word(row, "video", where)), text)
        letter, groups = LETTERS[options.index(answer)], {"task": (task,)}
        return ChoiceItem(name, turns, letter, tuple(options), f"{task}/{row['video']}", groups, task)
