"""Judges that ask a writer and read what it says."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from mmalign._build import build_named, named_tree
from mmalign._names import KINDS, name_of
from mmalign.rewards import _verdict_cache
from mmalign.rewards._batch import BatchJudge
from mmalign.types import Message, Part, UserError, derive_seed
from mmalign.writing import Writer

Turns = tuple[Message, ...]


@dataclass(frozen=True)
class WrittenJudge(BatchJudge):
    """A judge whose verdicts `writer` writes. Every question has a seed that follows from `seed` and all that
    is asked, so that it is answered alike in every batch. `cache`: a folder that keeps answers by writer and
    question, which runs and processes may share."""

    unchecked: ClassVar[bool] = True

    writer: dict[str, Any] = field(metadata={"section": "helper"})  # section of the writer that is asked
    # folder that keeps answers by writer and question, for all runs and processes; null: none
    cache: str | None = field(default=None, kw_only=True)
    # of the questions, one for each that follows from this and all that is asked
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.cache is not None and not self.cache.strip():
            raise ValueError("cache: must name a folder, or be null")
        # defaults written out, as in every other section
        object.__setattr__(self, "writer", named_tree(KINDS["helper"], self._asked))

    @cached_property
    def _asked(self) -> Writer:
        # whether code outside the package may be named was decided before this section was built
        found: Writer = build_named(KINDS["helper"], self.writer, "writer", allow_code=True)
        return found

    @cached_property
    def _who(self) -> str:
        """Who answers, as far as the config tells; seeds follow from it, whether answers are kept or not."""
        return self._told_by("")

    @cached_property
    def _who_now(self) -> str:
        """The same with the state of the writer, which names the answers that are kept."""
        return self._told_by(self._asked.content())

    def _told_by(self, content: str) -> str:
        idle = self._asked.indifferent
        section = {name: value for name, value in self.writer.items() if name not in idle}
        return json.dumps([section, content, self.seed], sort_keys=True)

    @property
    def wants(self) -> frozenset[str]:
        """What the judge must be told besides prompt and response."""
        return frozenset()

    @cached_property
    def unread(self) -> list[str]:
        """What the writer said that was no verdict, for messages: the first such answer in one line, with the
        keys that decide how it is read; empty as long as there is none."""
        return []

    def no_verdict(self, text: str | None, keys: str) -> None:
        """Remember the first answer that cannot be read."""
        if not self.unread:
            line = " ".join(text.split()) if text is not None else ""
            said = (
                f"the judge said, for one: {line[:120]!r}"
                if line
                else "the writer said nothing, for one, or was cut off"
            )
            self.unread.append(f"{said}; look at {keys}")

    def ready(self) -> None:
        """Load the writer. Raises UserError as it does."""
        self._asked.ready()

    @abstractmethod
    def verdicts_given(
        self,
        prompts: Sequence[Turns],
        responses: Sequence[Part],
        told: Sequence[Mapping[str, str]],
    ) -> list[Mapping[str, float] | None]:
        """Named scores of every response, None for a verdict that cannot be read; `told` holds for each what
        `wants` names."""

    def verdicts(
        self, prompts: Sequence[Turns], responses: Sequence[Part]
    ) -> list[Mapping[str, float] | None]:
        """The same of responses of which nothing more is known. Raises UserError for a judge that wants
        more."""
        if self.wants:
            name = name_of(KINDS["judge"], type(self))
            raise UserError(
                f"{name}: must be told the {' and the '.join(sorted(self.wants))}, and is not here"
            )
        return self.verdicts_given(prompts, responses, [{}] * len(responses))

    def score_many(self, prompts: Sequence[Turns], responses: Sequence[Part]) -> list[Mapping[str, float]]:
        """The same. Raises UserError for the first verdict that cannot be read."""
        found = []
        for number, one in enumerate(self.verdicts(prompts, responses), 1):
            if one is None:
                name = name_of(KINDS["judge"], type(self))
                raise UserError(
                    f"{name}: the verdict on response {number} of {len(responses)} cannot be read"
                )
            found.append(one)
        return found

    def said(self, questions: Sequence[Turns]) -> list[str | None]:
        """What the writer answers, every different question asked once."""
        keys = [_verdict_cache.key_of(self._who, one) for one in questions]
        folder = None if self.cache is None else Path(self.cache).expanduser()
        kept: dict[str, str] = {}
        if folder is not None:
            kept = {
                key: _verdict_cache.key_of(self._who_now, one)
                for key, one in zip(keys, questions, strict=True)
            }
        known = {key: None if folder is None else _verdict_cache.read(folder, kept[key]) for key in keys}
        missing = {key: one for key, one in zip(keys, questions, strict=True) if known[key] is None}
        if missing:
            seeds = [derive_seed(self.seed, 0, key, "verdict") for key in missing]
            answers = self._asked.write(list(missing.values()), seeds)
            for key, answer in zip(missing, answers, strict=True):
                known[key] = answer
                if folder is not None and answer is not None:
                    _verdict_cache.write(folder, kept[key], answer)
        return [known[key] for key in keys]
