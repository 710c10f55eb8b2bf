"""How alike two texts are: by a sentence encoder, or without one by the words they share."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import torch

from mmalign.rewards._sentences import SentenceEncoder, load_sentences

_WORD = re.compile(r"\w+")


def word_cosine(first: str, second: str) -> float:
    """The cosine of how often two texts have each word and each two neighbouring words, in [0, 1]."""
    ours, theirs = _counts(first), _counts(second)
    size = math.sqrt(_squared(ours) * _squared(theirs))
    if not size:
        return float(ours == theirs)
    return sum(count * theirs[word] for word, count in ours.items()) / size


def _counts(text: str) -> Counter[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return Counter([(word,) for word in words]) + Counter(pairwise(words))


def _squared(counts: Counter[tuple[str, ...]]) -> int:
    return sum(count * count for count in counts.values())


class Likeness:
    """Cosines of texts, by an encoder or by their words."""

    def __init__(self, encoder: str | None, where: str, device: torch.device) -> None:
        """`encoder`: a folder or hub id of a sentence encoder; None: words. Raises UserError, starting with
        `where`, for an encoder that cannot be had."""
        self._encoder: SentenceEncoder | None = None
        if encoder is not None:
            self._encoder = load_sentences(encoder, where, device)

    def cosines(self, first: Sequence[str], second: Sequence[str]) -> list[float]:
        """The cosine of each text with the one at its place."""
        if self._encoder is None:
            return [word_cosine(*two) for two in zip(first, second, strict=True)]
        with torch.autocast(self._encoder.device.type, enabled=False):  # a policy's, not the encoder's
            ours, theirs = self._encoder.texts(first), self._encoder.texts(second)
        return [float(one) for one in (ours * theirs).sum(-1)]
