"""Sizes and mirror images: all pictures of a sample share them, nothing is squashed, draws choose mirrors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from contract import Case
from PIL import Image
from tiny_sd import SIDE, example, pairs, picture, save_pipeline

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import PreferenceSample

CPU = torch.device("cpu")
ROLES = ("chosen", "rejected")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("aspect"))


def build(folder: Path, **settings: Any) -> Denoiser:
    return Diffusion(str(folder), **settings).build(CPU)


def of_sizes(*sizes: tuple[int, int]) -> PreferenceSample:
    examples = {
        role: (example("cat", picture(i, *size)),)
        for i, (role, size) in enumerate(zip(ROLES, sizes, strict=True))
    }
    return PreferenceSample("s", examples)


@pytest.mark.parametrize(
    ("chosen", "rejected", "shape"),
    [
        ((64, 64), (100, 40), (32, 32)),
        ((80, 40), (40, 80), (24, 40)),  # height, width
        ((40, 80), (40, 40), (40, 24)),
        ((50, 40), (40, 40), (28, 36)),
    ],
)
def test_the_chosen_picture_decides_for_both(folder: Path, chosen: Any, rejected: Any, shape: Any) -> None:
    adapter = build(folder, buckets="aspect")
    prepared = adapter.prepare(of_sizes(chosen, rejected), ROLES)
    assert [tuple(row.data["pixels"].shape) for row in prepared.rows] == [(3, *shape)] * 2
    assert adapter.shape_of(prepared) == (3, *shape)
    (alone,) = adapter.prepare(of_sizes(chosen, rejected), ["rejected"]).rows
    assert tuple(alone.data["pixels"].shape) == (3, *shape)
    assert shape[0] * shape[1] <= SIDE * SIDE


def test_nothing_is_squashed(folder: Path) -> None:
    """A circle stays a circle in a lying frame: its picture is cut, not pressed."""
    disc = Image.new("RGB", (120, 120), "white")
    disc.paste((200, 0, 0), (50, 50, 70, 70))
    sample = PreferenceSample(
        "s", {"chosen": (example("cat", picture(1, 80, 40)),), "rejected": (example("cat", disc),)}
    )
    pixels = build(folder, buckets="aspect").prepare(sample, ["rejected"]).rows[0].data["pixels"]
    red = (pixels[0].int() - pixels[1].int()) > 100
    rows, columns = red.any(1).sum(), red.any(0).sum()
    assert pixels.shape == (3, 24, 40) and int(rows) == int(columns) > 3


def test_a_micro_batch_of_one_shape_scores_like_its_samples_alone(folder: Path) -> None:
    adapter = build(folder, buckets="aspect")
    lying = [PreferenceSample(f"{i}", of_sizes((80, 40), (60, 60)).examples) for i in range(2)]
    together = Case(adapter, lying).batch()
    errors = adapter.logprobs(adapter.policy, together, adapter.draw(together, [1, 2]), frozenset()).error
    alone = Case(adapter, lying[1:]).batch()
    single = adapter.logprobs(adapter.policy, alone, adapter.draw(alone, [2]), frozenset()).error
    assert errors is not None and single is not None
    assert torch.allclose(errors[2:], single, atol=1e-6)
    assert adapter.self_check(adapter.policy, together, adapter.draw(together, [1, 2])) < 1e-5


def test_mirror_images_are_encoded_and_chosen_by_the_draw(folder: Path) -> None:
    adapter, plain = build(folder, flip=True, vae_sample=False), build(folder, vae_sample=False)
    sample = pairs(1)[0]
    (encoded,) = adapter.encode([adapter.prepare(sample, ROLES)])
    pixels = adapter.prepare(sample, ROLES).rows[0].data["pixels"]
    wanted = adapter._latents.encode([pixels.flip(-1)])[0]["mean"]
    assert torch.allclose(encoded.rows[0].data["flipped_mean"], wanted, atol=1e-6)
    assert not torch.allclose(wanted, encoded.rows[0].data["mean"].flip(-1), atol=1e-3)
    batch, same = Case(adapter, [sample]).batch(), Case(plain, [sample]).batch()
    found = {}
    for seed in range(8):
        draw = adapter.draw(batch, [seed])
        ours = adapter.logprobs(adapter.policy, batch, draw, frozenset()).error
        theirs = plain.logprobs(plain.policy, same, plain.draw(same, [seed]), frozenset()).error
        assert ours is not None and theirs is not None
        found[bool(draw["flip"])] = torch.allclose(ours, theirs, atol=1e-6)
        assert found[bool(draw["flip"])] is not bool(draw["flip"])  # both sides of the pair alike
    assert set(found) == {True, False}
    assert adapter.fingerprint() != plain.fingerprint()
