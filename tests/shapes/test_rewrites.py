"""Captions said again: what careful and careless rewrites share with the caption."""

import pytest

from mmalign.data._sources import load
from mmalign.shapes.rewrites import Rewrites, turned
from mmalign.shapes.scenes import Caption, parse_caption
from mmalign.types import PreferenceSample


def both(sample: PreferenceSample, role: str = "chosen") -> tuple[Caption, Caption]:
    """The caption that is asked about, and the rewrite."""
    (example,) = sample.examples[role]
    text = str(example.prompt[0].parts[0].data)
    assert text.startswith("Reword: ")
    return parse_caption(text.removeprefix("Reword: ")), parse_caption(str(example.response[0].data))


def test_two_shapes_change_their_order() -> None:
    said = turned(parse_caption("a red circle left of a blue square"))
    assert said.text == "a blue square right of a red circle"
    assert turned(said).text == "a red circle left of a blue square"
    assert turned(parse_caption("two green stars")).text == "two green stars"


def test_the_share_of_careless_rewrites() -> None:
    samples = load(Rewrites(num=200, careless=0.25)).samples
    wrong = [asked for asked, said in map(both, samples) if said != turned(asked)]
    assert 0.15 < len(wrong) / 200 < 0.35
    assert not any(asked.held_out for asked, _ in map(both, samples))
    assert all(said == turned(asked) for asked, said in map(both, Rewrites(num=50, careless=0.0).samples()))
    assert all(set(sample.examples) == {"chosen"} for sample in samples)


def test_held_out_captions_have_a_rewrite_of_either_kind() -> None:
    samples = load(Rewrites(num=128, prompts="heldout")).samples
    assert len(samples) == 128
    for sample in samples:
        (asked, good), (_, bad) = both(sample), both(sample, "rejected")
        assert asked.held_out and good == turned(asked) != bad


def test_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="careless: must lie in"):
        Rewrites(careless=1.5)
    with pytest.raises(ValueError, match="num: must be at least 1"):
        Rewrites(num=0)
