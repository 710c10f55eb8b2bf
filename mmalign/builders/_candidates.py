"""What a builder works on and what it gives back: the sampled answers to one prompt, and pairs of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mmalign.data._digest import digest
from mmalign.types import Judge, Message, Part

EMPTY = "answers without any text"
EQUAL = "answers equal to another one to the same prompt"
TOO_FEW = "prompts with fewer than two different answers"


@dataclass(frozen=True)
class Group:
    """The different answers to one prompt, each with the seed it was sampled from; media are decoded."""

    id: str
    prompt: tuple[Message, ...]
    answers: tuple[Part, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Made:
    """A pair by the places of its sides in the group. `gap`: how much better the chosen side scores, 0 in a
    tie."""

    chosen: int
    rejected: int
    gap: float
    weight: float = 1.0
    tie: bool = False


@dataclass(frozen=True)
class Paired:
    """What became of one group: scores by place (None: not scored), pairs, and counts of all left out."""

    scores: tuple[Mapping[str, float] | None, ...]
    pairs: tuple[Made, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)


class Builder(ABC):
    """A way of making pairs. Subclasses are frozen dataclasses whose fields are the keys in the config."""

    n: int
    """Answers that are sampled per prompt."""

    @abstractmethod
    def ready(self, judge: Judge) -> None:
        """Load what judging needs before anything is sampled. Raises UserError if the judge will not do."""

    @abstractmethod
    def pair(self, groups: Sequence[Group], judge: Judge, seed: int) -> list[Paired]:
        """Judge every group, which has two answers or more, and choose its pairs.

        The result for a group depends on `seed`, its id and its answers alone.
        """


def distinct(group: Group) -> tuple[Group, Counter[str]]:
    """The group without answers that are empty or repeat an earlier one, and how many those were."""
    seen: set[str] = set()
    kept: list[int] = []
    dropped: Counter[str] = Counter()
    for place, answer in enumerate(group.answers):
        content = answer.data.strip() if answer.kind == "text" else answer.data
        if content == "":
            dropped[EMPTY] += 1
            continue
        key = digest(answer.kind, content)
        if key in seen:
            dropped[EQUAL] += 1
            continue
        seen.add(key)
        kept.append(place)
    answers = tuple(group.answers[place] for place in kept)
    return replace(group, answers=answers, seeds=tuple(group.seeds[place] for place in kept)), dropped
