"""Captions under autocast: a round in half precision remembers the states that any other caller gets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import tiny_sd
import torch
from torch import Tensor

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters.diffusion import Diffusion

CAPTIONS = ["a cat. one of two", "a dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd.save_pipeline(tmp_path_factory.mktemp("captions") / "sd")


def conditions(adapter: Denoiser, captions: Sequence[str], half: bool) -> list[dict[str, Tensor]]:
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        return adapter._captions.conditions(captions)


@pytest.mark.parametrize("long_captions", ["cut", "segments"])
def test_autocast_changes_no_state(folder: Path, long_captions: Literal["cut", "segments"]) -> None:
    def built() -> Any:
        config = Diffusion(str(folder), resolution=16, long_captions=long_captions)
        return config.build(torch.device("cpu"))

    rounds, plain = built(), built()
    exact = conditions(plain, CAPTIONS, False)
    for found in (conditions(rounds, CAPTIONS, True), conditions(rounds, CAPTIONS, False)):
        for ours, theirs in zip(found, exact, strict=True):
            assert ours["states"].dtype == torch.float32 and torch.equal(ours["states"], theirs["states"])
