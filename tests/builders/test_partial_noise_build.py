"""Builds of partial noise on tiny models: what they hold, training on them, kills, bad clips, refusals."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters import tiny_sd
from builders.builds import content, load_in_turn
from training.faults import ALONE, crash_at, in_child, on_threads, record_operations
from training.tiny_runs import losses, metrics

from mmalign import config as configs
from mmalign.builders import _config
from mmalign.builders._media import encoded
from mmalign.builders._run import build
from mmalign.builders.partial_noise import PartialNoise
from mmalign.clips import Clip, Frames
from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.training.run import run
from mmalign.types import Part, UserError

FRAMES = {"sampling": "leading", "count": 4, "fps": 8.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tiny models, three clips with captions, and pictures."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("partial")
    tiny.FAMILIES["modelscope"](base / "modelscope", 0)
    tiny_sd.save_pipeline(base / "sd")
    rows = []
    for i in range(3):
        pixels = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(i))
        whole = Clip(
            pixels.to(torch.uint8), tuple(range(4)), tuple(j / 8 for j in range(4)), 8.0, 4, "memory"
        )
        (base / f"{i}.mkv").write_bytes(encoded(Part("video", whole), "test")[0])
        tiny_sd.picture(i).save(base / f"{i}.png")
        rows.append({"id": f"c{i}", "prompt": f"cat {i}", "completion": {"video": f"{i}.mkv"}})
    write(base / "clips.jsonl", rows)
    pictures = [{**row, "completion": {"image": f"{i}.png"}} for i, row in enumerate(rows)]
    write(base / "pictures.jsonl", pictures)
    yield base
    torch.set_num_threads(threads)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def config(folder: Path, output: Path, kind: str = "clips", **sections: Any) -> _config.BuildConfig:
    clips = {"resolution": 16, "frames": FRAMES}
    name, more = ("modelscope", clips) if kind == "clips" else ("sd", {"resolution": 16})
    builder = {"name": "partial_noise", "strength": 0.8} | ({"segments": 2} if kind == "clips" else {})
    tree: dict[str, Any] = {
        "builder": {**builder, **sections.pop("builder", {})},
        "model": {
            "adapter": "diffusion",
            "path": str(folder / name),
            "generation": {"steps": 3, "guidance": 2.0},
            **more,
        },
        "prompts": {"source": "jsonl", "path": str(folder / f"{kind}.jsonl"), **sections.pop("prompts", {})},
        "judge": "builders.test_partial_noise:Grey",
        "batch": 2,
        "log": {"progress": False},
        "output": str(output),
    }
    return _config.from_tree(tree | sections, "test", allow_code=True)


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "pairs.jsonl").read_text().splitlines()]


def without_place(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files with the output folder left out of the config."""
    lines = files["config.yaml"].decode().splitlines()
    return {**files, "config.yaml": "\n".join(one for one in lines if "output:" not in one).encode()}


@pytest.fixture(scope="module")
def built(folder: Path) -> Path:
    """An undisturbed build of the clips."""
    return build(config(folder, folder / "built"), ALONE)


def test_labels_are_what_the_judge_says_of_the_files(built: Path) -> None:
    found = rows_of(built)
    assert [row["built"]["prompt_id"] for row in found] == ["c0", "c1", "c2"]
    samples = load(Jsonl(path=str(built / "pairs.jsonl"))).samples
    for sample, row in zip(samples, found, strict=True):
        ready = decode(sample, Frames(**FRAMES))
        sides = [ready.examples[side][0].response[0].data for side in ("chosen", "rejected")]
        assert all(one.frames.shape == (4, 3, 16, 16) and one.rate == 8.0 for one in sides)
        parts = [[float(one.frames[at : at + 2].float().mean()) for at in (0, 2)] for one in sides]
        signs = [math.copysign(1, a - b) if a != b else 0 for a, b in zip(*parts, strict=True)]
        assert row["segments"] == signs == sample.labels["segments"]
        assert row["chosen_score"] == pytest.approx(sum(parts[0]) / 2, abs=1e-4)
        assert (
            row["margin"] == pytest.approx((sum(parts[0]) - sum(parts[1])) / 2, abs=1e-4)
            and row["margin"] >= 0
        )
        assert row["built"]["builder"]["strength"] == 0.8
    seeds = {seed for row in found for seed in row["built"]["seeds"]}
    assert len(seeds) == 6


def test_densedpo_trains_on_what_was_built(folder: Path, built: Path) -> None:
    tree = {
        "model": {
            "adapter": "diffusion",
            "path": str(folder / "modelscope"),
            "resolution": 16,
            "frames": FRAMES,
        },
        "data": {"source": "jsonl", "path": str(built / "pairs.jsonl")},
        "objective": {"name": "densedpo", "beta": 2000},
        "lora": {"rank": 4},
        "train": {"steps": 3, "batch": 3, "lr": 1e-3},
        "log": {"every": 1, "progress": False},
        "output": str(folder / "trained"),
    }
    trained = run(configs.from_tree(tree, "test"))
    found = losses(trained)
    assert found[0] == pytest.approx(math.log(2), abs=1e-6)
    assert all(math.isfinite(loss) for loss in found) and found[1] != found[0]
    labelled = sum(abs(one) for row in rows_of(built) for one in row["segments"])
    assert metrics(trained)[0]["segments"] == pytest.approx(labelled / 3)


def test_any_number_of_processes_gives_the_same_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of pictures: clips are decoded in processes of their own, which threads cannot fork safely."""
    load_in_turn(monkeypatch)
    alone = build(config(folder, tmp_path / "alone", "pictures"), ALONE)
    results = on_threads(2, lambda world: build(config(folder, tmp_path / "out", "pictures"), world))
    assert results == [tmp_path / "out"] * 2
    assert without_place(content(tmp_path / "out")) == without_place(content(alone))


def test_a_killed_build_goes_on(folder: Path, built: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        operations = record_operations(patch)
        build(config(folder, tmp_path / "counted"), ALONE)
    last = max(k for k, name in enumerate(operations) if name == "rename" and k < len(operations) * 2 // 3)
    place = tmp_path / "out"

    def killed() -> None:
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, last, "before")
            build(config(folder, place), ALONE)

    assert in_child(killed) == 137
    left = len(list((place / "parts").iterdir()))
    assert 0 < left < 3
    build(config(folder, place), ALONE)
    assert without_place(content(place)) == without_place(content(built))


@pytest.fixture(scope="module")
def damaged(folder: Path) -> Path:
    """The same rows, of which one file is cut off and one clip is too short."""
    base = folder / "damaged"
    base.mkdir()
    for i in range(3):
        shutil.copy(folder / f"{i}.mkv", base)
    (base / "1.mkv").write_bytes((folder / "1.mkv").read_bytes()[:200])
    short = Clip(
        torch.zeros(3, 3, 16, 16, dtype=torch.uint8), (0, 1, 2), (0.0, 0.125, 0.25), 8.0, 3, "memory"
    )
    (base / "2.mkv").write_bytes(encoded(Part("video", short), "test")[0])
    shutil.copy(folder / "clips.jsonl", base)
    return base / "clips.jsonl"


def test_bad_clips_are_named(folder: Path, damaged: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(PartialNoise, "sample", lambda *given: pytest.fail("nothing is to be sampled"))
    with pytest.raises(UserError, match=r"clips\.jsonl row 2, role 'chosen', video '1\.mkv'"):
        build(config(folder, tmp_path / "stop", prompts={"path": str(damaged)}), ALONE)
    assert not (tmp_path / "stop").exists()


def test_bad_clips_may_be_left_out(folder: Path, built: Path, damaged: Path, tmp_path: Path) -> None:
    skipping = {"path": str(damaged), "on_error": "skip"}
    output = build(config(folder, tmp_path / "out", prompts=skipping, batch=3), ALONE)
    (row,) = rows_of(output)
    assert row["built"]["prompt_id"] == "c0" and row["segments"] == rows_of(built)[0]["segments"]
    record = json.loads((output / "build.json").read_text())
    assert record["left_out"]["rows whose picture or clip cannot be used"] == 2
    first, second = record["skipped"]
    assert first.startswith("clips.jsonl row 2, role 'chosen', video '1.mkv'")
    assert second.startswith("clips.jsonl row 3: chosen: video gives 3 frames")


def test_pictures_make_plain_pairs(folder: Path, tmp_path: Path) -> None:
    output = build(config(folder, tmp_path / "out", "pictures"), ALONE)
    found = rows_of(output)
    assert 1 <= len(found) <= 3
    for row in found:
        assert "segments" not in row and row["chosen_score"] > row["rejected_score"]
        assert row["chosen"]["image"].endswith(".png")


def test_what_cannot_be_copied_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    cases: list[tuple[str, dict[str, Any], str]] = [
        (
            "pictures",
            {"builder": {"segments": 2}},
            r"builder\.segments: are of clips, and this model makes pic",
        ),
        ("clips", {"builder": {"segments": 5}}, r"builder\.segments: 5 of a clip with 4 latent frames"),
        (
            "clips",
            {"builder": {"strength": 0.0001}},
            r"builder\.strength: 0\.0001 is below the sampler's least",
        ),
        (
            "clips",
            {"prompts": {"path": str(folder / "pictures.jsonl")}},
            "row 1: chosen: response must be exactly",
        ),
        ("clips", {"model": {"adapter": "text", "path": "nowhere"}}, "which adapter text cannot"),
    ]
    for kind, sections, words in cases:
        with pytest.raises(UserError, match=words):
            build(config(folder, tmp_path / "out", kind, **sections), ALONE)
    listed = _config.prompt_file(str(tmp_path / "prompts.txt"), "test")
    with pytest.raises(UserError, match="copies the pictures or clips of a data source"):
        build(replace(config(folder, tmp_path / "out"), prompts=listed), ALONE)
