"""Pairs with a retrieved picture: which one it is, and that nothing else of the pair changes."""

import numpy as np

from mmalign.shapes.retrieved import RetrievedPairs, nearest
from mmalign.shapes.sights import Thing
from mmalign.shapes.sources import CaptionPairs

A, B, C, D = (Thing("circle", colour) for colour in ("red", "blue", "green", "yellow"))


def test_the_nearest_scene_shares_most_things_and_is_not_the_same() -> None:
    scenes = [(A, B), (B, A), (A, C), (C, D), (D, A, C)]
    assert nearest(scenes) == [2, 2, 4, 4, 2]


def test_every_pair_has_its_answer_under_another_picture() -> None:
    plain = list(CaptionPairs(prompts="validation").samples())
    found = list(RetrievedPairs(prompts="validation").samples())
    assert len(plain) == len(found) > 50
    for before, after in zip(plain, found, strict=True):
        (chosen,), (retrieved,) = after.examples["chosen"], after.examples["chosen_retrieved"]
        assert before.id == after.id and retrieved.response == chosen.response
        assert before.examples["rejected"][0].response == after.examples["rejected"][0].response
        (own, question), (other, same) = chosen.prompt[0].parts, retrieved.prompt[0].parts
        assert question == same and own.kind == other.kind == "image"
        assert not np.array_equal(np.asarray(own.data), np.asarray(other.data))
