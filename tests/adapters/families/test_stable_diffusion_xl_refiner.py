"""The refiner of Stable Diffusion XL in the diffusion adapter: one tower, five numbers, few levels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_contract import every_check, rebuilt, same_feed
from adapters.family_subject import Subject, drawn
from torch import Tensor


@torch.no_grad()
def predict(pipeline: Any, noised: Tensor, time: Tensor, caption: str, told: Tensor | None) -> Tensor:
    """The second tower's layer before the last and its pooled caption; sizes, crop and score."""
    ids = pipeline.tokenizer_2(caption, padding="max_length", max_length=77, return_tensors="pt").input_ids
    output = pipeline.text_encoder_2(ids, output_hidden_states=True)
    added = {"text_embeds": output.text_embeds, "time_ids": torch.tensor([[16.0, 16.0, 0.0, 0.0, 6.0]])}
    return pipeline.unet(noised, time, output.hidden_states[-2], added_cond_kwargs=added).sample


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(
        "sdxl_refiner",
        tiny.FAMILIES["sdxl_refiner"](tmp_path_factory.mktemp("refiner") / "refiner", 0),
        predict,
        samples=False,
        faults=(
            (
                rebuilt("unet", projection_class_embeddings_input_dim=6 * 8 + 32),
                "projection_class_embeddings_input_dim must be 72, five sizes and the pooled caption, got 80",
            ),
            (
                rebuilt("unet", cross_attention_dim=64),
                "cross_attention_dim 64 must equal the text encoder's hidden_size 32",
            ),
        ),
    )


@every_check
def test_contract(subject: Subject, check: Any, tmp_path: Path) -> None:
    check(subject, tmp_path)


@torch.no_grad()
def test_the_denoiser_is_told_what_upstreams_call_tells_it(subject: Subject) -> None:
    """The call refines a picture without guidance; the adapter is given the latents that it starts from."""
    pipeline, adapter = subject.pipeline(), subject.adapter()
    with tiny.recorded(pipeline.unet) as theirs:
        tiny.sample(pipeline, "sdxl_refiner", "a red cat", guidance_scale=1.0)
    batch = subject.case(adapter).batch()
    with tiny.recorded(adapter.policy) as ours:
        adapter.logprobs(adapter.policy, batch, drawn(adapter, batch), frozenset())
    first, mine = theirs[0].inputs, dict(ours[0].inputs)
    given = {"sample": first["sample"], "timestep": first["timestep"]}
    told = {"text_embeds": mine["added_cond_kwargs"]["text_embeds"][:1]}
    told["time_ids"] = mine["added_cond_kwargs"]["time_ids"][:1]
    states = mine["encoder_hidden_states"][:1]
    same_feed({**mine, **given, "encoder_hidden_states": states, "added_cond_kwargs": told}, first)
    assert told["time_ids"].tolist() == [[16, 16, 0, 0, 6]]


def test_only_the_least_noised_fifth_is_drawn(subject: Subject) -> None:
    adapter = subject.adapter(num_draws=500)
    levels = drawn(adapter, subject.case(adapter).batch())["timestep"]
    assert int(levels.min()) < 10 and 190 <= int(levels.max()) < 200


def test_the_empty_caption_is_encoded(subject: Subject) -> None:
    """Unlike the base model's, which is zeros."""
    assert bool(subject.adapter()._captions.empty["states"].any())
