"""A sample with pictures or clips -> ids, media units and every other output of the processor, per response.

The processor is called on the whole conversation, so that ids are upstream's own. It is never allowed to
truncate; how many placeholders stand for media is counted here, before and after it.

Two families are read in ways of their own. PaliGemma reads its prompt both ways and its answer from left to
right: answers go to the processor apart, as its `suffix`. SmolVLM and InternVL know no clips: their
processors hand frames over as pictures, and all media of a row are units of kind "image".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor

from mmalign.adapters import _tokens
from mmalign.adapters._vision_media import KINDS, MediaKind, Unit
from mmalign.adapters._vision_order import Turn, in_order, refuse_count
from mmalign.adapters._vision_processor import Memo
from mmalign.types import Example, Message, Part, PreferenceSample, UserError

# ids are kept apart, the mask is made anew for every batch, and what is scored is our own matter
_TEXT_OUTPUTS = ("input_ids", "attention_mask", "labels")


@dataclass(frozen=True)
class Seen:
    """One response under its prompt, as the model is to see it.

    `ids` of prompt and response; the response, which is scored, begins at `start`. `per_token` [T] and
    `others` (leading size: media of the row) are what else the processor gave; `units` the media in order.
    """

    ids: tuple[int, ...]
    start: int
    cut: bool
    per_token: Mapping[str, Tensor]
    others: Mapping[str, Tensor]
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class _Processed:
    """The processor's outputs for one text."""

    ids: list[int]
    per_token: dict[str, Tensor]
    others: dict[str, Tensor]
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class Reader:
    """Turns conversations into what the model sees. `media`: kinds of media the adapter takes."""

    processor: Any
    rules: _tokens.Rules
    media: frozenset[str]
    plain: Literal["chat", "raw"]
    markers: Mapping[MediaKind, str] = field(
        default_factory=dict
    )  # kind -> the placeholder a template writes
    # kind -> the id that features replace; none for clips whose frames are handed over as pictures
    ids: Mapping[MediaKind, int] = field(default_factory=dict)
    apart: bool = False  # answers are the processor's `suffix`

    def sample(self, sample: PreferenceSample, roles: Sequence[str]) -> dict[tuple[str, int], Seen]:
        """Every response of the given roles, keyed by (role, slot). Raises UserError naming row and role.

        The prompt is what its own ids share with those of all responses given to it; those that are given to
        it with other media begin as many ids before its end.
        """
        memo = Memo(self.processor)
        heads: dict[Any, _Processed] = {}
        merged: dict[str, int] = {}  # ids at the end of a prompt that some response to it changes
        keys: dict[tuple[str, int], Any] = {}
        whole: dict[tuple[str, int], _Processed] = {}
        for role, examples in sample.examples.items():
            for slot, example in enumerate(examples):
                where = _tokens.place(sample, role, slot)
                try:
                    key, text, turns = self._prompt(example.prompt, where)
                    if key not in heads:
                        heads[key] = self._process(memo, text, example.prompt, where)
                    full = self._answered(memo, example, text, turns, where)
                except UserError:
                    if role in roles:
                        raise
                    continue  # a response that nobody scores is not judged
                head = heads[key].ids
                merged[text] = max(merged.get(text, 0), len(head) - _tokens.common_prefix(head, full.ids))
                keys[role, slot], whole[role, slot] = (key, text), full
        wanted = [(role, slot) for role in roles for slot in range(len(sample.examples.get(role, ())))]
        starts = {one: len(heads[key].ids) - merged[text] for one, (key, text) in keys.items()}
        return {one: self._fitted(whole[one], starts[one], _tokens.place(sample, *one)) for one in wanted}

    def prompt(self, prompt: tuple[Message, ...], where: str) -> Seen:
        """A prompt that is to be answered."""
        _, text, _ = self._prompt(prompt, where)
        found = self._process(Memo(self.processor), text, prompt, where)
        return Seen(tuple(found.ids), len(found.ids), False, found.per_token, found.others, found.units)

    def begun(self, prompt: tuple[Message, ...], begun: str, where: str) -> Seen:
        """A prompt whose answer is begun and is to be gone on with; the answer begins at `start`."""
        _tokens.refuse_text(begun, where, self.rules.banned)
        _, text, turns = self._prompt(prompt, where)
        memo, full = Memo(self.processor), text + begun
        if turns is None:
            self._refuse_parts([*_parts(prompt), Part("text", begun)], where)
        elif begun.strip():
            turns = [*turns, {"role": "assistant", "content": [{"type": "text", "text": begun}]}]
            rendered = _tokens.render(self.processor, turns, where, answer=True)
            full = _tokens.begun_text(rendered, text, begun, where)
        head = self._process(memo, text, prompt, where)
        if self.apart and begun.strip():
            found = _without_end(self._process(memo, text, prompt, where, begun))
        else:
            found = head if full == text else self._process(memo, full, prompt, where)
        start = _tokens.common_prefix(head.ids, found.ids)
        return Seen(tuple(found.ids), start, False, found.per_token, found.others, found.units)

    # ------------------------------------------------------------ text

    def _turns(self, prompt: Sequence[Message], where: str) -> list[Turn] | None:
        """Chat turns with lists of contents, or None where the prompt is to stand as it is."""
        if self.apart and [message.speaker for message in prompt] == ["user"]:
            return None  # one question, for a model that knows no turns
        if not _tokens.is_plain(prompt, where):
            return [{"role": m.speaker, "content": self._contents(m.parts, where)} for m in prompt]
        if self.plain == "raw":
            return None
        return [{"role": "user", "content": self._contents(_parts(prompt), where)}]

    def _contents(self, parts: Sequence[Part], where: str) -> list[dict[str, str]]:
        self._refuse_parts(parts, where)
        return [
            {"type": "text", "text": part.data} if part.kind == "text" else {"type": part.kind}
            for part in parts
        ]

    def _refuse_parts(self, parts: Sequence[Part], where: str) -> None:
        """Raise UserError for media that are not read and for text no tokenizer should see, which may also
        arise where two texts meet."""
        for kind, some in groupby(parts, key=lambda part: part.kind):
            if kind == "text":
                _tokens.refuse_text("".join(part.data for part in some), where, self.rules.banned)
            else:
                self._refuse_kind(next(some), where)

    def _refuse_kind(self, part: Part, where: str) -> None:
        if part.kind not in self.media:
            takes = " and ".join(sorted(self.media))
            hint = "; videos need model.adapter: video_lm" if part.kind == "video" else ""
            raise UserError(f"{where}: holds a part of kind {part.kind}, this adapter takes {takes}{hint}")
        if part.kind not in self.markers:
            raise UserError(f"{where}: holds a part of kind {part.kind}, which this model does not read")

    def _prompt(self, prompt: Sequence[Message], where: str) -> tuple[Any, str, list[Turn] | None]:
        """What tells the prompt from others, its text with one placeholder per medium, and its turns."""
        where = f"{where}: prompt"
        turns = self._turns(prompt, where)
        if turns is not None:
            turns = in_order(self.processor, turns, self.markers, where)
            text = _tokens.render(self.processor, turns, where, answer=False)
        else:
            parts = _parts(prompt)
            self._refuse_parts(parts, where)
            text = "".join(part.data if part.kind == "text" else self.markers[part.kind] for part in parts)
        media = _media(prompt)
        refuse_count(text, [part.kind for part in media], self.markers, where)
        return (text, tuple(id(part.data) for part in media)), text, turns

    def _answered(
        self, memo: Memo, example: Example, prompt: str, turns: list[Turn] | None, where: str
    ) -> _Processed:
        """Prompt and response, with an end token where no chat template ends the turn."""
        if any(part.kind != "text" for part in example.response):
            raise UserError(f"{where}: a response must be text; pictures and clips belong to the prompt")
        answer = _tokens.text_of(example.response, where, self.rules.banned)
        if not answer.strip():
            raise UserError(f"{where}: the response is empty; remove the row or fill it")
        if turns is None:
            self._refuse_parts([*_parts(example.prompt), Part("text", answer)], where)
            full, open_ended = prompt + answer, True
        else:
            turns = [*turns, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
            rendered = _tokens.render(self.processor, turns, where, answer=True)
            full, open_ended = _tokens.split_ending(rendered, prompt, answer, where)
        eos = self.rules.eos_id
        if self.apart:  # this processor always writes the end
            found = self._process(memo, prompt, example.prompt, where, answer)
            return _without_end(found) if eos is None else found
        found = self._process(memo, full, example.prompt, where)
        if not open_ended or eos is None or found.ids[-1:] == [eos]:
            return found
        longer = {name: torch.cat([value, value.new_zeros(1)]) for name, value in found.per_token.items()}
        return replace(found, ids=[*found.ids, eos], per_token=longer)

    # ------------------------------------------------------------ the processor

    def _process(
        self, memo: Memo, text: str, prompt: Sequence[Message], where: str, suffix: str | None = None
    ) -> _Processed:
        media = _media(prompt)
        out = memo(text, media, where, suffix)
        ids = [int(i) for i in out["input_ids"][0]]
        outputs = {name: value for name, value in out.items() if name not in _TEXT_OUTPUTS}
        per_token = {n: v[0] for n, v in outputs.items() if v.shape == (1, len(ids)) and n.endswith("_ids")}
        media_outputs = {name: value for name, value in outputs.items() if name not in per_token}
        units: list[Unit] = []
        for kind in KINDS:
            shown = [part.data for part in media if kind == (part.kind if part.kind in self.ids else "image")]
            if shown:
                units += memo.units(kind, shown, media_outputs)
            elif any(i == self.ids.get(kind) for i in ids):
                raise UserError(
                    f"{where}: the text holds a placeholder {self.markers[kind]!r} without its {kind}"
                )
        others = {name: value for name, value in media_outputs.items() if not name.startswith("pixel_")}
        return _Processed(ids, per_token, others, tuple(units))

    def _fitted(self, found: _Processed, start: int, where: str) -> Seen:
        """Within the limit: only a response may be cut, never a picture or the prompt."""
        tokens = _tokens.fit(found.ids, start, self.rules, where)
        length = len(tokens.ids)
        per_token = {name: value[:length] for name, value in found.per_token.items()}
        return Seen(tokens.ids, tokens.start, tokens.cut, per_token, found.others, found.units)


def _parts(prompt: Sequence[Message]) -> list[Part]:
    return [part for message in prompt for part in message.parts]


def _media(prompt: Sequence[Message]) -> list[Part]:
    return [part for part in _parts(prompt) if part.kind != "text"]


def _without_end(found: _Processed) -> _Processed:
    """Without the last token."""
    per_token = {name: value[:-1] for name, value in found.per_token.items()}
    return replace(found, ids=found.ids[:-1], per_token=per_token)
