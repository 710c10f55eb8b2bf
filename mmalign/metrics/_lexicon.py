"""Finding named things in a text: the longest phrase first, in singular or plural, each word used once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_ODD = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice",
    "knife": "knives", "foot": "feet", "tooth": "teeth", "goose": "geese", "ox": "oxen", "leaf": "leaves",
    "shelf": "shelves", "loaf": "loaves", "calf": "calves", "wolf": "wolves", "half": "halves",
    "wife": "wives", "thief": "thieves", "bus": "buses", "scarf": "scarves", "policeman": "policemen",
    "policewoman": "policewomen",
    "fireman": "firemen", "businessman": "businessmen", "businesswoman": "businesswomen",
    "cowboy": "cowboys", "sheep": "sheep", "fish": "fish", "aircraft": "aircraft", "deer": "deer",
    "skis": "skis", "scissors": "scissors", "broccoli": "broccoli", "cattle": "cattle",
}  # fmt: skip
"""Plurals that no rule gives."""
_SINGLE = {plural: single for single, plural in _ODD.items()}


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; a hyphen parts two words."""
    return [one.removesuffix("'s") for one in _WORD.findall(text.lower())]


def plural_of(word: str) -> str:
    """The plural of an English noun."""
    if word in _ODD:
        return _ODD[word]
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")


def singular_of(word: str) -> str:
    """The singular of an English noun by the common rules; a word that is none of them stays."""
    if word in _SINGLE:
        return _SINGLE[word]
    if word in _ODD or len(word) < 4 or word.endswith(("ss", "us", "is")) or not word.endswith("s"):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("sses", "xes", "zes", "ches", "shes")) else word[:-1]


@dataclass(frozen=True)
class Lexicon:
    """Phrases in the singular with what they name; None: a phrase that names nothing, so that no shorter one
    within it does, as "home plate"."""

    phrases: Mapping[str, str | None]

    @cached_property
    def _forms(self) -> dict[tuple[str, ...], str | None]:
        found: dict[tuple[str, ...], str | None] = {}
        for phrase, name in self.phrases.items():
            *head, last = phrase.split()
            found[*head, last] = name
            found.setdefault((*head, plural_of(last)), name)
        return found

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._forms), default=0)

    def mentions(self, words: Iterable[str]) -> list[tuple[str, str]]:
        """Every mention in order: the words that were said, and what they name."""
        listed, found, place = list(words), [], 0
        while place < len(listed):
            for length in range(min(self._longest, len(listed) - place), 0, -1):
                said = tuple(listed[place : place + length])
                if said in self._forms:
                    name = self._forms[said]
                    found += [] if name is None else [(" ".join(said), name)]
                    place += length
                    break
            else:
                place += 1
        return found
