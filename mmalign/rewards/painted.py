"""What a text is worth as a prompt: what is made from it, scored under the original prompt (2412.15156)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch

from mmalign._build import build_named, model_section, named_tree
from mmalign._names import KINDS
from mmalign.rewards._batch import BatchJudge
from mmalign.rewards._pictures import caption_of
from mmalign.rewards._reads import answers_of, refuse_unread
from mmalign.rewards._scoring import ready, score_readable
from mmalign.rewards._wrapping import PLACE, check_template, unwrapped
from mmalign.types import Adapter, Judge, Message, Part, UserError, derive_seed


@dataclass(frozen=True)
class Painted(BatchJudge):
    """Hands a response to a media model as its prompt, and what that makes to another judge.

    `model` is a model's section as in a training config, adapter diffusion; it makes `n` pictures or clips of
    every response, and `judge` scores each under the original prompt, not under the response. Scores are the
    judge's own by name, their means over the `n`. All responses to one prompt are made from the same `n`
    seeds, which depend on `seed` and the prompt's text alone. `template` is what stands around the original
    prompt in what the rewriter is asked, with {prompt} in its place.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"text"})

    # a model's section, adapter diffusion, which makes pictures or clips of a response
    model: dict[str, Any] = field(metadata={"section": "model"})
    # section of the reward that scores them under the original prompt
    judge: dict[str, Any] = field(metadata={"section": "judge"})
    # what stands around the original prompt in what is asked, with {prompt} in its place
    template: str = PLACE
    n: int = 1  # pictures or clips of a response, whose scores are averaged
    seed: int = 0  # of what is made
    batch: int = 32  # responses whose media are held at a time

    def __post_init__(self) -> None:
        for name, value in (("n", self.n), ("batch", self.batch)):
            if value < 1:
                raise ValueError(f"{name}: must be 1 or more, got {value}")
        check_template(self.template)
        # defaults written out, as in every other section
        object.__setattr__(self, "model", named_tree(KINDS["model"], self._section))
        object.__setattr__(self, "judge", named_tree(KINDS["judge"], self._judge))

    @cached_property
    def _section(self) -> Any:
        return model_section(self.model, "surrogate", "makes no pictures or clips; use diffusion")

    @cached_property
    def _judge(self) -> Judge:
        built: Judge = build_named(KINDS["judge"], self.judge, "judge", allow_code=True)
        return built

    @property
    def unchecked(self) -> bool:
        """True if the judge's scores were not checked against published numbers."""
        return bool(getattr(self._judge, "unchecked", False))  # a judge need not say

    @property
    def costs(self) -> frozenset[str]:
        """The judge's scores of which less is better."""
        found: Any = getattr(self._judge, "costs", None)  # a judge need not say
        return found if isinstance(found, frozenset) else frozenset()

    @cached_property
    def _adapter(self) -> Adapter:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        adapter: Adapter = self._section.build(device, torch.float32)
        adapter.policy.requires_grad_(False).eval()
        return adapter

    def ready(self) -> None:
        """Load model and judge. Raises UserError if one cannot be had, or the judge does not read what the
        model makes."""
        ready(self._judge)
        refuse_unread(self._judge, answers_of(self._adapter), "judge")

    def score_many(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float]]:
        """The judge's scores of what is made from every response. Raises UserError for a prompt that is not
        as `template` has it, for a response that is no text or that the model cannot be given, and where a
        verdict of the judge cannot be read."""
        found = []
        for response, scores in zip(responses, self.verdicts(prompts, responses), strict=True):
            if scores is None:
                raise UserError(
                    f"painted: the judge's verdict on what {response.data!r:.60} makes cannot be read"
                )
            found.append(scores)
        return found

    def verdicts(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float] | None]:
        """The same, but None where a judge that writes its verdicts wrote one that cannot be read."""
        found: list[Mapping[str, float] | None] = []
        for begin in range(0, len(responses), self.batch):
            part = slice(begin, begin + self.batch)
            found += self._scored(prompts[part], responses[part])
        return found

    def _scored(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float] | None]:
        original = [unwrapped(caption_of(prompt), self.template) for prompt in prompts]
        asked, seeds, told = [], [], []
        for caption, response in zip(original, responses, strict=True):
            if response.kind != "text":
                raise UserError(f"painted: reads texts, got a response of kind {response.kind}")
            for number in range(self.n):
                asked.append((Message("text", (Part("text", response.data.strip()),)),))
                told.append((Message("text", (Part("text", caption),)),))
                seeds.append(derive_seed(self.seed, 0, caption, f"painted {number}"))
        adapter = self._adapter
        with torch.no_grad():
            media = adapter.generate(adapter.policy, asked, seeds)
        scores = score_readable(self._judge, told, media)
        return [_mean(scores[i * self.n : (i + 1) * self.n]) for i in range(len(responses))]


def _mean(scores: Sequence[Mapping[str, float] | None]) -> Mapping[str, float] | None:
    """Means by name; None where a verdict is missing."""
    read = [one for one in scores if one is not None]
    if len(read) < len(scores):
        return None
    return {name: sum(one[name] for one in read) / len(read) for name in read[0]}
