"""Captions of a text-to-image model: reading them from prompts, tokenising, and their frozen text states."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.types import Message, UserError

_REMEMBERED = 256  # states kept from earlier calls: about 60 MB at 77 x 768
_PER_FORWARD = 32


def caption_of(prompt: Sequence[Message], tokenizer: Any, where: str) -> str:
    """The caption of a prompt: one message of text parts, joined by spaces.

    Raises UserError, starting with `where`, for several messages, for media, for text that is no valid
    Unicode, and for the tokenizer's own start or end token, which would cut the caption there.
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
    for token in (tokenizer.bos_token, tokenizer.eos_token):
        if token in caption:
            raise UserError(f"{where}: caption contains the control token {token}; remove it")
    return caption


def tokenise(tokenizer: Any, caption: str, width: int) -> tuple[Tensor, bool]:
    """Ids [width] long, padded, and whether the caption was too long and lost its end."""
    ids = tokenizer(caption, padding="max_length", max_length=width, truncation=True).input_ids
    whole = tokenizer(caption, verbose=False).input_ids
    return torch.tensor(ids, dtype=torch.long), len(whole) > width


class CaptionStates:
    """Runs a frozen text encoder once per distinct caption; remembers the last ones."""

    def __init__(self, encoder: nn.Module, device: torch.device) -> None:
        self._encoder = encoder
        self._device = device
        self._known: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    @torch.no_grad()
    def of(self, captions: Sequence[Tensor]) -> list[Tensor]:
        """Text states, one CPU float32 tensor [L, width] for each ids tensor [L]."""
        keys = [tuple(ids.tolist()) for ids in captions]
        fresh = [key for key in dict.fromkeys(keys) if key not in self._known]
        found = {key: self._known[key] for key in keys if key in self._known}
        for start in range(0, len(fresh), _PER_FORWARD):
            part = fresh[start : start + _PER_FORWARD]
            states = self._encoder(torch.tensor(part, device=self._device)).last_hidden_state
            found |= zip(part, states.float().cpu(), strict=True)
        for key in dict.fromkeys(keys):
            # cloned, so that one kept caption does not keep its whole batch in memory
            self._known[key] = found[key] = found[key].clone() if key in fresh else found[key]
            self._known.move_to_end(key)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return [found[key] for key in keys]
