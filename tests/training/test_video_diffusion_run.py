"""DPO on clips (VideoDPO, arXiv 2412.14167) through whole runs: weighted pairs, files to saved weights."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from adapters import tiny_families as tiny
from cli_runs import call
from peft import PeftModel
from PIL import Image
from tiny_runs import largest_gap, losses, metrics, same_files, weights

from mmalign import api
from mmalign.builders._media import encoded
from mmalign.config import RunConfig, from_tree, to_tree
from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.training.checks import check_config
from mmalign.training.console import Console
from mmalign.training.rows import load_data
from mmalign.training.run import run
from mmalign.training.setup import build_engine, build_policy, micro_batches, start
from mmalign.training.step import compute_gradients, labels_of, score_all
from mmalign.types import Clip, Message, Part

SCORES = (0.72, 0.36, 0.18, 0.24, 0.72, 0.12)  # weights 1, 2, 4, 3, 1, 6
WEIGHTS = [0.72 / score for score in SCORES]
SIZES = {"modelscope": (16, 4), "wan": (32, 5)}  # side and frames
NOISY = {"modelscope": (16, 4), "animatediff": (16, 4)}  # families whose samplers add noise


def clip_file(path: Path, seed: int, frames: int, side: int) -> str:
    """Noise, without loss, at 8 frames per second."""
    pixels = torch.randint(0, 256, (frames, 3, side, side), generator=torch.Generator().manual_seed(seed))
    times = tuple(i / 8 for i in range(frames))
    clip = Clip(pixels.to(torch.uint8), tuple(range(frames)), times, 8.0, frames, "memory")
    path.write_bytes(encoded(Part("video", clip), "test")[0])
    return path.name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tiny models, and a VideoDPO folder whose clips differ in size and length."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("video")
    for name in {**SIZES, **NOISY}:
        tiny.FAMILIES[name](base / name, 0)
    pairs, clips = [], []
    for i, score in enumerate(SCORES):
        for k in range(2):
            file = clip_file(base / f"{i}-{k}.mkv", 2 * i + k, 6 + i % 2 + k, 32 + 16 * (i % 2))
            clips.append({"basic": {"clip_path": file}, "misc": {"frame_caption": ["unused"]}})
        pairs.append({"video1": 2 * i, "video2": 2 * i + 1, "frame_caption": f"cat {i}", "score": score})
    (base / "metadata.json").write_text(json.dumps(clips))
    (base / "pair.json").write_text(json.dumps(pairs))
    yield base
    torch.set_num_threads(threads)


def config(folder: Path, family: str, output: str, **sections: Any) -> RunConfig:
    side, frames = {**SIZES, **NOISY}[family]
    tree: dict[str, Any] = {
        "model": {
            "adapter": "diffusion",
            "path": str(folder / family),
            "resolution": side,
            "frames": {"sampling": "leading", "count": frames, "fps": 8.0},
            "generation": {"steps": 2},
        },
        "data": {"source": "video_dpo", "path": str(folder), "alpha": 1.0},
        "objective": {"name": "dpo", "beta": 5000},
        "lora": {"rank": 4},
        "train": {"steps": 3, "batch": 3, "lr": 1e-3},
        "log": {"every": 1, "progress": False},
        "cache": str(folder / "cache"),
        "output": str(folder / output),
    }
    for name, value in sections.items():
        added = isinstance(value, dict) and name != "objective"
        tree[name] = {**tree.get(name, {}), **value} if added else value
    made = from_tree(tree, "test", allow_code=True)
    check_config(made)
    return made


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_three_steps_start_at_ln_2_and_leave_upstream_weights(folder: Path, family: str, lora: Any) -> None:
    output = run(config(folder, family, f"{family}-{lora is None}", lora=lora, train={"lr": 1e-4}))
    found = losses(output)
    assert found[0] == pytest.approx(math.log(2), abs=1e-6)
    assert len(found) == 3 and all(math.isfinite(loss) for loss in found)
    assert all(one != other for one, other in pairwise(found))
    base = tiny.denoiser(tiny.load(folder / family))
    before = {name: value.clone() for name, value in base.state_dict().items()}
    if lora is None:
        after = tiny.denoiser(tiny.load(output / "final")).state_dict()
    elif family == "modelscope":
        merged = PeftModel.from_pretrained(base, output / "final").merge_and_unload()
        after = merged.state_dict()
    else:
        pipeline: Any = tiny.load(folder / family)
        pipeline.load_lora_weights(output / "final")
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
        after = tiny.denoiser(pipeline).state_dict()
    assert largest_gap(before, dict(after)) > 1e-6


def test_rare_pairs_count_more(folder: Path) -> None:
    """The loss of a step is its pairs' mean under the weights (0.72 / p)^alpha; all alike at alpha 0."""
    for alpha in (1.0, 0.0):
        made = config(folder, "modelscope", f"weights-{alpha}", data={"alpha": alpha}, train={"batch": 6})
        accelerator, world = start()
        console = Console(world, progress=False, quiet=True)
        data = load_data(made, world, console)
        adapter = build_policy(made, world.device)
        data.admit(adapter, made, console)
        engine, encoder, _ = build_engine(made, accelerator, world, adapter, data, console)
        torch.manual_seed(1)
        for name, parameter in adapter.policy.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.1)
        items = next(iter(data.loader(adapter, made).steps(0, 1)))
        micros = micro_batches(engine, encoder, items, made.train)
        with torch.no_grad():
            single = [
                engine.objective(score_all(engine, micro), labels_of(engine, micro), {}, lambda *_: None)
                for micro in micros
            ]
        each = torch.cat([outcome.loss for outcome in single])
        given = torch.cat([micro.weight for micro in micros])
        assert sorted(given.tolist()) == pytest.approx(sorted(WEIGHTS) if alpha else [1.0] * 6)
        expected = float((each * given).sum() / given.sum())
        assert float(compute_gradients(engine, micros, {}, 0).loss) == pytest.approx(expected, rel=1e-5)
        assert float(each.std()) > 1e-3


def test_a_stopped_run_goes_on_with_equal_bits(folder: Path) -> None:
    whole = run(config(folder, "wan", "whole"))
    run(config(folder, "wan", "parts", train={"steps": 2}))
    parts = run(config(folder, "wan", "parts"))
    assert largest_gap(weights(whole, 3), weights(parts, 3)) == 0.0
    same_files(whole / "final", parts / "final")


def test_held_out_pairs_and_answers_over_training_and_samples(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = config(
        folder,
        "wan",
        "watched",
        data={"heldout": 2},
        evaluation={"levels": 2, "level_pairs": 2, "grid": 2, "num_prompts": 2},
        train={"steps": 2, "eval_every": 1, "batch": 2},
    )
    output = run(made)
    assert any("heldout/level/0.250/err_w" in line for line in metrics(output))
    grid = sorted(path.name for path in (output / "evaluation" / "grid").glob("*.png"))
    assert len(grid) == 6  # two prompts before, between and after
    with Image.open(output / "evaluation" / "grid" / grid[0]) as sheet:
        assert sheet.width > sheet.height  # frames side by side
    done = call(capsys, "sample", output, "--prompt", "cat 1")
    assert done.code == 0, done.err
    (made_clip,) = (output / "samples").iterdir()
    (part,) = api.sample(output, ["cat 1"])
    assert made_clip.suffix == ".webp" and part.kind == "video"
    assert part.data.frames.shape == (5, 3, 32, 32) and part.data.rate == 8.0
    with Image.open(made_clip) as moving:
        assert moving.size == (32, 32) and getattr(moving, "n_frames", 1) == 5
    done = call(capsys, "evaluate", output)
    assert done.code == 0 and "no judge" in done.out
    results = json.loads((output / "evaluation" / "results.json").read_text())
    assert (
        all(row["tuned"]["kind"] == "image" for row in results["rows"]) and (output / "report.html").exists()
    )
    done = call(capsys, "evaluate", output, "--judge", "brightness")  # of the frames, on the average
    assert done.code == 0 and "score" in done.out, done.err
    done = call(capsys, "evaluate", output, "--judge", "mmalign.shapes.judges:ImageJudge")
    assert done.code == 2 and "reads pictures, and this model makes clips; use aesthetic" in done.err


@dataclass(frozen=True)
class Busy:
    """A judge: how much the frames of a clip differ from each other."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> dict[str, float]:
        """Mean deviation of a pixel over time."""
        return {"score": float(response.data.frames.float().std(0).mean())}


WALKING: dict[str, dict[str, Any]] = {
    "d3po": {"objective": {"name": "d3po", "beta": 10.0}},
    "ddpo": {"objective": {"name": "ddpo"}, "reference": {"name": "ema", "decay": 0.0, "every": 1}},
    "spo": {"objective": {"name": "spo", "threshold": 0.0}, "online": {"unbranched": 1}},
}


@pytest.mark.parametrize(
    ("family", "name"), [("animatediff", "d3po"), ("animatediff", "ddpo"), ("modelscope", "spo")]
)
def test_paths_of_clips_train_in_rounds(folder: Path, family: str, name: str) -> None:
    sections = dict(WALKING[name])
    judged = {"judge": "test_video_diffusion_run:Busy", "prompts": 3, "n": 3, "steps": 1, "batch": 3}
    made = config(
        folder,
        family,
        f"{family}-{name}",
        model={"generation": {"steps": 4, "guidance": 2.0}},
        online={**judged, **sections.pop("online", {})},
        evaluation={"grid": 0, "levels": 0},
        train={"steps": 2, "batch": 9 if name == "ddpo" else 3},
        **sections,
    )
    output = run(made)
    found = losses(output)
    assert len(found) == 2 and all(math.isfinite(loss) for loss in found)
    assert found[0] == pytest.approx(0.0 if name == "ddpo" else math.log(2), abs=1e-5)
    trained = weights(output, 2)
    assert all(bool(value.any()) for key, value in trained.items() if "lora_B" in key)


def test_a_models_own_clips_make_pairs_to_train_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is sampled is written without loss, and every frame of it is read back."""
    (tmp_path / "captions.txt").write_text("a cat\na dog\na red fox\n")
    frames = {"sampling": "leading", "count": 5, "fps": 16.0}
    made = config(folder, "wan", "own", train={"steps": 1, "batch": 2}, model={"frames": frames})
    tree = {
        "builder": {"name": "best_of_n", "n": 2},
        "model": to_tree(made)["model"],
        "prompts": str(tmp_path / "captions.txt"),
        "judge": "test_video_diffusion_run:Busy",
        "log": {"progress": False},
        "output": str(tmp_path / "built"),
    }
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(tree))
    called = call(capsys, "build", tmp_path / "build.yaml")
    assert called.code == 0, called.err
    rows = [json.loads(line) for line in (tmp_path / "built" / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(row["chosen"]["video"].endswith(".mkv") for row in rows)
    data = Jsonl(path=str(tmp_path / "built" / "pairs.jsonl"))
    clip = decode(load(data).samples[0], made.model.frames).examples["chosen"][0].response[0].data
    assert (clip.indices, clip.total, clip.rate) == ((0, 1, 2, 3, 4), 5, 16.0)
    trained = run(replace(made, data=((1.0, data),)))
    assert losses(trained)[0] == pytest.approx(math.log(2), abs=1e-6)


def test_all_weights_train_where_some_never_leave_float32(folder: Path) -> None:
    """Wan's scales and shifts, under mixed precision."""
    output = run(config(folder, "wan", "mixed", lora=None, train={"steps": 2, "precision": "bf16"}))
    assert all(math.isfinite(loss) for loss in losses(output))
    assert losses(output)[0] == pytest.approx(math.log(2), abs=1e-4)
