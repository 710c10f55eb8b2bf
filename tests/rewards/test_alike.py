"""How alike texts are by their words."""

import pytest
import torch

from mmalign.rewards._alike import Likeness, word_cosine


def test_the_cosine_of_words_sees_their_order() -> None:
    assert word_cosine("a red star", "A red, star.") == pytest.approx(1.0)
    # words: 1 of 2 in common; twos: none of 1
    assert word_cosine("red star", "red cross") == pytest.approx(1 / 3)
    assert word_cosine("red star", "star red") == pytest.approx(2 / 3)
    assert word_cosine("red", "") == 0.0 and word_cosine("", "!") == 1.0
    assert Likeness(None, "x", torch.device("cpu")).cosines(["a", "a"], ["a", "b"]) == [1.0, 0.0]
