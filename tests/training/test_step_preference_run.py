"""Training a step-aware preference model from pairs of pictures, and the judge that loads the result."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rewards.tiny_clip import picture, said, save_transformers, shown
from safetensors.torch import load_file
from tiny_runs import Bench, losses, metrics, same_files, weights

import mmalign
from mmalign.config import RunConfig, from_tree
from mmalign.rewards.step_preference import StepPreference
from mmalign.training.checks import check_config
from mmalign.training.finished import export, open_run
from mmalign.training.run import run
from mmalign.types import UserError

IMAGE = {"adapter": "diffusion", "path": str(Path(mmalign.__file__).parent / "shapes/models/image")}
LEVELS = {"max": 0.6}  # what is predicted from more noise says little of the picture


def shaded(seed: int, bright: bool) -> Image.Image:
    """A picture in the upper or the lower half of the range."""
    half = np.asarray(picture(seed)) // 2
    return Image.fromarray((half + (128 if bright else 0)).astype(np.uint8))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Pairs of which the darker side is chosen, every fourth a tie; two rows of each prompt."""
    bench = Bench(tmp_path_factory.mktemp("stepwise"))
    save_transformers(bench.folder / "clip")
    lines = []
    for i in range(32):
        row: dict[str, Any] = {"id": f"r{i:02d}", "prompt": f"cat {i // 2}", "weight": 0.5}
        for role, bright in (("chosen", False), ("rejected", True)):
            shaded(2 * i + bright, bright).save(bench.folder / f"{role}-{i}.png")
            row[role] = {"image": f"{role}-{i}.png"}
        lines.append(json.dumps(row | {"tie": i % 4 == 3}))
    (bench.folder / "shades.jsonl").write_text("\n".join(lines) + "\n")
    return bench


def config(bench: Bench, output: str, **sections: Any) -> RunConfig:
    model = {
        "adapter": "step_preference",
        "path": str(bench.folder / "clip"),
        "denoiser": {**IMAGE, "timesteps": LEVELS, **sections.pop("denoiser", {})},
    }
    tree = {
        "model": model,
        "data": {"source": "jsonl", "path": str(bench.folder / "shades.jsonl"), "ties": "keep", "heldout": 8},
        "objective": {"name": "bt", "ties": "label"},
        "train": {"steps": 4, "batch": 8, "lr": 3e-4, **sections.pop("train", {})},
        "log": {"every": 1, "progress": False},
        "cache": str(bench.folder / "cache"),
        "output": str(bench.folder / output),
    }
    return from_tree(tree | sections, "test", allow_code=True)


@pytest.fixture(scope="module")
def done(bench: Bench) -> Path:
    return run(config(bench, "done", train={"steps": 24, "eval_every": 24, "lr": 2e-3}))


def test_two_dozen_steps_learn_which_shade_is_preferred(done: Path) -> None:
    heldout = [line for line in metrics(done) if "heldout/accuracy" in line]
    assert heldout[0]["heldout/accuracy"] < 0.5 and heldout[-1]["heldout/accuracy"] == 1.0
    assert heldout[-1]["heldout/loss"] < 0.5 * heldout[0]["heldout/loss"]
    time = load_file(done / "final" / "time_conditioning.safetensors")
    assert bool((time["final.weight"] != 0).any()) and bool((time["blocks.0.weight"] != 0).any())


def test_the_judge_prefers_what_was_preferred_at_every_level(done: Path) -> None:
    judge = StepPreference(str(done / "final"), device="cpu")
    for level in (0, 100, 500):
        pictures = [shown(shaded(100 + i, bright)) for i in range(6) for bright in (False, True)]
        scored = judge.score_steps([said("cat 3")] * 12, pictures, [level] * 12)
        gaps = [a["score"] - b["score"] for a, b in zip(scored[::2], scored[1::2], strict=True)]
        assert min(gaps) > 0, level


def test_a_stopped_run_goes_on_bit_for_bit(bench: Bench) -> None:
    straight = run(config(bench, "straight", train={"save_every": 2}))
    run(config(bench, "resumed", train={"steps": 2, "save_every": 2}))
    resumed = run(config(bench, "resumed", train={"save_every": 2}))
    same_files(straight / "final", resumed / "final")
    assert losses(straight) == losses(resumed)


def test_all_weights_train_and_the_denoiser_none(bench: Bench) -> None:
    output = run(config(bench, "few", train={"steps": 2, "save_every": 1}))
    first, last = weights(output, 1), weights(output, 2)
    assert {name.split(".")[0] for name in first} == {"clip", "time"}
    still = [name for name, value in first.items() if torch.equal(value, last[name])]
    assert not [
        name for name in still if not name.endswith("k_proj.bias")
    ]  # a shift of all keys does nothing


def test_a_finished_run_is_opened_and_exported(done: Path, tmp_path: Path) -> None:
    gap = export(open_run(done), tmp_path / "out", False, torch.float32)
    assert gap < 1e-3
    one, other = (StepPreference(str(folder), device="cpu") for folder in (done / "final", tmp_path / "out"))
    asked = ([said("cat")], [shown(picture(1))], [300])
    assert one.score_steps(*asked) == other.score_steps(*asked)


@pytest.mark.parametrize(
    "sections, words",
    [
        ({"objective": {"name": "dpo"}}, "step_preference"),
        ({"train": {"num_draws": 2}}, "num_draws"),
        ({"denoiser": {"caption_dropout": 0.1}}, "denoiser.caption_dropout"),
    ],
)
def test_what_cannot_work_is_refused(bench: Bench, sections: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_config(config(bench, "refused", **sections))


def test_lora_is_refused(bench: Bench) -> None:
    with pytest.raises(UserError, match="lora: a step-aware preference model trains whole"):
        run(config(bench, "lora", lora={"rank": 2}))
