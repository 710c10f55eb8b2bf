"""Stable Diffusion XL in the diffusion adapter: two text towers, sizes, dropped captions, equality."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import contract
import numpy as np
import pytest
import torch
from adapters.tiny_sdxl import POOLED, WIDTHS, build_pipeline, save_pipeline
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionXLPipeline
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from tiny_sd import SIDE, example, pair, pairs, picture, prompt
from torch import nn

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters._latent_sampling import Generation
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import PreferenceSample

CPU = torch.device("cpu")
ROLES = ("chosen", "rejected")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    base = tmp_path_factory.mktemp("pipelines")
    return {zeros: save_pipeline(base / str(zeros), zeros=zeros) for zeros in (True, False)}


@pytest.fixture(scope="module")
def folder(folders: dict[bool, Path]) -> Path:
    return folders[True]


def build(folder: Path, **settings: Any) -> Denoiser:
    return Diffusion(str(folder), **settings).build(CPU)


def add_lora(policy: nn.Module) -> None:
    config = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    inject_adapter_in_model(config, policy, adapter_name="policy")
    torch.manual_seed(5)
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape)


@contextmanager
def switched_off(policy: nn.Module) -> Iterator[None]:
    layers = [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    yield
    for layer in layers:
        layer.enable_adapters(True)


# ---------------------------------------------------------------- contract


@pytest.mark.parametrize(
    "check",
    [
        contract.check_shapes,
        contract.check_same_draw_same_scores,
        contract.check_batching_does_not_matter,
        contract.check_gradients_reach_the_policy_only,
    ],
)
def test_contract(folder: Path, check: Any) -> None:
    check(contract.Case(build(folder, num_draws=2), pairs()))


def test_the_gradient_reaches_what_reads_sizes_and_the_pooled_caption(folder: Path) -> None:
    adapter = build(folder)
    _, scores = contract.Case(adapter, pairs(1)).score()
    scores.total().sum().backward()
    gradient = adapter.policy.get_parameter("add_embedding.linear_1.weight").grad
    assert gradient is not None
    pooled, sizes = gradient[:, :POOLED], gradient[:, POOLED:]  # upstream joins them in this order
    assert float(pooled.abs().sum()) > 0 and float(sizes.abs().sum()) > 0


# ---------------------------------------------------------------- rows


def test_rows_carry_the_size_and_crop_of_their_own_picture(folder: Path) -> None:
    adapter = build(folder)
    sample = pair("a", "cat", picture(1, 96, 64), picture(2, 40, 100))
    rows = adapter.prepare(sample, ROLES).rows
    # 96 x 64 becomes 48 x 32, cut 8 from the left; 40 x 100 becomes 32 x 80, cut 24 from the top
    assert rows[0].data["time_ids"].tolist() == [64, 96, 0, 8, SIDE, SIDE]
    assert rows[1].data["time_ids"].tolist() == [100, 40, 24, 0, SIDE, SIDE]
    batch = contract.Case(adapter, (sample,)).batch()
    assert batch.inputs["time_ids"].tolist() == [row.data["time_ids"].tolist() for row in rows]
    assert batch.inputs["states"].shape == (2, 77, sum(WIDTHS))
    assert batch.inputs["pooled"].shape == (2, POOLED)


def test_equal_pixels_of_another_origin_are_another_row(folder: Path) -> None:
    flat = [Image.new("RGB", (size, SIDE), (200, 10, 10)) for size in (SIDE, 2 * SIDE)]
    samples = [PreferenceSample("x", {"chosen": (example("cat", one),)}) for one in flat]
    first, second = (build(folder).prepare(sample, ["chosen"]).rows[0] for sample in samples)
    assert torch.equal(first.data["pixels"], second.data["pixels"])
    assert first.key != second.key


def test_each_tokenizer_fills_up_in_its_own_way(folder: Path) -> None:
    adapter, pipeline = build(folder), build_pipeline()
    (encoded,) = adapter.encode([adapter.prepare(pairs(1)[0], ROLES)])
    parts, rows = [], []
    for encoder, tokenizer in (
        (pipeline.text_encoder, pipeline.tokenizer),
        (pipeline.text_encoder_2, pipeline.tokenizer_2),
    ):
        ids = tokenizer("cat 0", padding="max_length", max_length=77, return_tensors="pt").input_ids
        rows.append(ids[0])
        parts.append(encoder.eval()(ids, output_hidden_states=True).hidden_states[-2][0])
    assert rows[0][-1] != rows[1][-1]
    assert torch.allclose(encoded.rows[0].data["states"], torch.cat(parts, -1), atol=1e-5)


def test_what_rows_depend_on_is_in_the_fingerprint(folders: dict[bool, Path], tmp_path: Path) -> None:
    prints = {build(path).fingerprint() for path in folders.values()}
    for part in ("text_encoder", "text_encoder_2"):
        pipeline = build_pipeline()
        with torch.no_grad():
            next(pipeline.components[part].parameters()).add_(0.01)
        pipeline.save_pretrained(tmp_path / part, safe_serialization=True)
        prints.add(build(tmp_path / part).fingerprint())
    pipeline = build_pipeline()
    pipeline.tokenizer_2.pad_token = "?"
    pipeline.save_pretrained(tmp_path / "pad", safe_serialization=True)
    prints.add(build(tmp_path / "pad").fingerprint())
    assert len(prints) == 5


# ---------------------------------------------------------------- scores


def test_scores_equal_a_plain_training_loop(folder: Path) -> None:
    adapter = build(folder, num_draws=2)
    images = {"chosen": picture(1, 96, 64), "rejected": picture(2, 40, 100)}
    samples = [pair(f"s{i}", f"a cat {i}", images["chosen"], images["rejected"]) for i in range(2)]
    batch = contract.Case(adapter, tuple(samples)).batch()
    draw = adapter.draw(batch, [5, 6])
    scores = adapter.logprobs(adapter.policy, batch, draw, frozenset())
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    for row in range(4):
        s, role = int(batch.row_sample[row]), ROLES[int(batch.row_role[row])]
        values = plain_scores(pipeline, images[role], f"a cat {s}", {k: v[s] for k, v in draw.items()})
        assert scores.values[row].tolist() == pytest.approx(values, abs=1e-5)


@torch.no_grad()
def plain_scores(pipeline: Any, image: Image.Image, caption: str, draw: Any) -> list[float]:
    """Scores of one picture, draw by draw, step by step as a training script for this pipeline goes."""
    scale = SIDE / min(image.size)
    resized = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
    )
    x1, y1 = (resized.width - SIDE) // 2, (resized.height - SIDE) // 2
    cropped = np.array(resized.crop((x1, y1, x1 + SIDE, y1 + SIDE)))
    latents = pipeline.vae.encode(torch.tensor(cropped).permute(2, 0, 1)[None] / 127.5 - 1).latent_dist
    x0 = (latents.mean + latents.std * draw["latent_noise"]) * pipeline.vae.config.scaling_factor
    embeddings = []
    for tokenizer, encoder in (
        (pipeline.tokenizer, pipeline.text_encoder),
        (pipeline.tokenizer_2, pipeline.text_encoder_2),
    ):
        tokens = tokenizer(
            [caption], padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        )
        output = encoder(tokens.input_ids, output_hidden_states=True)
        pooled = output[0]  # of the last encoder: the projected vector
        embeddings.append(output.hidden_states[-2])
    sizes = torch.tensor([[image.height, image.width, y1, x1, SIDE, SIDE]])
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    scores = []
    for t, eps in zip(draw["timestep"], draw["noise"], strict=True):
        answer = pipeline.unet(
            scheduler.add_noise(x0, eps[None], t[None]),
            t,
            torch.cat(embeddings, dim=-1),
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
        ).sample
        scores.append(float(-0.5 * (answer - eps[None]).pow(2).mean()))
    return scores


def test_the_conditions_are_those_of_upstreams_pipeline(folder: Path) -> None:
    batch = contract.Case(build(folder), pairs(2)).batch()
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    with torch.no_grad():
        states, _, pooled, _ = pipeline.encode_prompt(
            ["cat 0", "cat 1"], device=CPU, do_classifier_free_guidance=False
        )
    rows = batch.rows_of("chosen")
    assert torch.allclose(batch.inputs["states"][rows], states, atol=1e-5)
    assert torch.allclose(batch.inputs["pooled"][rows], pooled, atol=1e-5)


def test_size_and_crop_change_the_score(folder: Path) -> None:
    adapter = build(folder)
    batch = contract.Case(adapter, pairs(1)).batch()
    draw = adapter.draw(batch, [1])
    before = adapter.logprobs(adapter.policy, batch, draw, frozenset()).values
    batch.inputs["time_ids"] = batch.inputs["time_ids"] + torch.tensor([0, 0, 9.0, 0, 0, 0])
    assert not bool((adapter.logprobs(adapter.policy, batch, draw, frozenset()).values == before).any())


@pytest.mark.parametrize("zeros", [True, False])
def test_a_dropped_caption_is_what_sampling_takes_for_none(folders: dict[bool, Path], zeros: bool) -> None:
    adapter = build(folders[zeros], caption_dropout=0.5)
    pipeline = StableDiffusionXLPipeline.from_pretrained(folders[zeros], local_files_only=True)
    with torch.no_grad():
        _, states, _, pooled = pipeline.encode_prompt("cat", device=CPU, do_classifier_free_guidance=True)
    assert bool((states == 0).all()) == bool((pooled == 0).all()) == zeros
    batch = contract.Case(adapter, pairs(2)).batch()
    draw = {**adapter.draw(batch, [1, 2]), "drop": torch.tensor([True, False])}
    told: list[dict[str, Any]] = []
    adapter.policy.register_forward_pre_hook(
        lambda module, arguments, named: told.append(named), with_kwargs=True
    )
    adapter.logprobs(adapter.policy, batch, draw, frozenset())
    (named,) = told
    added = named["added_cond_kwargs"]
    for row in range(4):
        dropped = int(batch.row_sample[row]) == 0  # both roles of the sample, or none
        for given, own, none in (
            (named["encoder_hidden_states"], batch.inputs["states"], states),
            (added["text_embeds"], batch.inputs["pooled"], pooled),
        ):
            assert torch.allclose(given[row], none[0] if dropped else own[row], atol=1e-5)
    assert torch.equal(added["time_ids"], batch.inputs["time_ids"])  # sizes are never dropped
    assert adapter.self_check(adapter.policy, batch, draw) < 1e-5


def test_half_precision_keeps_sizes_exact(folder: Path) -> None:
    adapter = build(folder, dtype="bfloat16")
    batch = contract.Case(adapter, (pair("a", "cat", picture(1, 1023, 303), picture(2, 303, 1021)),)).batch()
    told: list[dict[str, Any]] = []
    adapter.policy.register_forward_pre_hook(
        lambda module, arguments, named: told.append(named["added_cond_kwargs"]), with_kwargs=True
    )
    scores = adapter.logprobs(adapter.policy, batch, adapter.draw(batch, [1]), frozenset())
    assert told[0]["text_embeds"].dtype == torch.bfloat16
    assert told[0]["time_ids"][:, :2].tolist() == [[303, 1023], [1021, 303]]
    assert scores.values.dtype == torch.float32 and bool(torch.isfinite(scores.values).all())


def test_lora_off_is_the_base_exactly(folder: Path) -> None:
    adapter = build(folder)
    case = contract.Case(adapter, pairs(2))
    with torch.no_grad():
        _, base = case.score()
        add_lora(adapter.policy)
        _, changed = case.score()
        with switched_off(adapter.policy):
            _, off = case.score()
    assert torch.equal(off.values, base.values)
    assert not bool((changed.values == base.values).any())


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_pictures_equal_those_of_upstreams_pipeline(
    folders: dict[bool, Path], zeros: bool, guidance: float
) -> None:
    ours = build(folders[zeros], generation=Generation(steps=4, guidance=guidance))
    captions, seeds = ["cat", "a dog"], [1, 2]
    pixels = ours.sample_pixels(ours.policy, [prompt(caption) for caption in captions], seeds)
    pipeline = StableDiffusionXLPipeline.from_pretrained(folders[zeros], local_files_only=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    noise = [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    theirs = pipeline(
        captions,
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=torch.stack(noise),
        output_type="np",
    ).images
    assert np.abs(pixels.permute(0, 2, 3, 1).numpy() - theirs).max() < 1e-4
    assert float(pixels.std()) > 0.01


def test_a_picture_does_not_depend_on_its_batch(folder: Path) -> None:
    whole, small = (build(folder, generation=Generation(steps=3, guidance=3.0, batch=b)) for b in (8, 1))
    prompts, seeds = [prompt("cat"), prompt("a dog"), prompt("")], [1, 2, 3]
    together, alone = (a.sample_pixels(a.policy, prompts, seeds) for a in (whole, small))
    assert float((together - alone).abs().max()) < 1e-4
