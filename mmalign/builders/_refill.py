"""Answers with gaps, and what another picture puts into them: the parts of Re-Align (arXiv 2502.13146) that
ask no model themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mmalign.types import Message, Part

MASK = "[MASK]"
"""What stands for a gap."""


@dataclass(frozen=True)
class Masked:
    """An answer with gaps. `kept`: the texts around the gaps, one more than these; `spans`: what stood in
    them."""

    kept: tuple[str, ...]
    spans: tuple[str, ...]

    @property
    def text(self) -> str:
        """The answer with MASK in every gap."""
        return MASK.join(self.kept)

    def filled(self, fills: Sequence[str]) -> str:
        """The answer with these texts in its first gaps, up to the next gap."""
        pieces = [piece + fill for piece, fill in zip(self.kept, fills, strict=False)]
        return "".join([*pieces, self.kept[len(fills)]])


def ask_mask(question: str, answer: str) -> tuple[Message, ...]:
    """The request to put gaps into an answer, which stands at the end behind "Answer:"."""
    return _request(
        "Below are a question about a picture and an answer to it. Copy the answer word for word, but write "
        f"{MASK} in place of each word or phrase that names an object, an attribute such as a colour, number "
        "or size, or a relation between objects. Change nothing else, and write nothing but the answer.",
        f"Question:\n{question}",
        f"Answer:\n{answer}",
    )


def refill_text(question: str, masked: Masked) -> str:
    """The request to fill the gaps from the picture beside it."""
    return "\n\n".join(
        (
            f"Below are a question about this picture and an answer in which {MASK} stands for missing "
            "words. Copy the answer word for word, with words that fit the picture in every gap. Fill all "
            "gaps, change nothing else, and write nothing but the answer.",
            f"Question:\n{question}",
            f"Answer:\n{masked.text}",
        )
    )


def _request(*paragraphs: str) -> tuple[Message, ...]:
    return (Message("user", (Part("text", "\n\n".join(paragraphs)),)),)


def read_mask(answer: str, text: str) -> Masked | None:
    """What a copy of an answer with gaps left out of it; None where the copy has no gap, changed what is
    around them, or has two with nothing between. A text that stands there twice is taken at its first place.
    """
    kept = tuple(text.strip().split(MASK))
    spans = _between(answer.strip(), kept)
    return None if spans is None or not spans else Masked(kept, spans)


def read_refill(masked: Masked, text: str, keep: bool) -> str | None:
    """An answer whose gaps are filled; None where it is empty or has gaps left, and with `keep` where it
    changed what is around them."""
    found = text.strip()
    if not found or MASK in found or (keep and _between(found, masked.kept) is None):
        return None
    return found


def _between(whole: str, kept: Sequence[str]) -> tuple[str, ...] | None:
    """What stands in a text between others that it holds in this order, the first at its beginning and the
    last at its end; None where it does not, or holds nothing between two of them."""
    if not all(kept[1:-1]) or not whole.startswith(kept[0]):
        return None
    places = [(0, len(kept[0]))]
    for number, piece in enumerate(kept[1:], 1):
        least = places[-1][1] + 1  # no gap is empty
        last = number == len(kept) - 1
        begin = len(whole) - len(piece) if last else whole.find(piece, least)
        if begin < least or (last and not whole.endswith(piece)):
            return None
        places.append((begin, begin + len(piece)))
    if len(kept) == 1 and whole != kept[0]:
        return None
    spans = tuple(whole[end:begin] for (_, end), (begin, _) in pairwise(places))
    return spans if all(span.strip() for span in spans) else None


def begun(masked: Masked, fills: Sequence[str]) -> str:
    """The answer up to its next gap, without the space before it, which a model writes itself."""
    return masked.filled(fills).rstrip()


def next_fill(masked: Masked, gap: int, continuation: str) -> str | None:
    """What goes into a gap of a model's continuation of the text before it: as many words as stood there, or
    fewer where its first line has fewer, without punctuation at their end. None where it has no word."""
    line = continuation.strip().partition("\n")[0]
    words = line.split()[: len(masked.spans[gap].split())]
    found = " ".join(words)
    return found.rstrip(",.;:!?") or None
