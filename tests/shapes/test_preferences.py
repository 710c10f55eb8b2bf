"""Preference pairs of pictures: reproducible, minimal, right by the judge, free of held-out combinations."""

import pytest

from mmalign.shapes.judge_image import judge
from mmalign.shapes.preferences import (
    ImagePair,
    faithful_pairs,
    heldout_prompts,
    style_pairs,
    validation_prompts,
)
from mmalign.shapes.scenes import BASE, FULL, World, parse_caption


def flat(pairs: list[ImagePair]) -> list[tuple[str, str, bytes, bytes]]:
    return [(pair.id, pair.prompt, pair.chosen.tobytes(), pair.rejected.tobytes()) for pair in pairs]


@pytest.mark.parametrize("make", [style_pairs, faithful_pairs])
def test_pairs_depend_on_the_seed_alone(make) -> None:  # type: ignore[no-untyped-def]
    first, again, other = (flat(list(make(20, seed))) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert flat(list(make(5, 0))) == first[:5]
    assert len({row[0] for row in first}) == 20
    assert all(chosen != rejected for _, _, chosen, rejected in first)


@pytest.mark.parametrize("make", [style_pairs, faithful_pairs])
def test_no_pair_holds_a_heldout_combination(make) -> None:  # type: ignore[no-untyped-def]
    assert not any(parse_caption(pair.prompt).held_out for pair in make(200, 0))


def test_style_pairs_differ_in_style_alone() -> None:
    for pair in style_pairs(60, 0):
        chosen, rejected = judge(pair.chosen, pair.prompt), judge(pair.rejected, pair.prompt)
        assert chosen.strict and rejected.strict
        assert chosen.solidity > rejected.solidity


@pytest.mark.parametrize("world", [BASE, FULL])
def test_faithful_pairs_differ_in_one_fact(world: World) -> None:
    for pair in faithful_pairs(50, 0, world):
        caption = parse_caption(pair.prompt)
        assert judge(pair.chosen, pair.prompt).strict
        faithfulness = judge(pair.rejected, pair.prompt).faithfulness
        if caption.relation is not None:  # number, two kinds, two colours, relation
            assert faithfulness == pytest.approx(5 / 6), pair.id
        elif len(caption.things) == 1:  # number, kind, colour, size
            assert faithfulness == pytest.approx(3 / 4), pair.id
        else:  # all kinds or all colours, or the number and what is said of the missing shape
            num = len(caption.things)
            facts = 1 + 2 * num
            assert any(faithfulness == pytest.approx(1 - lost / facts) for lost in (num, 3)), pair.id


def test_prompt_splits_are_heldout_disjoint_and_reproducible() -> None:
    held, validation = heldout_prompts(400, 0), validation_prompts(400, 0)
    assert len(held) == len(validation) == 400
    assert held == heldout_prompts(400, 0) and held != heldout_prompts(400, 1)
    assert not set(held) & set(validation)
    for prompts in (held, validation):
        captions = [parse_caption(prompt) for prompt in prompts]
        assert all(caption.held_out for caption in captions)
        assert {len(caption.things) for caption in captions} == {1, 2, 3}
        singles = {caption.text for caption in captions if len(caption.things) == 1}
        assert len(singles) == 4  # each held-out combination, in one of its two sizes
