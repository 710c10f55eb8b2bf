"""Video-MME (arXiv 2405.21075): four choices about a video, by its length, domain and task."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmalign.metrics._choices import ChoiceItem, ChoiceMetric, letter_in, lettered
from mmalign.metrics._letters import LETTERS, bare, without_lead
from mmalign.metrics._reading import asked, check_paths, listed, medium, rows_of, text_of, unique, word, words
from mmalign.types import UserError

_CUE = re.compile(r"^\d+\s*$|-->|^\s*$")
_TAG = re.compile(r"<[^>]*>")
_LONG = 10  # words; a longer answer must hold one of the letters


@dataclass(frozen=True)
class VideoMme(ChoiceMetric):
    """acc in percent of the answered questions: the first of the letters A to D in an answer, wherever it
    stands, once phrases such as "The best answer is" are cut off its front. That is the published rule, which
    takes "A man" for A, too; it cuts such phrases out anywhere and knows fewer ("Answer: B" is A to it).

    `questions`: rows with `videoID`, `question_id`, `question`, `options`, `answer`, `duration`, `domain`,
    `sub_category` and `task_type`, or the benchmark's own list of videos with their `questions`. `videos`:
    the folder of videoID.mp4 (or what `suffix` says). `subtitles`: the folder of videoID.srt, whose words are
    then put into the question, at most `subtitle_words` of them; null: none.
    """

    asks = "video_mme"
    scale = 100.0
    leaves_out = "unread"
    answer_fields = (("question_id",), ("response",))
    copied = (("question", "options"), ("answer",))

    questions: str  # the benchmark's list, of questions or of videos with their questions
    videos: str  # folder of the videos, named by their ids
    subtitles: str | None = None  # folder of videoID.srt, whose words go into questions; null: none
    subtitle_words: int = 1000  # words of a video's subtitles, at most
    suffix: str = ".mp4"  # ending of the videos' names

    def __post_init__(self) -> None:
        check_paths(questions=self.questions, videos=self.videos, subtitles=self.subtitles)
        if self.subtitle_words < 1:
            raise ValueError(f"subtitle_words: must be 1 or more, got {self.subtitle_words}")

    @cached_property
    def items(self) -> Mapping[str, ChoiceItem]:
        """Every question with its video in front."""
        found, ids = {}, []
        for where, row in self._listed():
            name, video = (
                word(row, "question_id", where),
                word(row, "videoID" if "videoID" in row else "video_id", where),
            )
            ids.append(name)
            options = tuple(bare(one) for one in words(row, "options", where))
            answer = letter_in(word(row, "answer", where), len(options), where, "answer")
            told = self._subtitles(video, where)
            text = (
                f"{told}{word(row, 'question', where)}\n{lettered(options)}\n"
                "Answer with the letter of the right option alone."
            )
            kinds = ("duration", "domain", "sub_category", "task_type")
            groups = {kind: (word(row, kind, where),) for kind in kinds if row.get(kind)}
            turns = asked(medium("video", self.videos, video + self.suffix), text)
            found[name] = ChoiceItem(name, turns, answer, options, video, groups)
        unique(ids, self.questions)
        return found

    def _listed(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """One row per question, whichever of the two forms the file has."""
        for where, row in rows_of(self.questions):
            if "questions" not in row:
                yield where, row
                continue
            shared = {key: value for key, value in row.items() if key != "questions"}
            for number, inner in enumerate(listed(row, "questions", where), 1):
                place = f"{where}, question {number}"
                if not isinstance(inner, dict):
                    raise UserError(f"{place}: must be an object, got {inner!r:.60}")
                yield place, {**shared, **inner}

    @property
    def notes(self) -> tuple[str, ...]:
        """How many videos have no subtitles, where they are wanted."""
        if self.subtitles is None:
            return ()
        videos = {item.cluster for item in self.items.values()}
        lacking = sum(not (Path(self.subtitles).expanduser() / f"{one}.srt").exists() for one in videos)
        return (f"{lacking} of {len(videos)} videos have no subtitles",) if lacking else ()

    def _subtitles(self, video: str, where: str) -> str:
        if self.subtitles is None:
            return ""
        path = Path(self.subtitles).expanduser() / f"{video}.srt"
        if not path.exists():
            return ""  # some of the benchmark's videos have none
        lines = [_TAG.sub("", line).strip() for line in text_of(path).splitlines() if not _CUE.search(line)]
        said = " ".join(lines).split()
        if len(said) > self.subtitle_words:  # evenly spread over the video
            said = [said[i * len(said) // self.subtitle_words] for i in range(self.subtitle_words)]
        return f"Subtitles of the video: {' '.join(said)}\n" if said else ""

    def said(self, item: ChoiceItem, answer: str) -> str | None:
        """The first letter of an option; none in a long answer without a letter."""
        found = re.search(f"[{LETTERS[: len(item.options)]}]", without_lead(answer))
        return found[0] if found else None
