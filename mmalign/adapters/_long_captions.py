"""Captions longer than a CLIP tower takes, sentence by sentence, as in LongAlign (arXiv 2410.11817).

A caption is split after the punctuation that ends a sentence. Every sentence runs through the towers alone;
of its states those of the start and of the words are kept, the end and the padding dropped. Side by side they
are at most 240, and what is missing is filled up with the mean state of the empty caption's padding.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from mmalign.adapters._captions import Captions
from mmalign.adapters._families import Condition, Family
from mmalign.types import UserError

LENGTH = 240  # states of a caption
_PADDING = 60  # of the empty caption, its last ones, whose mean fills up
_TOGETHER = 32  # sentences in one forward
_ENDS = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])|\n+")


def sentences(caption: str) -> list[str]:
    """A caption's sentences with their punctuation, without white space around them; [""] of an empty one."""
    found = [part.strip() for part in _ENDS.split(caption)]
    return [part for part in found if part] or [""]


class LongCaptions(Captions):
    """Captions whose `states` [240, W] are those of their sentences; every other tensor of a condition, as
    the pooled caption of XL, is the whole caption's, cut where the tower ends."""

    def __init__(self, family: Family, pipeline: Any, zeros: bool) -> None:
        """As `Captions`. Raises UserError for a family without CLIP towers, or with towers that split words
        into different tokens."""
        if not family.sentences:
            name = family.pipeline.__name__
            raise UserError(
                f"model.long_captions: segments is for the CLIP towers of Stable Diffusion and XL; a {name} "
                "takes cut"
            )
        vocabularies = [pipeline.components[name].get_vocab() for name in family.tokenizers]
        if any(one != vocabularies[0] for one in vocabularies):
            raise UserError("model.long_captions: the pipeline's tokenizers differ in their words; use cut")
        self._filler: Tensor | None = None
        super().__init__(family, pipeline, zeros)
        self.width = LENGTH

    def too_long(self, caption: str) -> bool:
        """True if a sentence is longer than a tower takes, or all of them together than 240."""
        lengths = [
            (len(tokenizer(one, verbose=False).input_ids), n) for one, tokenizer, n in self._each(caption)
        ]
        return any(length > n for length, n in lengths) or self._kept(caption) > LENGTH

    def words(self, caption: str) -> tuple[str, int]:
        """A caption as the first encoder reads it, each sentence with its start and end token; and how many
        states that is."""
        tokenizer, n = self._tokenizers[0]
        read = [tokenizer(one, truncation=True, max_length=n).input_ids for one in sentences(caption)]
        return " ".join(str(tokenizer.decode(ids)) for ids in read), min(self._kept(caption), LENGTH)

    def _each(self, caption: str) -> list[tuple[str, Any, int]]:
        return [(one, tokenizer, n) for one in sentences(caption) for tokenizer, n in self._tokenizers]

    def _count(self, sentence: str) -> int:
        """States of a sentence that are kept: all but the end's."""
        tokenizer, n = self._tokenizers[0]
        return len(tokenizer(sentence, truncation=True, max_length=n).input_ids) - 1

    def _kept(self, caption: str) -> int:
        return sum(self._count(one) for one in sentences(caption))

    @torch.no_grad()
    def _encode(self, captions: list[str], negative: bool) -> Condition:
        whole = dict(super()._encode(captions, negative))
        if self._filler is None:
            padding = super()._encode([""], True)["states"][0, 2:]  # after the start and the end
            self._filler = padding[-_PADDING:].mean(0)
        split = [sentences(caption) for caption in captions]
        distinct = list(dict.fromkeys(one for parts in split for one in parts))
        states: dict[str, Tensor] = {}
        for start in range(0, len(distinct), _TOGETHER):
            part = distinct[start : start + _TOGETHER]
            encoded = super()._encode(part, negative)["states"]
            states |= {one: encoded[i, : self._count(one)] for i, one in enumerate(part)}
        rows = []
        for parts in split:
            kept = torch.cat([states[one] for one in parts])[:LENGTH]
            rows.append(torch.cat([kept, self._filler.expand(LENGTH - len(kept), -1)]))
        return {**whole, "states": torch.stack(rows)}
