"""Which samplers a pipeline may be saved with: by its index and by its file, before any weight is read."""

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch

from mmalign.adapters._pipeline import _FLOW_SOLVERS, _VP_SCHEDULERS
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import UserError

SHIPPED = Path(__file__).parents[2] / "mmalign" / "shapes" / "models" / "image"


def test_every_sampler_that_is_taken_is_one_of_upstream() -> None:
    """One that is not could never be loaded; EDM's and consistency models' have no schedule of betas."""
    names = {*_VP_SCHEDULERS, *_FLOW_SOLVERS}
    assert names <= set(dir(diffusers)) and "DDIMScheduler" in names
    assert not names & {"EDMEulerScheduler", "CMStochasticIterativeScheduler"}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "model"))


def name_sampler(folder: Path, name: str, *, index: bool = True, file: bool = True) -> None:
    """Both places that say it, or one of them."""
    places = (("model_index.json", "scheduler", ["diffusers", name], index),)
    for place, key, value, wanted in (
        *places,
        ("scheduler/scheduler_config.json", "_class_name", name, file),
    ):
        path = folder / place
        path.write_text(json.dumps(json.loads(path.read_text()) | ({key: value} if wanted else {})))


@pytest.mark.parametrize("name", ["FooScheduler", "FlowMatchEulerDiscreteScheduler"])
@pytest.mark.parametrize("where", ["model_index.json", "scheduler_config.json"])
def test_an_unknown_or_unfit_sampler_is_refused(copy: Path, name: str, where: str) -> None:
    name_sampler(copy, name, index=where == "model_index.json", file=where != "model_index.json")
    rule = rf"{where}: scheduler {name} is not taken; a StableDiffusionPipeline has DDIMScheduler or .*PNDM"
    with pytest.raises(UserError, match=rule) as caught:
        Diffusion(path=str(copy)).build(torch.device("cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "LCMScheduler"])
def test_other_samplers_of_the_family_are_taken(copy: Path, name: str) -> None:
    name_sampler(copy, name)
    assert Diffusion(path=str(copy)).build(torch.device("cpu")).policy is not None
