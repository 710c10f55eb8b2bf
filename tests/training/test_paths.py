"""Kept paths go by what they depend on, and every sample draws its own steps of its path."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmalign.training import paths
from mmalign.training.paths import PathCache
from mmalign.types import Inversion, Row

HOW = Inversion("reference", 4, whole=True, guidance=2.0)


def path_of(value: float) -> dict[str, Tensor]:
    names = ("path_start", "path_led", "path_level", "path_guidance")
    return {name: torch.full((2,), value) for name in names}


@pytest.mark.parametrize("kept", [False, True])
def test_a_path_goes_by_its_row_model_steps_and_guidance(tmp_path: Path, kept: bool) -> None:
    folder = str(tmp_path) if kept else None
    cache, row = PathCache(folder, "model"), Row("chosen", 0, {"mean": torch.ones(2)})
    cache.put(row, HOW, path_of(1.0))
    found = cache.get(row, HOW)
    assert found is not None and torch.equal(found["path_led"], torch.ones(2))
    assert cache.get(row, replace(HOW, count=2)) is not None  # which steps are scored is drawn later
    assert cache.get(row, replace(HOW, guidance=1.0)) is None
    assert cache.get(row, replace(HOW, steps=5)) is None
    assert cache.get(Row("chosen", 0, {"mean": torch.zeros(2)}), HOW) is None
    if kept:
        assert PathCache(folder, "another").get(row, HOW) is None
        assert PathCache(folder, "model").get(row, HOW) is not None


def test_every_sample_draws_its_own_steps() -> None:
    how = replace(HOW, steps=40, count=5)
    picked = paths._pick(how, [1, 2, 3])
    assert picked.shape == (3, 5) and bool((picked.diff(dim=1) > 0).all())
    assert int(picked.min()) >= 0 and int(picked.max()) < 40
    assert len({tuple(row) for row in picked.tolist()}) == 3
    assert torch.equal(paths._pick(how, [3, 1]), picked[[2, 0]])  # by its seed, whoever stands beside it
    many = paths._pick(how, range(2000)).flatten().bincount(minlength=40)
    assert bool((many > 180).all()) and bool((many < 320).all())  # 250 each, give or take 15
