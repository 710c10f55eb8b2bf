"""Answers cut into sentences, and sentences cut at a word, for answers whose tails are written anew."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

_END = re.compile(r"(?<=[.!?])(?=\s)|\n")
_FIRST_END = re.compile(r"[.!?](?=\s|$)|\n")
_VERDICT = re.compile(r"(yes|no)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Cut:
    """A sentence to write anew. `space` stands before it in the answer, `before` is all of the answer up to
    there, and `head` what is kept of it; a sentence that is `whole` needs no tail."""

    before: str
    space: str
    head: str
    whole: bool = False

    @property
    def begun(self) -> str:
        """What a model goes on from, without a space at its end, which it writes itself."""
        return f"{self.before}{self.space}{self.head}".rstrip()

    def ended(self, tail: str) -> str:
        """The sentence with a model's continuation, up to the first end of a sentence in it. A line break
        that a continuation begins with is a space: it ends nothing that was begun."""
        if self.whole:
            return self.head
        if "\n" in tail[: len(tail) - len(tail.lstrip())]:
            tail = f" {tail.lstrip()}"
        end = _FIRST_END.search(tail)
        kept = tail[: end.end()] if end else tail
        return f"{self.head}{kept.rstrip()}" if self.head else kept.strip()


def sentences(text: str) -> list[tuple[str, str]]:
    """Every sentence of a text with the space before it; a line ends one, too."""
    found = []
    begin = 0
    for end in [match.end() for match in _END.finditer(text)] + [len(text)]:
        piece = text[begin:end]
        if bare := piece.strip():
            found.append((piece[: piece.index(bare)], bare))
            begin = end - (len(piece) - len(piece.rstrip()))
    return found


def cuts(text: str, flip: float, rng: random.Random) -> list[Cut]:
    """Every sentence of an answer cut before one of its words, each as likely. A yes or no that the answer
    begins with is turned round with chance `flip` instead; all of a sentence that is no more than that."""
    found: list[Cut] = []
    before = ""
    for number, (space, sentence) in enumerate(sentences(text)):
        verdict = _VERDICT.match(sentence) if number == 0 else None
        words = re.findall(r"\S+\s*", sentence)
        place = rng.randrange(len(words))
        if verdict is not None and rng.random() < flip:
            turned = _turned(verdict[1])
            alone = len(words) == 1
            found.append(Cut(before, space, turned + (sentence[verdict.end() :] if alone else ""), alone))
        else:
            found.append(Cut(before, space, "".join(words[:place]).rstrip()))
        before += space + sentence
    return found


def _turned(word: str) -> str:
    other = "no" if word.lower() == "yes" else "yes"
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other


def joined(cut: Sequence[Cut], tails: Sequence[str]) -> str:
    """The answer of these sentences with their tails; a sentence that came out empty is left out."""
    ended = [(one.space, one.ended(tail)) for one, tail in zip(cut, tails, strict=True)]
    return "".join(space + text for space, text in ended if text).strip()
