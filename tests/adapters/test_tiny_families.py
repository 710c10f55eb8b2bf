"""Tests of the tiny pipelines: they reload, they sample, and what they are told reaches the prediction."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from diffusers import DiffusionPipeline
from torch import Tensor

CHANGED = 1e-4  # smallest relative change that counts as one; float32 noise is near 1e-7
ONE_VALUE = {"style"}  # of HunyuanDiT: its table has a single row


@pytest.fixture(scope="module", params=tuple(tiny.FAMILIES))
def name(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family's folder."""
    return tiny.FAMILIES[name](tmp_path_factory.mktemp("pipelines") / name, 0)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> DiffusionPipeline:
    """The family's pipeline, as its folder opens."""
    return tiny.load(folder)


def _gap(first: Tensor, second: Tensor) -> float:
    return ((first - second).norm() / first.norm()).item()


def _altered(value: Any) -> Any:
    """Another value of the same form: numbers moved, whole numbers halved, a mask opened."""
    if isinstance(value, Mapping):
        return {key: _altered(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_altered(item) for item in value)
    if not isinstance(value, Tensor):
        return value
    if value.is_floating_point():
        return value * 0.5 + 1
    return torch.ones_like(value) if value.ndim == 2 else value // 2  # a mask over positions, or a timestep


def _tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_tensors(item) for item in value.values())
    if isinstance(value, tuple):
        return any(_tensors(item) for item in value)
    return isinstance(value, Tensor)


def test_folder_reloads(pipeline: DiffusionPipeline, name: str) -> None:
    assert all(part is not None for key, part in pipeline.components.items() if key in ("vae", "scheduler"))
    weights = tiny.denoiser(pipeline).state_dict()
    assert all(value.any() for key, value in weights.items() if value.ndim > 1), name


def test_sampling_follows_the_caption(pipeline: DiffusionPipeline, name: str) -> None:
    cat, dog = tiny.sample(pipeline, name, "a red cat"), tiny.sample(pipeline, name, "a blue dog")
    assert cat.isfinite().all()
    assert _gap(cat, dog) > CHANGED
    assert torch.equal(cat, tiny.sample(pipeline, name, "a red cat"))
    assert cat.numel() == torch.Size(tiny.SIZES[name].latents).numel()


def test_prediction_depends_on_every_input(pipeline: DiffusionPipeline, name: str) -> None:
    network = tiny.denoiser(pipeline)
    with tiny.recorded(network) as calls:
        tiny.sample(pipeline, name, "a red cat")
    inputs = calls[0].inputs
    told = [key for key, value in inputs.items() if _tensors(value) and key not in ONE_VALUE]
    with torch.no_grad():
        assert torch.equal(network(**inputs)[0], calls[0].prediction)
        for key in told:
            other = network(**{**inputs, key: _altered(inputs[key])})[0]
            assert _gap(calls[0].prediction, other) > CHANGED, key


def test_weights_come_from_the_seed(folder: Path, name: str, tmp_path: Path) -> None:
    def weights(root: Path) -> dict[str, bytes]:
        return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.safetensors"))}

    before = torch.random.get_rng_state()
    same, other = tiny.FAMILIES[name](tmp_path / "same", 0), tiny.FAMILIES[name](tmp_path / "other", 1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert weights(folder) == weights(same)
    assert all(weights(other)[key] != value for key, value in weights(folder).items())
