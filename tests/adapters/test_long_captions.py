"""Captions by sentence: how they are split, which states are kept, and that nothing else changes."""

from pathlib import Path
from typing import Any

import contract
import pytest
import torch
from adapters import tiny_families as tiny
from adapters import tiny_sdxl
from tiny_sd import example, pair, picture, prompt, save_pipeline
from torch import Tensor

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters._latent_sampling import Generation
from mmalign.adapters._long_captions import LENGTH, sentences
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import PreferenceSample, UserError

CPU = torch.device("cpu")
ROLES = ("chosen", "rejected")
LONG = "a cat. two dogs! why? " + "b" * 40 + "; the end"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("long"))


def adapter(folder: Path, **settings: Any) -> Denoiser:
    return Diffusion(str(folder), long_captions="segments", **settings).build(CPU)


def test_sentences_end_at_their_punctuation() -> None:
    assert sentences("A cat. It is 3.5 m long! Why? so; it\nis") == [
        "A cat.",
        "It is 3.5 m long!",
        "Why?",
        "so;",
        "it",
        "is",
    ]
    assert sentences("猫。犬！") == ["猫。", "犬！"]
    assert sentences("plain words, no end") == ["plain words, no end"]
    assert sentences("  ") == sentences("") == [""]


@torch.no_grad()
def states(pipeline: Any, text: str) -> Tensor:
    """[77, W] by the tower alone, and the number of its tokens without the end."""
    tokens = pipeline.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
    return pipeline.text_encoder(tokens)[0][0]


def test_worked_states(folder: Path) -> None:
    """Start and words of every sentence, then the mean of the last 60 of the empty caption's 75 pads."""
    made, pipeline = adapter(folder), tiny.load(folder)
    ours = made._captions.conditions(["cat. dog"])[0]["states"]
    first, second = states(pipeline, "cat."), states(pipeline, "dog")
    padding = states(pipeline, "")[17:].mean(0)  # 77 - 60
    expected = torch.cat([first[:3], second[:4], padding.expand(LENGTH - 7, -1)])  # <s> cat . and <s> d o g
    assert ours.shape == (LENGTH, 32) and torch.allclose(ours, expected, atol=1e-6)
    empty = made._captions.empty["states"]
    assert torch.allclose(empty, torch.cat([states(pipeline, "")[:1], padding.expand(239, -1)]), atol=1e-6)


def test_long_captions_are_whole_and_counted(folder: Path) -> None:
    """Two sentences of 60 letters are else cut at 77; a sentence of 90, or 241 states, is cut here too."""
    both = f"{'a' * 60}. {'b' * 60}."
    made, cut = adapter(folder), Diffusion(str(folder)).build(CPU)
    assert (
        cut.check(one(both), ("chosen",)) == ("captions cut to fit",)
        and made.check(one(both), ("chosen",)) == ()
    )
    text, count = made._captions.words(both)
    assert "b</w>" not in text and text.count("b") == 60 and count == 2 * 62
    assert made.check(one("a" * 90), ("chosen",)) == ("captions cut to fit",)
    fits, over = "a." + " bb." * 59, "a." + " bb." * 60
    assert made._captions.words(fits)[1] == 3 + 4 * 59 == 239 and not made._captions.too_long(fits)
    assert made._captions.words(over)[1] == LENGTH and made._captions.too_long(over)
    view = made.describe(made.prepare(one(fits), ("chosen",)).rows[0])
    assert (view.counts, view.limit) == ({"caption": 239}, LENGTH)
    far = made._captions.conditions([f"{both} c", f"{both} d"])
    assert not torch.equal(far[0]["states"], far[1]["states"])
    near = cut._captions.conditions([f"{both} c", f"{both} d"])
    assert torch.equal(near[0]["states"], near[1]["states"])


def one(caption: str) -> PreferenceSample:
    return PreferenceSample("s", {"chosen": (example(caption, picture(1)),)}, origin="row 1")


def test_batching_dropout_and_sampling(folder: Path) -> None:
    made = adapter(folder, caption_dropout=0.5, generation=Generation(steps=2, guidance=3.0))
    samples = tuple(
        pair(f"s{i}", text, picture(i), picture(9 + i)) for i, text in enumerate((LONG, "cat", ""))
    )
    case = contract.Case(made, samples)
    contract.check_batching_does_not_matter(case, tolerance=1e-5)
    batch = case.batch()
    draw = dict(made.draw(batch, [1, 2, 3]))
    with torch.no_grad():
        draw["drop"] = torch.tensor([True, True, True])
        dropped = made.logprobs(made.policy, batch, draw, frozenset()).values
        batch.inputs["states"] = made._captions.empty["states"].expand(6, -1, -1)
        draw["drop"] = ~draw["drop"]
        assert torch.equal(dropped, made.logprobs(made.policy, batch, draw, frozenset()).values)
    pictures = made.sample_pixels(made.policy, [prompt(LONG), prompt("cat"), prompt("")], [1, 2, 3])
    alone = made.sample_pixels(made.policy, [prompt("cat")], [2])
    assert torch.allclose(pictures[1], alone[0], atol=1e-5)
    other = made.sample_pixels(made.policy, [prompt(LONG.replace("the end", "an end"))], [1])
    assert not torch.equal(pictures[0], other[0])


def test_what_is_kept_of_it_is_kept_apart(folder: Path) -> None:
    assert adapter(folder).fingerprint() != Diffusion(str(folder)).build(CPU).fingerprint()


def test_two_towers_stand_side_by_side(tmp_path: Path) -> None:
    folder = tiny_sdxl.save_pipeline(tmp_path / "xl")
    made, plain = adapter(folder), Diffusion(str(folder)).build(CPU)
    ours = made._captions.conditions(["cat. dog"])[0]
    parts = plain._captions.conditions(["cat.", "dog", "cat. dog"])
    assert torch.allclose(ours["states"][:3], parts[0]["states"][:3], atol=1e-5)
    assert torch.allclose(ours["states"][3:7], parts[1]["states"][:4], atol=1e-5)
    assert ours["states"].shape[0] == LENGTH and torch.allclose(ours["pooled"], parts[2]["pooled"], atol=1e-5)
    batch = contract.Case(made, (pair("s", LONG, picture(1), picture(2)),)).batch()
    assert made.self_check(made.policy, batch) < 1e-5


def test_families_without_clip_towers_alone_refuse(tmp_path: Path) -> None:
    folder = tiny.FAMILIES["sd3"](tmp_path / "sd3", 0)
    with pytest.raises(
        UserError, match="model.long_captions: segments is for .* StableDiffusion3Pipeline takes cut"
    ):
        adapter(folder)
