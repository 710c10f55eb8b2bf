"""DDPO's step on sampled steps against the reward's own gradient, found by upstream's sampler and model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_sd import prompt, save_pipeline
from torch import Tensor

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters._latent_sampling import Generation
from mmalign.adapters.diffusion import Diffusion
from mmalign.objectives.ddpo import DDPO
from mmalign.types import LogProbs, Prepared, Row

CPU = torch.device("cpu")
GUIDANCE = 3.0


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    folder = Path(save_pipeline(tmp_path_factory.mktemp("pipeline")))
    generation = Generation(steps=4, guidance=GUIDANCE, eta=1.0)
    return Diffusion(str(folder), resolution=16, generation=generation).build(CPU)


def gradient(adapter: Denoiser) -> Tensor:
    """The gradient of everything that has one, as one vector; it is let go."""
    found = [p.grad.flatten() for p in adapter.policy.parameters() if p.grad is not None]
    adapter.policy.zero_grad()
    return torch.cat(found).double()


def upstream_mean(adapter: Denoiser, data: dict[str, Tensor], step: int) -> Tensor:
    """Where the sampler of diffusers goes from one step's latents when it draws nothing, with a graph."""
    pipeline = adapter._parts.pipeline
    pipeline.scheduler.set_timesteps(4)
    level, x = data["path_level"][step], data["path"][step : step + 1]

    def states(caption: str) -> Tensor:
        ids = pipeline.tokenizer(caption, padding="max_length", return_tensors="pt").input_ids
        found: Tensor = pipeline.text_encoder(ids)[0].detach()
        return found

    without, under = (adapter.policy(x, level, states(text)).sample for text in ("", "red fox"))
    said = without + GUIDANCE * (under - without)
    still = torch.zeros_like(x)
    moved: Tensor = pipeline.scheduler.step(said, int(level), x, eta=1.0, variance_noise=still).prev_sample
    return moved


def scored(adapter: Denoiser, data: dict[str, Tensor], step: int, after: Tensor) -> LogProbs:
    """Densities of steps to `after` [N, C, H, W] from the latents of one step, a row each."""
    row = {name: value for name, value in data.items() if name != "path"}
    row |= {name: data[name][step : step + 1] for name in ("path_level", "path_below")}
    start = data["path"][step]
    rows = [
        Prepared(f"s{i}", (Row("completion", 0, row | {"path": torch.stack([start, one])}),), encoded=True)
        for i, one in enumerate(after)
    ]
    batch = adapter.collate(rows, ["completion"])
    needs = frozenset({"ratio", "transition"})
    return adapter.logprobs(adapter.policy, batch, adapter.draw(batch, [0] * len(rows)), needs)


@pytest.mark.parametrize("step", [0, 2, 3])
def test_over_all_directions_of_noise_it_is_the_rewards_gradient(adapter: Denoiser, step: int) -> None:
    """With every direction drawn once and once reversed, noise has exactly its mean and covariance. For a
    reward w . x the step is then J^T w / (n sd |w|): with no chance left in it, down to its length."""
    (path,) = adapter.sample_paths(adapter.policy, [prompt("red fox")], [1])
    data = {name: value.clone() for name, value in path.data.items()}
    torch.manual_seed(0)
    mean = upstream_mean(adapter, data, step)
    wish = torch.randn_like(mean)
    (wish * mean).sum().backward()
    wanted = gradient(adapter)

    n = mean.numel()
    signal = adapter._parts.pipeline.scheduler.alphas_cumprod.double()
    now, then = signal[data["path_level"][step]], signal[data["path_below"][step]]
    spread = float(((1 - then) / (1 - now) * (1 - now / then)).sqrt())
    basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0] * n**0.5
    noise = torch.cat([basis, -basis]).float().reshape(-1, *mean.shape[1:])
    after = mean.detach() + spread * noise
    reward = (wish * after).flatten(1).sum(1).double()
    advantage = (reward - reward.mean()) / reward.std(correction=0)

    policy = scored(adapter, data, step, after)
    sides = {"policy": policy, "reference": policy.detached()}
    scores = {source: {"completion": one} for source, one in sides.items()}
    objective = replace(DDPO(), advantage_clip=100.0)
    outcome = objective(scores, {"advantage": advantage}, {}, torch.mean)
    outcome.loss.mean().backward()
    found = -gradient(adapter)
    expected = wanted / (n * spread * float(wish.norm()))
    assert float(torch.nn.functional.cosine_similarity(found, wanted, dim=0)) > 0.9999
    assert float((found - expected).norm() / expected.norm()) < 0.01
