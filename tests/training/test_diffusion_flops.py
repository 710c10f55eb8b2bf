"""A diffusion step executes what its denoiser needs and next to nothing more, by count of operations."""

from typing import Any

import pytest
import torch
from adapters.tiny_sd import SIDE
from diffusers import AutoencoderKL
from peft import LoraConfig
from tiny_runs import Bench
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmalign.adapters._denoiser import Denoiser
from mmalign.config import RunConfig
from mmalign.training.console import Console
from mmalign.training.rows import load_data
from mmalign.training.setup import build_engine, build_policy, micro_batches, start
from mmalign.training.step import compute_gradients

PAIRS = 4
LIMIT = 1.05
LORA = {"rank": 2}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(tmp_path_factory.mktemp("bench"))
    made.model["image"]["resolution"] = SIDE  # of smaller ones what the captions need would be much of a step
    return made


def executed(config: RunConfig) -> int:
    """Operations of the gradients of a step of `PAIRS` pairs, all rows encoded before it as after the first
    epoch of a run."""
    accelerator, world = start()
    console = Console(world, progress=False, quiet=True)
    data = load_data(config, world, console)
    adapter = build_policy(config, world.device)
    data.admit(adapter, config, console)
    engine, encoder, _ = build_engine(config, accelerator, world, adapter, data, console)
    items = next(iter(data.loader(adapter, config).steps(0, 1)))
    micro_batches(engine, encoder, items, config.train)  # the frozen encoders run here and never again
    with FlopCounterMode(display=False) as counter:
        micros = micro_batches(engine, encoder, items, config.train)
        compute_gradients(engine, micros, engine.objective.initial_state(), 0)
    return int(counter.get_total_flops())


def floor(config: RunConfig, forwards: int) -> int:
    """The bare denoiser once forward and backward over both pictures of every pair, and `forwards` times more
    forward only."""
    adapter = config.model.build(torch.device("cpu"), torch.float32)
    assert isinstance(adapter, Denoiser)
    unet: Any = adapter.policy.eval()
    width = unet.config.cross_attention_dim
    side = adapter.resolution // 2  # of the latents of the tiny autoencoder
    inputs: tuple[Tensor, ...] = (
        torch.randn(2 * PAIRS, 4, side, side),
        torch.full((2 * PAIRS,), 500),
        torch.randn(2 * PAIRS, 77, width),
    )
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            for _ in range(forwards):
                unet(*inputs)
        if config.lora is not None:
            unet.requires_grad_(False)
            targets = ["to_q", "to_k", "to_v", "to_out.0"]
            unet.add_adapter(LoraConfig(r=config.lora.rank, lora_alpha=2, target_modules=targets))
        unet(*inputs).sample.sum().backward()
    return int(counter.get_total_flops())


CASES: dict[str, tuple[dict[str, Any], int]] = {
    "dpo with lora": ({"lora": LORA, "reference": {"name": "lora_off"}}, 1),
    "dpo with lora and a kept reference": (
        {"lora": LORA, "reference": {"name": "cached"}, "train": {"draws": "fixed:1"}},
        0,
    ),
    "dpo of all weights": ({"reference": {"name": "copy"}}, 1),
    "mapo with lora": ({"lora": LORA, "objective": {"name": "mapo"}}, 0),
    "mapo of all weights": ({"objective": {"name": "mapo"}}, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_executes_no_more_than_its_floor(bench: Bench, name: str) -> None:
    sections, forwards = CASES[name]
    config = bench.config("image", name, **sections)
    needed = floor(config, forwards)
    found = executed(config)
    assert needed > 0
    assert 0.99 * needed <= found <= LIMIT * needed, f"{found / needed:.3f} times the floor"


def test_encoding_in_every_step_would_be_seen(bench: Bench) -> None:
    """The limit is narrower than what the autoencoder costs."""
    config = bench.config("image", "seen", lora=LORA, objective={"name": "mapo"})
    vae = AutoencoderKL.from_pretrained(config.model.path, subfolder="vae")
    pictures = torch.zeros(2 * PAIRS, 3, SIDE, SIDE)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vae.encode(pictures)
    assert counter.get_total_flops() > (LIMIT - 1) * floor(config, 0)
