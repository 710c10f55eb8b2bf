"""What a builder works on and what it gives back: the sampled answers to one prompt, and pairs of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import nn

from mmalign.data._digest import digest
from mmalign.rewards._reads import answers_of
from mmalign.rewards._scoring import wants_of
from mmalign.types import Adapter, Judge, Kind, Message, Part

UNTOLD = "prompts of which the judge cannot be told what it wants"
EMPTY = "answers without any text"
EQUAL = "answers equal to another one to the same prompt"
TOO_FEW = "prompts with fewer than two different answers"


@dataclass(frozen=True)
class Asked:
    """What answers are sampled to: a prompt and, for a builder that reads them, the answer that its row has
    and those of further roles. `origin` names the row in messages."""

    id: str
    turns: tuple[Message, ...]
    original: tuple[Part, ...] = ()
    origin: str = ""
    sides: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """The different answers to one prompt, each with the seed it was sampled from; media are decoded.

    `cuts`: first and one past the last frame of each segment of the answers, where they are clips that are
    judged by segment. `told`: what else is known of the prompt, for judges that want it.
    """

    id: str
    prompt: tuple[Message, ...]
    answers: tuple[Part, ...]
    seeds: tuple[int, ...]
    cuts: tuple[tuple[int, int], ...] = ()
    told: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """A pair by the places of its sides in the group. `gap`: how much better the chosen side scores, 0 in a
    tie. `segments`: for each segment 1 where the chosen clip is better, -1 where the other one is, else 0."""

    chosen: int
    rejected: int
    gap: float
    weight: float = 1.0
    tie: bool = False
    segments: tuple[int, ...] | None = None


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

    copies: ClassVar[bool] = False
    """True if answers are made of the picture or clip that a row's answer is, and not of a prompt alone."""

    asks_judge: ClassVar[bool] = True
    asks_helper: ClassVar[str] = "no"
    asks_model: ClassVar[str] = "yes"
    tells: ClassVar[frozenset[str]] = frozenset()
    """What the builder can tell a judge of a prompt, by name; "reference" is the answer that its row has."""

    works_with: ClassVar[Kind] = "surrogate"
    """The kind of model that makes such copies."""

    def ready_for(self, adapter: Adapter) -> None:
        """Raise UserError if such a model does not give what the builder asks for."""
        _ = self.cuts(adapter)

    def judged(self, adapter: Adapter) -> frozenset[str]:
        """The kinds of answers that the judge is given."""
        return answers_of(adapter)

    def cuts(self, adapter: Any) -> tuple[tuple[int, int], ...]:
        """First and one past the last frame of each segment of a clip; () where answers are judged whole."""
        return ()

    def reads_answers(self, judge: Any) -> bool:
        """True if rows are read with their answers."""
        return self.copies or "reference" in wants_of(judge)

    def told(self, asked: Asked) -> dict[str, str]:
        """What is known of a prompt, media not decoded, as far as it is known."""
        text = "".join(part.data for part in asked.original if part.kind == "text")
        return {"reference": text} if "reference" in self.tells and text.strip() else {}

    def sample(
        self, adapter: Any, model: nn.Module, asked: Sequence[Asked], seeds: Sequence[int]
    ) -> list[Part]:
        """One answer for every prompt and seed; media are decoded."""
        return list(adapter.generate(model, [one.turns for one in asked], seeds))

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
