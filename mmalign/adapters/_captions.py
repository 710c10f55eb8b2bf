"""Captions of a text-to-image or text-to-video model: reading them from prompts, and their frozen states.

How a family turns captions into states is upstream's own `encode_prompt`, called by the family's record.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers.utils import logging as transformers_logging

from mmalign.adapters._families import Condition, Family
from mmalign.types import Message, UserError

_REMEMBERED = 256  # captions kept from earlier calls: about 60 MB at 77 x 768, 160 MB at 77 x 2048
_PER_FORWARD = 32


def caption_of(prompt: Sequence[Message], tokenizers: Sequence[Any], where: str) -> str:
    """The caption of a prompt: one message of text parts, joined by spaces.

    Raises UserError, starting with `where`, for several messages, for media, for text that is no valid
    Unicode, and for a tokenizer's own start or end token, which would cut the caption there.
    """
    if len(prompt) != 1 or prompt[0].speaker not in ("user", "text"):
        speakers = ", ".join(message.speaker for message in prompt) or "none"
        raise UserError(f"{where}: prompt must be one message, the caption, got messages by: {speakers}")
    for part in prompt[0].parts:
        if part.kind != "text" or not isinstance(part.data, str):
            raise UserError(f"{where}: prompt must be text only, got {part.kind}; remove it from the prompt")
    caption = " ".join(part.data for part in prompt[0].parts)
    if any("\ud800" <= character <= "\udfff" for character in caption):
        raise UserError(f"{where}: caption holds half of a character (a lone surrogate); mend its encoding")
    for token in [token for t in tokenizers for token in (t.bos_token, t.eos_token) if token]:
        if token in caption:
            raise UserError(f"{where}: caption contains the control token {token}; remove it")
    return caption


@contextmanager
def _quiet() -> Iterator[None]:
    """No word of the libraries below an error."""
    logs = (transformers_logging, diffusers_logging)
    levels = [one.get_verbosity() for one in logs]
    try:
        for one in logs:
            one.set_verbosity_error()
        yield
    finally:
        for one, level in zip(logs, levels, strict=True):
            one.set_verbosity(level)


class Captions:
    """The text side of a pipeline: every distinct caption runs once through the frozen encoders."""

    def __init__(self, family: Family, pipeline: Any, zeros: bool) -> None:
        """The pipeline's encoders must lie on their device already; with `zeros` the empty caption's part of
        a condition is zeros."""
        self._family, self._pipeline = family, pipeline
        named = [pipeline.components[name] for name in family.tokenizers]
        lengths = family.caption_lengths(pipeline)
        self._tokenizers = [(t, n) for t, n in zip(named, lengths, strict=True) if t is not None]
        encoders = [pipeline.components[name] for name in family.encoders]
        self._device: str = next(one.device.type for one in encoders if one is not None)
        self._known: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self.width = min(self.lengths)
        encoded = self._encode([""], True)
        empty = {name: value[0].clone() for name, value in encoded.items()}
        self.empty = {k: torch.zeros_like(v) for k, v in empty.items()} if zeros else empty

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens that each text encoder takes."""
        return tuple(length for _, length in self._tokenizers)

    def read(self, prompt: Sequence[Message], where: str) -> str:
        """The caption of a prompt. Raises UserError, starting with `where`, if it has none."""
        return caption_of(prompt, [tokenizer for tokenizer, _ in self._tokenizers], where)

    def too_long(self, caption: str) -> bool:
        """True if a text encoder will not see the caption's end."""
        return any(len(tokenizer(caption, verbose=False).input_ids) > n for tokenizer, n in self._tokenizers)

    def words(self, caption: str) -> tuple[str, int]:
        """A caption as the first encoder reads it, its start and end token included; and how many tokens that
        is, of the encoder that spends most."""
        ids = [
            tokenizer(caption, truncation=True, max_length=n).input_ids for tokenizer, n in self._tokenizers
        ]
        return str(self._tokenizers[0][0].decode(ids[0])), max(len(row) for row in ids)

    @torch.no_grad()
    def conditions(self, captions: Sequence[str]) -> list[dict[str, Tensor]]:
        """The part of a Condition that each caption gives, without the batch dimension, on the CPU."""
        fresh = [caption for caption in dict.fromkeys(captions) if caption not in self._known]
        found = {caption: self._known[caption] for caption in captions if caption in self._known}
        for start in range(0, len(fresh), _PER_FORWARD):
            part = fresh[start : start + _PER_FORWARD]
            batched = self._encode(part, False)
            for i, caption in enumerate(part):
                # cloned, so that one kept caption does not keep its whole batch in memory
                found[caption] = {name: values[i].clone() for name, values in batched.items()}
        for caption in dict.fromkeys(captions):
            self._known[caption] = found[caption]
            self._known.move_to_end(caption)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return [found[caption] for caption in captions]

    @torch.no_grad()
    def _encode(self, captions: list[str], negative: bool) -> Condition:
        # what is remembered here must not depend on whether a round or a loader asked first
        # captions that are cut are counted: upstream would warn of errors that cannot be
        with torch.autocast(self._device, enabled=False), _quiet():
            encoded = self._family.encode(self._pipeline, captions, negative)
        return {name: value.detach().cpu() for name, value in encoded.items()}
