"""LLaVA-Hound: answers about clips, judged by who reads a caption in the clip's stead (arXiv 2404.01258)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from mmalign._relative import started_from
from mmalign.builders._candidates import Asked, Builder, Group, Made, Paired
from mmalign.builders._judging import refuse_scoreless
from mmalign.data._paths import File
from mmalign.messages import is_media
from mmalign.rewards import _scoring
from mmalign.rewards._scoring import TOTAL, wants_of
from mmalign.types import Judge, UserError

UNREAD = "answers on which the judge's verdict could not be read"
ALL_PASS = "prompts whose answers all pass"
NONE_PASSES = "prompts of which no answer passes"


@dataclass(frozen=True)
class LlavaHound(Builder):
    """Samples `n` answers about every clip, has them judged by its caption, and sets answers that score
    `pass_mark` or more against answers that score less: the best against the worst, or with `pairs: all`
    every two. How many answers the authors sampled, and which of them they paired, is not known.

    The judge is told the row's answer as `reference` and a `caption`, of the file `captions`: lines of JSON
    with `caption` and the row's `id` or its `video`: the name that the row has counts first, then one that
    differs by the ending or by folders in front that only one of the two has. Without a file the row's answer
    is the caption, as where rows ask for a description.
    """

    tells: ClassVar[frozenset[str]] = frozenset({"reference", "caption"})

    n: int = 6  # answers sampled per clip
    # file of JSON lines with `caption` and `id` or `video`; null: the row's answer is the caption
    captions: str | None = None
    pass_mark: float = 3.0  # score from which an answer may be chosen; those below may be rejected
    # the best against the worst, or every passed one against every other
    pairs: Literal["one", "all"] = "one"

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ValueError(f"n: must be 2 or more, got {self.n}")
        if self.captions is not None and not self.captions.strip():
            raise ValueError("captions: must name a file, or be null")

    def reads_answers(self, judge: Judge) -> bool:
        """True unless all that the judge wants is the file's."""
        return "reference" in wants_of(judge) or self.captions is None

    def ready(self, judge: Judge) -> None:
        """Load judge and captions. Raises UserError for a judge that does not ask for captions, and for a
        file that holds none."""
        refuse_scoreless(judge, "llava_hound")
        if "caption" not in wants_of(judge):
            raise UserError(
                "judge: builder llava_hound has answers judged by captions; put {caption} into its template"
            )
        _scoring.ready(judge, self.tells)
        _ = self._known

    def told(self, asked: Asked) -> dict[str, str]:
        """The row's answer, and the caption. Raises UserError where its clip may be one of several."""
        found = super().told(asked)
        if self.captions is None:
            return found | ({"caption": found["reference"]} if found else {})
        caption = self._known.get(("id", asked.id))
        for name in _clips(asked) if caption is None else ():
            if caption is None:
                caption = self._of_clip(name, asked.origin or asked.id)
        return found if caption is None else found | {"caption": caption}

    def _of_clip(self, name: str, where: str) -> str | None:
        """The caption of a clip by its name as a row has it."""
        if ("video", name) in self._known:
            return self._known["video", name]
        own = _pieces(name)
        listed = self._by_stem.get(own[-1:], ())
        found = [one for one in listed if _pieces(one) == own] or [
            one for one in listed if _agree(own, _pieces(one))
        ]
        if len({self._known["video", one] for one in found}) > 1:
            raise UserError(
                f"{where}: video {name!r} may be {found[0]!r} or {found[1]!r} of {self.captions}; name it "
                "there as the row does"
            )
        return self._known["video", found[0]] if found else None

    @cached_property
    def _by_stem(self) -> Mapping[tuple[str, ...], list[str]]:
        """Names of clips in the file by their last piece without its ending."""
        found: dict[tuple[str, ...], list[str]] = {}
        for kind, name in self._known:
            if kind == "video":
                found.setdefault(_pieces(name)[-1:], []).append(name)
        return found

    @cached_property
    def _known(self) -> Mapping[tuple[str, str], str]:
        """Captions by what they are of."""
        if self.captions is None:
            return {}
        path = Path(self.captions).expanduser()
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(
                f"builder.captions: cannot read {self.captions} ({error}){started_from(self.captions)}"
            ) from error
        found: dict[tuple[str, str], str] = {}
        for number, line in enumerate(lines, 1):
            if line.strip():
                key, caption = _read(line, f"{self.captions} line {number}")
                if found.setdefault(key, caption) != caption:
                    raise UserError(f"{self.captions} line {number}: another caption of {key[1]!r}; keep one")
        if not found:
            raise UserError(f"builder.captions: {self.captions} is empty")
        return found

    def pair(self, groups: Sequence[Group], judge: Judge, seed: int) -> list[Paired]:
        """Score all answers of all groups in one go; nothing here is random."""
        flat = [(group, answer) for group in groups for answer in group.answers]
        scores = iter(
            _scoring.score_readable(
                judge,
                [group.prompt for group, _ in flat],
                [answer for _, answer in flat],
                [group.id for group, _ in flat],
                [group.told for group, _ in flat],
            )
        )
        return [self._paired([next(scores) for _ in group.answers]) for group in groups]

    def _paired(self, scores: Sequence[Mapping[str, float] | None]) -> Paired:
        totals = {place: own[TOTAL] for place, own in enumerate(scores) if own is not None}
        counts = Counter({UNREAD: len(scores) - len(totals)})
        good = [place for place, total in totals.items() if total >= self.pass_mark]
        bad = [place for place in totals if place not in good]
        counts[ALL_PASS] += bool(good) and not bad
        counts[NONE_PASSES] += bool(bad) and not good
        made = [Made(one, other, totals[one] - totals[other]) for one in good for other in bad]
        if self.pairs == "one" and made:
            made = [max(made, key=lambda pair: pair.gap)]
        return Paired(tuple(scores), tuple(made), +counts)


def _read(line: str, where: str) -> tuple[tuple[str, str], str]:
    """What a line is about, and its caption."""
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: must be an object with id or video, and caption")
    caption, named = row.get("caption"), [key for key in ("id", "video") if row.get(key) is not None]
    if not isinstance(caption, str) or not caption.strip():
        raise UserError(f"{where}: caption must be a text, got {caption!r:.60}")
    if not named or not isinstance(row[named[0]], str | int):
        raise UserError(f"{where}: id or video must say what the caption is of")
    name = str(row[named[0]])
    if named[0] == "video" and not name.strip("./\\ "):
        raise UserError(f"{where}: video must say what the caption is of, got {name!r}")
    return (named[0], name.replace("\\", "/") if named[0] == "video" else name), caption.strip()


def _clips(asked: Asked) -> list[str]:
    """The names of a row's clips."""
    parts = [part for turn in asked.turns for part in turn.parts if part.kind == "video"]
    return [part.data.name.replace("\\", "/") for part in parts if isinstance(part.data, File)]


def _pieces(name: str) -> tuple[str, ...]:
    """A file's folders and its name without the ending of a medium."""
    path = PurePosixPath(name)
    return (path.with_suffix("") if is_media(name) else path).parts


def _agree(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two names differ by folders in front at most, which one of them does not have."""
    least = min(len(one), len(other))
    return one[-least:] == other[-least:]
