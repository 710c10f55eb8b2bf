"""A model at hand as a writer: any text, vision- or video-language adapter, answering by its own rules."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from mmalign._build import model_section, named_tree
from mmalign._names import KINDS
from mmalign.types import Adapter, Message, UserError
from mmalign.writers._chances import first_chances
from mmalign.writers._turns import given_whole, instructed, refuse_uneven
from mmalign.writing import Writer


@dataclass(frozen=True)
class Local(Writer):
    """A model from section `model`, as in a training config, loaded once.

    It answers by `model.generation`, every question from its own seed, so that no answer depends on the other
    questions or their order. `batch` questions are handed over at a time, which bounds the media held in
    memory. An answer that ends only because `max_new_tokens` were drawn is cut off and so is none: leave room
    for what is asked. `system`: a system turn for questions without one.
    """

    indifferent: ClassVar[frozenset[str]] = frozenset({"batch"})

    # a model's section as in a training config, with its `generation`
    model: dict[str, Any] = field(metadata={"section": "model"})
    batch: int = 32  # questions handed over together
    system: str | None = None  # a system turn for questions without one

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch: must be above 0, got {self.batch}")
        if self.system is not None and not self.system.strip():
            raise ValueError("system: must say something, or be null")
        # defaults written out, as in every other section
        object.__setattr__(self, "model", named_tree(KINDS["model"], self._section))

    @cached_property
    def _section(self) -> Any:
        return model_section(self.model, "exact", "answers in no words; use text, vlm or video_lm")

    @cached_property
    def _adapter(self) -> Adapter:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        adapter: Adapter = self._section.build(device, torch.float32)
        adapter.policy.requires_grad_(False).eval()
        return adapter

    def ready(self) -> None:
        """Load the model. Raises UserError as its adapter does."""
        _ = self._adapter

    def content(self) -> str:
        """A digest of the model's files; of one from a hub its revision is all that is known."""
        folder = Path(str(self.model.get("path"))).expanduser()
        if not folder.is_dir():
            return ""
        digest = hashlib.sha256()
        for file in sorted(one for one in folder.rglob("*") if one.is_file()):
            with file.open("rb") as content:
                own = hashlib.file_digest(content, "sha256").hexdigest()
            digest.update(f"{file.relative_to(folder)} {own}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def write(self, questions: Sequence[tuple[Message, ...]], seeds: Sequence[int]) -> list[str | None]:
        """The model's answers, None for empty and cut-off ones. Raises UserError for questions that the model
        cannot read, as those with other media or with too many tokens."""
        refuse_uneven(questions, seeds)
        found: list[str | None] = []
        for where, part, begin in self._parts(questions):
            adapter, own = self._adapter, seeds[begin : begin + len(part)]
            with torch.no_grad(), _naming(where):
                answers = adapter.generate(adapter.policy, part, own)
            found += [given_whole(answer) for answer in answers]
        return found

    def chances(
        self, questions: Sequence[tuple[Message, ...]], words: Sequence[str]
    ) -> list[tuple[float, ...]]:
        """For every question the model's probabilities that its answer's first token is that of each word,
        temperature 1. A word is written as an answer is: in a chat without a space in front. Raises UserError
        for words whose first tokens are the same, and for an adapter that tells no distributions."""
        adapter = self._adapter
        if "distribution" not in adapter.offers:
            raise UserError(f"model.adapter: {self.model['adapter']} tells no next-token distributions")
        if not words:
            raise ValueError("words: name at least one")
        found: list[tuple[float, ...]] = []
        for where, part, _ in self._parts(questions):
            with torch.no_grad(), _naming(where):
                found += first_chances(adapter, adapter.policy, part, words)
        return found

    def _parts(
        self, questions: Sequence[tuple[Message, ...]]
    ) -> Iterator[tuple[str, list[tuple[Message, ...]], int]]:
        """Batches of questions with their place in words, and the number of the first."""
        for begin in range(0, len(questions), self.batch):
            part = [instructed(turns, self.system) for turns in questions[begin : begin + self.batch]]
            yield f"questions {begin + 1} to {begin + len(part)}", part, begin


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Says in a refusal of the adapter, which counts from 0 within a batch, which questions it was given."""
    try:
        yield
    except UserError as error:
        raise UserError(f"writer local, {where}: {error}") from error
