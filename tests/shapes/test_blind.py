"""Pairs with an answer that stops looking half-way: how it ends, and that the pair stays as it is."""

import random

from mmalign.shapes.blind import BlindPairs, otherwise
from mmalign.shapes.judges import CaptionJudge
from mmalign.shapes.sights import Thing
from mmalign.shapes.sources import CaptionPairs

A, B = Thing("circle", "red"), Thing("star", "blue")


def test_the_end_is_a_thing_that_is_not_there() -> None:
    said = otherwise("Describe the picture.", "a red circle and a blue star", (A, B), random.Random(0))
    assert said.startswith("a red circle and ") and "blue star" not in said and said.count("red circle") == 1
    alone = otherwise("Describe the picture.", "a red circle", (A,), random.Random(0))
    assert " and " not in alone and "red circle" not in alone
    assert otherwise("Is there a red circle?", "yes", (A,), random.Random(0)) == "no"
    assert otherwise("Is there a blue circle?", "no", (A,), random.Random(0)) == "yes"


def test_every_blind_answer_is_worse_than_the_chosen_one() -> None:
    judge = CaptionJudge()
    plain = list(CaptionPairs(prompts="validation").samples())
    found = list(BlindPairs(prompts="validation").samples())
    assert len(plain) == len(found) > 50
    for before, after in zip(plain, found, strict=True):
        (chosen,), (blind,) = after.examples["chosen"], after.examples["bdhs"]
        assert before.id == after.id and chosen.prompt == blind.prompt
        assert before.examples["rejected"][0].response == after.examples["rejected"][0].response
        better, worse = (judge.score(one.prompt, one.response[0])["score"] for one in (chosen, blind))
        assert better > worse
    again = list(BlindPairs(prompts="validation").samples())
    assert [one.examples["bdhs"][0].response for one in again] == [
        one.examples["bdhs"][0].response for one in found
    ]
