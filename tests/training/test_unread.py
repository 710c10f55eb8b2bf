"""Settings of a denoiser that an objective does not read are refused, each with the reason."""

from typing import Any

import pytest

from mmalign.config import RunConfig, from_tree
from mmalign.training.checks import check_config
from mmalign.types import UserError

OFTEN: dict[str, Any] = {
    "caption_dropout": 0.1,
    "num_draws": 2,
    "flip": True,
    "noise_offset": 0.1,
    "weighting": "min_snr",
    "error_space": "velocity",
    "timesteps": {"max": 0.5},
}


def config(objective: Any, **model: Any) -> RunConfig:
    tree: dict[str, Any] = {
        "model": {"adapter": "diffusion", "path": "none", **model},
        "data": {"source": "jsonl", "path": "none.jsonl"},
        "objective": objective,
        "lora": {},
        "train": {"steps": 1},
    }
    if objective == {"name": "refl"}:
        tree["reward"] = {"name": "brightness"}
    return from_tree(tree, "test")


@pytest.mark.parametrize("setting", OFTEN)
@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        ("refl", "rewards are of sampled media, which nothing is drawn for"),
        ("inversion_dpo", "inverted paths draw nothing"),
    ],
)
def test_what_draws_nothing_reads_nothing_about_draws(objective: str, reason: str, setting: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.{setting}: {reason}; "):
        check_config(config({"name": objective}, **{setting: OFTEN[setting]}))
    check_config(config({"name": objective}))
    check_config(config({"name": "dpo", "beta": 2000}, **{setting: OFTEN[setting]}))


def test_the_shift_of_noise_levels_is_read_along_paths() -> None:
    check_config(config({"name": "inversion_dpo"}, timesteps={"shift": 3.0}))


def test_sampled_pictures_are_square() -> None:
    with pytest.raises(UserError, match=r"^model\.buckets: rewards are of sampled media"):
        check_config(config({"name": "refl"}, buckets="aspect"))


def test_inverted_noise_is_not_shifted() -> None:
    with pytest.raises(UserError, match=r"^model\.noise_offset: the noise is found by inversion; "):
        check_config(config({"name": "inpo"}, noise_offset=0.1))
    check_config(config({"name": "inpo"}, caption_dropout=0.1, weighting="min_snr"))


@pytest.mark.parametrize("name", ["mapo", "linear_dpo", "diffusion_orpo"])
def test_raw_errors_are_not_weighted(name: str) -> None:
    with pytest.raises(UserError, match=r"^model\.weighting: this objective is on raw errors; "):
        check_config(config({"name": name}, weighting="min_snr"))
    check_config(config([{"name": name}, {"name": "sft"}], weighting="min_snr"))
    check_config(config({"name": name}, error_space="velocity", num_draws=2))
