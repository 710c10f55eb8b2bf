"""Captions of a text-to-image model: reading them from prompts, tokenising, and their frozen text states.

Letters: T text towers, L text positions, W their joined width, P width of the pooled vector.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmalign.adapters._families import Tower
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
    for token in [token for t in tokenizers for token in (t.bos_token, t.eos_token)]:
        if token in caption:
            raise UserError(f"{where}: caption contains the control token {token}; remove it")
    return caption


class Captions:
    """The text side of a pipeline: every distinct caption runs once through the frozen towers."""

    def __init__(
        self,
        towers: Sequence[Tower],
        tokenizers: Sequence[Any],
        encoders: Sequence[Any],
        device: torch.device,
        zeros: bool,
    ) -> None:
        """The encoders must lie on `device` already; with `zeros` the empty caption's condition is zeros."""
        self._towers, self._tokenizers, self._encoders = towers, tokenizers, encoders
        self._device = device
        self._known: OrderedDict[tuple[int, ...], dict[str, Tensor]] = OrderedDict()
        self.width = min(
            min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
            for tokenizer, encoder in zip(tokenizers, encoders, strict=True)
        )
        encoded = self.conditions([self.ids("")[0]])[0]
        self.empty = {k: torch.zeros_like(v) for k, v in encoded.items()} if zeros else encoded

    def read(self, prompt: Sequence[Message], where: str) -> str:
        """The caption of a prompt. Raises UserError, starting with `where`, if it has none."""
        return caption_of(prompt, self._tokenizers, where)

    def ids(self, caption: str) -> tuple[Tensor, bool]:
        """Ids [T, L] long, padded, and whether the caption was too long for a tower and lost its end."""
        rows, cut = [], False
        for tokenizer in self._tokenizers:
            padded = tokenizer(caption, padding="max_length", max_length=self.width, truncation=True)
            rows.append(padded.input_ids)
            cut = cut or len(tokenizer(caption, verbose=False).input_ids) > self.width
        return torch.tensor(rows, dtype=torch.long), cut

    def words(self, ids: Tensor) -> tuple[str, int]:
        """The text of a caption's ids [T, L] as the first tower reads it, its start and end token included
        and padding left out; and how many tokens that is, of the tower that spends most."""
        counts = []
        for row, tokenizer in zip(ids.tolist(), self._tokenizers, strict=True):
            ends = [place for place, one in enumerate(row) if place and one == tokenizer.eos_token_id]
            counts.append(ends[0] + 1 if ends else len(row))
        return str(self._tokenizers[0].decode(ids[0, : counts[0]].tolist())), max(counts)

    @torch.no_grad()
    def conditions(self, captions: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """For each ids tensor [T, L] its `states` [L, W] and, where a tower gives one, `pooled` [P]; float32
        on the CPU."""
        keys = [tuple(ids.flatten().tolist()) for ids in captions]
        fresh = [key for key in dict.fromkeys(keys) if key not in self._known]
        found = {key: self._known[key] for key in keys if key in self._known}
        for start in range(0, len(fresh), _PER_FORWARD):
            part = fresh[start : start + _PER_FORWARD]
            ids = torch.tensor(part, device=self._device).reshape(len(part), len(self._towers), -1)
            batched = self._encode(ids)
            for i, key in enumerate(part):
                # cloned, so that one kept caption does not keep its whole batch in memory
                found[key] = {name: values[i].clone() for name, values in batched.items()}
        for key in dict.fromkeys(keys):
            self._known[key] = found[key]
            self._known.move_to_end(key)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return [found[key] for key in keys]

    def _encode(self, ids: Tensor) -> dict[str, Tensor]:
        """Conditions of captions [B, T, L], batched."""
        states, batched = [], {}
        for i, (tower, encoder) in enumerate(zip(self._towers, self._encoders, strict=True)):
            output = encoder(ids[:, i], output_hidden_states=tower.layer is not None)
            layer = output.last_hidden_state if tower.layer is None else output.hidden_states[tower.layer]
            states.append(layer.float().cpu())
            if tower.pooled:
                batched["pooled"] = output.text_embeds.float().cpu()
        return {"states": torch.cat(states, -1), **batched}
