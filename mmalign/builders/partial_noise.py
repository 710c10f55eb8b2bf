"""Partial noise: copies of one real picture or clip, compared segment by segment (arXiv 2506.03517)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from PIL import Image
from torch import nn

from mmalign.builders._candidates import Asked, Builder, Group, Made, Paired
from mmalign.builders._judging import refuse_scoreless
from mmalign.rewards import _scoring
from mmalign.types import Adapter, Clip, Judge, MediaCopier, Part, UserError

UNREAD = "answers on which the judge's verdict could not be read"
EVEN = "segments whose two sides score alike"
FEW = "pairs with too few segments that one side wins"


@dataclass(frozen=True)
class PartialNoise(Builder):
    """Makes `n` copies of every picture or clip of the data, which share its layout and motion, and pairs
    them with a label for each temporal segment, as objective densedpo reads it.

    A copy is noised to the noisiest level of the sampler's grid not above `strength`, 1 being pure noise, and
    denoised from there under its caption. The judge scores every segment of every copy: as a clip, or by the
    mean over its frames where it reads pictures. A segment whose scores are `min_gap` or less apart has label
    0, as a tie; the side with the higher mean over all segments is the chosen one. `strategy`: of more copies
    than two, the one with the highest mean against that with the lowest, or every two of them.
    """

    n: int = 2  # copies of every picture or clip
    strength: float = 0.75  # noise level that copies are denoised from, 1 being pure noise
    segments: int | None = (
        None  # equal parts of every clip's time; null: judged whole, and no labels of parts
    )
    reads: Literal["clips", "frames"] = "clips"  # what the judge is given of a segment
    min_gap: float = 0.0  # distance of two scores of a segment up to which it ties, label 0
    min_labels: int = 1  # segments of a pair that must not tie
    # of more copies than two: the best against the worst, or every two
    strategy: Literal["best_worst", "all"] = "best_worst"

    copies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ValueError(f"n: must be 2 or more, got {self.n}")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength: must be above 0 and at most 1, got {self.strength:g}")
        if self.segments is not None and self.segments < 1:
            raise ValueError(f"segments: must be 1 or more, got {self.segments}")
        if not self.min_gap >= 0:
            raise ValueError(f"min_gap: must be 0 or more, got {self.min_gap:g}")
        if not 1 <= self.min_labels <= (self.segments or 1):
            raise ValueError(f"min_labels: must lie in 1..{self.segments or 1}, got {self.min_labels}")

    def ready(self, judge: Judge) -> None:
        """Load the judge. Raises UserError for one without scores."""
        refuse_scoreless(judge, "partial_noise")
        _scoring.ready(judge)

    def judged(self, adapter: Adapter) -> frozenset[str]:
        """Pictures where clips are judged by their frames, else what the model makes."""
        return frozenset({"image"}) if self.reads == "frames" else super().judged(adapter)

    def ready_for(self, adapter: Adapter) -> None:
        """Raises UserError for a model that makes no copies or cannot tell so many segments apart, and for a
        strength below its sampler's least level."""
        if not isinstance(adapter, MediaCopier):
            raise UserError(
                f"model: {type(adapter).__name__} makes no copies of media; use adapter diffusion"
            )
        super().ready_for(adapter)
        try:
            adapter.check_strength(self.strength)
        except UserError as error:
            raise UserError(f"builder.{error}") from error

    def cuts(self, adapter: Any) -> tuple[tuple[int, int], ...]:
        """Frames of every segment. Raises UserError where the model makes pictures, or too few frames."""
        if self.segments is None:
            return ()
        try:
            found: tuple[tuple[int, int], ...] = adapter.cuts(self.segments)
        except UserError as error:
            raise UserError(f"builder.{error}") from error
        return found

    def sample(
        self, adapter: Any, model: nn.Module, asked: Sequence[Asked], seeds: Sequence[int]
    ) -> list[Part]:
        """One copy of every original."""
        originals = [one.original[0] for one in asked]
        return list(adapter.copies(model, [one.turns for one in asked], originals, seeds, self.strength))

    def pair(self, groups: Sequence[Group], judge: Judge, seed: int) -> list[Paired]:
        """Score all segments of all copies in one go, then compare each group's; nothing here is random."""
        shown = [[self._shown(part, group.cuts) for part in group.answers] for group in groups]
        flat = [
            (group.prompt, one, group.id)
            for group, answers in zip(groups, shown, strict=True)
            for one in itertools.chain.from_iterable(itertools.chain.from_iterable(answers))
        ]
        given = _scoring.score_readable(judge, *map(list, zip(*flat, strict=True))) if flat else []
        scores = (None if own is None else own[_scoring.TOTAL] for own in given)
        return [
            self._paired(
                group, [[_mean([next(scores) for _ in segment]) for segment in one] for one in answers]
            )
            for group, answers in zip(groups, shown, strict=True)
        ]

    def _shown(self, part: Part, cuts: Sequence[tuple[int, int]]) -> list[list[Part]]:
        """What the judge is given of a copy, segment by segment."""
        if not isinstance(part.data, Clip):
            return [[part]]
        pieces = [_piece(part.data, *cut) for cut in cuts or [(0, len(part.data.frames))]]
        if self.reads == "clips":
            return [[Part("video", piece)] for piece in pieces]
        return [[Part("image", _picture(frame)) for frame in piece.frames] for piece in pieces]

    def _paired(self, group: Group, given: Sequence[Sequence[float | None]]) -> Paired:
        """`given`: the scores of every copy's segments; a copy of which one could not be read counts for
        nothing."""
        scores = {
            i: [one for one in own if one is not None] for i, own in enumerate(given) if None not in own
        }
        means = {place: sum(own) / len(own) for place, own in scores.items()}
        counts: Counter[str] = Counter({UNREAD: len(given) - len(scores)})
        made = []
        for chosen, rejected in self._twos(means):
            signs = tuple(self._sign(a - b) for a, b in zip(scores[chosen], scores[rejected], strict=True))
            if sum(map(abs, signs)) < self.min_labels:
                counts[FEW] += 1
                continue
            counts[EVEN] += signs.count(0)
            pair = Made(chosen, rejected, means[chosen] - means[rejected])
            made.append(replace(pair, segments=signs) if group.cuts else pair)
        told: list[Mapping[str, float] | None] = [None] * len(given)
        for place, own in scores.items():
            parts = {f"segment {i}": one for i, one in enumerate(own, 1)} if group.cuts else {}
            told[place] = {_scoring.TOTAL: means[place], **parts}
        return Paired(tuple(told), tuple(made), +counts)

    def _twos(self, means: Mapping[int, float]) -> list[tuple[int, int]]:
        """Places of the sides of every pair, the one with the higher mean first; of equals the first."""
        order = sorted(means, key=lambda place: -means[place])
        if self.strategy == "best_worst":
            return [(order[0], order[-1])] if len(order) > 1 else []
        return list(itertools.combinations(order, 2))

    def _sign(self, gap: float) -> int:
        return 0 if abs(gap) <= self.min_gap else 1 if gap > 0 else -1


def _mean(values: Sequence[float | None]) -> float | None:
    """None where a verdict is missing."""
    read = [one for one in values if one is not None]
    return sum(read) / len(read) if len(read) == len(values) else None


def _piece(clip: Clip, first: int, end: int) -> Clip:
    """Some frames of a clip as a clip of their own."""
    count, rate = end - first, clip.sampled_rate
    return Clip(
        clip.frames[first:end],
        tuple(range(count)),
        tuple(place / rate for place in range(count)),
        rate,
        count,
        clip.reader,
    )


def _picture(frame: Any) -> Image.Image:
    """uint8 [3, H, W] as a picture."""
    return Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
