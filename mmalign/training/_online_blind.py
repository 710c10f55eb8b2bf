"""Answers that a round writes blind: the chosen one of every pair, written on by the policy as it stands with
most of the picture hidden from it (the online form of BDHS, arXiv 2407.02477)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from mmalign.blind.answers import CUT, Blind, BlindWriter, Subject, Written, is_cut, refuse_seeing
from mmalign.config import RunConfig
from mmalign.rewards._alike import Likeness
from mmalign.training._online_modes import BLIND
from mmalign.training._online_store import Draft
from mmalign.types import (
    Adapter,
    Example,
    HidingCompleter,
    Message,
    Part,
    PreferenceSample,
    UserError,
    derive_seed,
)


@dataclass(frozen=True)
class BlindAnswers:
    """What a run needs to write them; ready for every round."""

    settings: Blind
    likeness: Likeness
    adapter: Adapter
    seed: int

    @classmethod
    def of(
        cls, config: RunConfig, adapter: Adapter, samples: Sequence[PreferenceSample]
    ) -> BlindAnswers | None:
        """None for a run that writes none. Raises UserError for a model of which no places can be hidden, an
        encoder that cannot be had, and `samples` of which none shows anything."""
        settings = None if config.online is None else config.online.blind
        if settings is None:
            return None
        refuse_seeing(adapter)
        if not any(_shows(sample) for sample in samples):
            raise UserError("online.blind: no row of the data has a picture or clip to hide; remove it")
        likeness = Likeness(settings.encoder, "online.blind.encoder", adapter.device)
        return cls(settings, likeness, adapter, config.seed)

    def added(
        self,
        drafts: Sequence[Draft],
        known: Mapping[str, PreferenceSample],
        ready: Mapping[str, tuple[Message, ...]],
        model: nn.Module,
        round_number: int,
    ) -> tuple[list[Draft], Counter[str]]:
        """Drafts of a round with their answers written blind, and how many have none, by reason. `known`: the
        rows by the prompt's id; `ready`: their prompts, media decoded."""
        assert isinstance(self.adapter, HidingCompleter)
        subjects = [Subject(one.id, ready[one.prompt], _chosen(one, known[one.prompt])) for one in drafts]
        whole = [i for i, one in enumerate(subjects) if not is_cut(self.adapter, one)]
        writer = BlindWriter(self.settings, self.likeness, self.adapter, model)
        seed = derive_seed(self.seed, round_number, "", "blind")
        found = dict(zip(whole, writer.write([subjects[i] for i in whole], seed), strict=True))
        made, lacking = [], Counter[str]()
        for place, draft in enumerate(drafts):
            written = self._fitting(subjects[place], found.get(place, CUT))
            if isinstance(written, str):
                lacking[f"answers written blind, without which their pairs train ({written})"] += 1
                made.append(draft)
                continue
            answers = {**draft.answers, BLIND: Part("text", written.text)}
            made.append(replace(draft, answers=answers, told={BLIND: dict(written.told)}))
        return made, lacking

    def _fitting(self, subject: Subject, written: Written | str) -> Written | str:
        """The answer, or why it cannot train."""
        if isinstance(written, str):
            return written
        example = Example(subject.turns, (Part("text", written.text),))
        sample = PreferenceSample(subject.id, {BLIND: (example,)}, origin=subject.id)
        try:
            self.adapter.check(sample, (BLIND,))
        except UserError as error:
            return str(error).partition(": ")[2] or str(error)
        return written


def _chosen(draft: Draft, row: PreferenceSample) -> tuple[Part, ...]:
    return row.examples["chosen"][0].response if draft.offline else (draft.answers["chosen"],)


def _shows(sample: PreferenceSample) -> bool:
    prompts = (one.prompt for group in sample.examples.values() for one in group)
    return any(part.kind != "text" for prompt in prompts for turn in prompt for part in turn.parts)
