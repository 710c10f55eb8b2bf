"""Hunyuan-DiT in the diffusion adapter: BERT and T5, sizes in another order, and tables of places."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_contract import every_check, rebuilt
from adapters.family_subject import Subject, drawn, error
from adapters.tiny_sd import pair, picture
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from torch import Tensor

# Rows and columns of patches -> corners of their places: 6 columns fill 32, 4 rows then 21 in the middle.
SPREAD = {(4, 4): ((0, 0), (32, 32)), (4, 6): ((6, 0), (27, 32))}


@torch.no_grad()
def predict(pipeline: Any, noised: Tensor, time: Tensor, caption: str, told: Tensor | None) -> Tensor:
    """Both encoders masked; the places of the patches spread over the 32 x 32 that they are counted on."""
    found = []
    for name, length in (("", 77), ("_2", 256)):
        tokenizer, tower = pipeline.components[f"tokenizer{name}"], pipeline.components[f"text_encoder{name}"]
        tokens = tokenizer(caption, padding="max_length", max_length=length, return_tensors="pt")
        states = tower(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        found += [states, tokens.attention_mask]
    grid = (noised.shape[-2] // 2, noised.shape[-1] // 2)
    answer = pipeline.transformer(
        noised,
        time.reshape(1).float(),
        *found,
        image_meta_size=torch.tensor([[64.0, 64.0, 64.0, 64.0, 0.0, 0.0]]),
        style=torch.tensor([0]),
        image_rotary_emb=get_2d_rotary_pos_embed(16, SPREAD[grid], grid, output_type="pt"),
    ).sample
    return answer[:, : noised.shape[1]]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(
        "hunyuan_dit",
        tiny.FAMILIES["hunyuan_dit"](tmp_path_factory.mktemp("hunyuan") / "hunyuan", 0),
        predict,
        call=lambda guidance: {"guidance_scale": guidance, "original_size": (64, 64)},
        faults=(
            (rebuilt("transformer", patch_size=4), "transformer: patch_size must be 2"),
            (rebuilt("transformer", in_channels=8), "transformer: in_channels must be 4, .* got 8"),
            (
                rebuilt("transformer", cross_attention_dim=64),
                "transformer: cross_attention_dim must be 32, the width of text_encoder, got 64",
            ),
            (
                rebuilt("transformer", cross_attention_dim_t5=64),
                "transformer: cross_attention_dim_t5 must be 32, the width of text_encoder_2, got 64",
            ),
            (rebuilt("transformer", text_len=64), "transformer: text_len must be 77"),
            (rebuilt("transformer", text_len_t5=128), "transformer: text_len_t5 must be 256"),
            (rebuilt("transformer", learn_sigma=False), "transformer: learn_sigma must be True"),
            (_of_factor_two, "vae: must have 8 pixels per latent for a HunyuanDiTPipeline, got 2"),
        ),
    )


def _of_factor_two(folder: Path) -> None:
    other = tiny.FAMILIES["pixart_sigma"](folder / "other", 0)
    tiny.load(other).vae.save_pretrained(folder / "vae")


@every_check
def test_contract(subject: Subject, check: Any, tmp_path: Path) -> None:
    check(subject, tmp_path)


def test_sizes_are_told_in_its_own_order(subject: Subject) -> None:
    """A picture 96 wide and 128 high at side 64: resized to 64 x 85, cut 10 from the top. Size before, size
    after, place of the crop."""
    adapter = subject.adapter()
    tall, wide = picture(1, 96, 128), picture(2, 128, 96)
    rows = adapter.prepare(pair("s", "cat", tall, wide), ("chosen", "rejected")).rows
    assert rows[0].data["time_ids"].tolist() == [128, 96, 64, 64, 10, 0]
    assert rows[1].data["time_ids"].tolist() == [96, 128, 64, 64, 0, 10]


@torch.no_grad()
def test_filled_up_places_do_not_matter(subject: Subject) -> None:
    """The network puts what it has learned there: states where the mask is 0 leave BERT's part as it is."""
    adapter = subject.adapter()
    batch = subject.case(adapter).batch()
    draw = drawn(adapter, batch, drop=torch.tensor([False, False]))
    base = error(adapter, batch, draw)
    states = batch.inputs["states"]
    batch.inputs["states"] = torch.where(batch.inputs["mask"][..., None].bool(), states, states + 1)
    assert torch.equal(error(adapter, batch, draw), base)


@torch.no_grad()
def test_later_versions_ignore_sizes(subject: Subject, tmp_path: Path) -> None:
    """From 1.2 on the network has neither sizes nor a style."""
    folder = tiny.FAMILIES["hunyuan_dit"](tmp_path / "later", 0)
    rebuilt("transformer", use_style_cond_and_image_meta_size=False)(folder)
    adapter = subject.adapter(folder)
    batch = subject.case(adapter).batch()
    draw = drawn(adapter, batch)
    base = error(adapter, batch, draw)
    batch.inputs["time_ids"] = batch.inputs["time_ids"] + 100
    assert torch.equal(error(adapter, batch, draw), base) and bool(torch.isfinite(base).all())


@torch.no_grad()
def test_half_precision_rounds_the_level_told_but_no_size(subject: Subject) -> None:
    """999 needs ten bits, bfloat16 has eight; a float32 denoiser is told it as it is. So does 769."""
    for dtype, told in (("float32", 999.0), ("bfloat16", 1000.0)):
        adapter = subject.adapter(dtype=dtype)
        batch = subject.case(adapter).batch()
        draw = drawn(adapter, batch, timestep=torch.full((2, 1), 999))
        batch.inputs["time_ids"] = torch.full_like(batch.inputs["time_ids"], 769)
        with tiny.recorded(adapter.policy) as calls:
            error(adapter, batch, draw)
        assert set(calls[0].inputs["timestep"].tolist()) == {told}
        assert set(calls[0].inputs["image_meta_size"].flatten().tolist()) == {769.0}
