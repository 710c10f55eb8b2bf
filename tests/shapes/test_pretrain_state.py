"""A resumed pretraining ends with the weights of an unbroken one; rates and averages by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mmalign.shapes.pretrain_state import Average, learning_rate, load_state, save_state
from mmalign.shapes.pretrain_vae import train_vae
from mmalign.shapes.tiny_sd import build_vae


def train(folder: Path, steps: int) -> tuple[nn.Module, Average, int]:
    """A few AdamW steps on a line whose inputs depend on the step; resumes from `folder`."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average = Average(model, 0.9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.9, 0.99), fused=True)
    start = load_state(folder, model, average, optimizer)
    for step in range(start, steps):
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(inputs) - 1).pow(2).mean().backward()
        optimizer.step()
        average.update(model, step + 1)
    save_state(folder, steps, model, average, optimizer)
    return model, average, start


def test_a_resumed_run_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    whole, whole_average, _ = train(tmp_path / "whole", 9)
    train(tmp_path / "parts", 4)
    parts, parts_average, start = train(tmp_path / "parts", 9)
    assert start == 4
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name])
        assert torch.equal(whole_average.weights[name], parts_average.weights[name])
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["state.json", "state.safetensors"]


def test_an_interrupted_save_keeps_the_old_state(tmp_path: Path) -> None:
    train(tmp_path / "run", 4)
    (tmp_path / "run").rename(tmp_path / "run.old")  # killed between the two renames
    (tmp_path / "run.new").mkdir()
    assert train(tmp_path / "run", 5)[2] == 4


def test_the_autoencoder_resumes_exactly(tmp_path: Path) -> None:
    """Its weights lie channels last, and the moments must lie alike or the fused optimizer mixes them up."""
    pictures = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator())
    ends = []
    for stops in ([4], [2, 4]):
        torch.manual_seed(0)
        for stop in stops:
            vae = build_vae()
            train_vae(vae, pictures, stop, 0, tmp_path / f"{len(stops)}")
            torch.manual_seed(1)  # a resumed run starts from other weights, which the state must replace
        ends.append(vae.decoder.conv_out.weight.detach())
    assert torch.equal(ends[0], ends[1])


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.1), (9, 1.0), (10, 1.0), (60, 0.03 + 0.97 / 2), (110, 0.03), (500, 0.03)],
)
def test_learning_rate(step: int, rate: float) -> None:
    """Ten steps up, then half a cosine from 1 to 0.03 over a hundred."""
    assert learning_rate(step, steps=110, peak=1.0, warmup=10) == pytest.approx(rate)


def test_average_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    average = Average(model, 0.5)
    model.weight.data.fill_(2.0)
    average.update(model, 1)  # the decay is 1/11 in the first step
    assert average.weights["weight"].item() == pytest.approx(1 / 11 + 2 * 10 / 11)
    average.update(model, 1000)  # and its final value later
    assert average.weights["weight"].item() == pytest.approx((1 / 11 + 20 / 11 + 2) / 2)
