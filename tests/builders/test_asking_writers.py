"""What is read of answers to builders' questions, and what is no answer."""

import pytest
import torch

from mmalign.builders import _asking
from mmalign.builders._candidates import Asked
from mmalign.types import Clip, Message, Part

CLIP = Clip(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), (0, 1), (0.0, 0.5), 2.0, 2, "memory")
OTHER = Clip(torch.ones(1, 3, 2, 2, dtype=torch.uint8), (0,), (0.0,), 2.0, 1, "memory")


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("  What falls off the table? \n", "What falls off the table?"),
        ("What falls?\nWhat stays?", None),
        ("What falls? And why?", None),
        ("Sure! Here it is", None),
        ("?", None),
        (None, None),
    ],
)
def test_one_question(text: str | None, question: str | None) -> None:
    assert _asking.read_question(text) == question


def test_a_list_of_questions_counts_what_is_none() -> None:
    text = (
        "Here they are:\n1. Who comes first?\n2) Where is the cup?\n3. Who comes first?\n4. A cup.\n\n5. Why?"
    )
    assert _asking.read_questions(text, 2) == (["Who comes first?", "Where is the cup?"], 4)
    assert _asking.read_questions(text, 9) == (["Who comes first?", "Where is the cup?", "Why?"], 3)
    assert _asking.read_questions(None, 3) == ([], 0)


def test_one_word_of_some() -> None:
    words = ("A", "B", "both", "neither")
    assert [_asking.read_word(text, words) for text in ("b.", " **Both** ", "A or B", "", None)] == [
        "B", "both", None, None, None,
    ]  # fmt: skip


def test_texts_that_say_the_same() -> None:
    assert _asking.bare("It stays  still.") == _asking.bare("it stays, still")
    assert _asking.bare("left") != _asking.bare("left up")


def test_a_row_of_one_clip_shows_another() -> None:
    parts = (Part("text", "Look:"), Part("video", CLIP), Part("text", "Who comes first?"))
    turns = (Message("system", (Part("text", "Be short."),)), Message("user", parts))
    assert _asking.only_clip(Asked("a", turns)) is CLIP
    assert _asking.only_clip(Asked("b", (*turns, *turns))) is None
    assert _asking.only_clip(Asked("c", turns[:1])) is None
    changed = _asking.with_clip(turns, OTHER)
    assert changed[1].parts[1].data is OTHER and changed[0] == turns[0] and changed[1].parts[2] == parts[2]
    assert _asking.words_of(changed) == "Look:Who comes first?"
    assert _asking.about("Why?", [parts[1]])[0].parts == (parts[1], Part("text", "Why?"))
