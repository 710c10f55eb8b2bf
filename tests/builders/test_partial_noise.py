"""Partial noise: labels of segments in numbers, what a build of real clips holds, and training on it."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters import tiny_sd
from builders.builds import content
from training.faults import ALONE, crash_at, in_child, on_threads, record_operations
from training.tiny_runs import losses, metrics

from mmalign import config as configs
from mmalign.builders import _config
from mmalign.builders._candidates import Group, Made, Paired
from mmalign.builders._media import encoded
from mmalign.builders._run import build
from mmalign.builders.partial_noise import EVEN, FEW, PartialNoise
from mmalign.clips import Clip, Frames
from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.training.run import run
from mmalign.types import Message, Part, UserError

FRAMES = {"sampling": "leading", "count": 4, "fps": 8.0}


def clip(*values: int) -> Part:
    """A clip of one grey value per frame."""
    frames = torch.stack([torch.full((3, 2, 2), value, dtype=torch.uint8) for value in values])
    places = tuple(range(len(values)))
    return Part("video", Clip(frames, places, tuple(i / 4 for i in places), 4.0, len(values), "memory"))


@dataclass(frozen=True)
class Grey:
    """A judge of a user's own: the mean value of a clip, or the first red value of a picture."""

    def score(self, prompt: Any, response: Part) -> dict[str, float]:
        if response.kind == "image":
            return {"score": float(response.data.getpixel((0, 0))[0])}
        return {"score": float(response.data.frames.float().mean())}


def made(*answers: Part, cuts: Any = ((0, 1), (1, 3), (3, 4)), **fields: Any) -> Paired:
    """What becomes of one group."""
    turns = (Message("text", (Part("text", "a cat"),)),)
    group = Group("p", turns, answers, tuple(range(len(answers))), cuts)
    (paired,) = PartialNoise(**{"segments": len(cuts) or None, **fields}).pair([group], Grey(), 0)
    return paired


@pytest.mark.parametrize("reads", ["clips", "frames"])
def test_every_segment_has_its_own_winner(reads: str) -> None:
    """Segments 9 | 1 3 | 4 and 5 | 4 6 | 4: means 9, 2, 4 against 5, 5, 4, together 5 against 14/3."""
    paired = made(clip(5, 4, 6, 4), clip(9, 1, 3, 4), reads=reads)
    (pair,) = paired.pairs
    assert (pair.chosen, pair.rejected, pair.segments) == (1, 0, (1, -1, 0))
    assert pair.gap == pytest.approx(1 / 3)
    assert paired.scores[1] == {"score": 5.0, "segment 1": 9.0, "segment 2": 2.0, "segment 3": 4.0}
    assert paired.counts == {EVEN: 1}


def test_a_margin_makes_ties_and_ties_may_leave_a_pair_out() -> None:
    sides = clip(5, 4, 6, 4), clip(9, 1, 3, 4)
    assert made(*sides, min_gap=3).pairs[0].segments == (1, 0, 0), "3 apart is not more than 3"
    assert made(*sides, min_gap=2.9).pairs[0].segments == (1, -1, 0)
    none = made(*sides, min_gap=4)
    assert none.pairs == () and none.counts == {FEW: 1}
    assert made(*sides, min_gap=3, min_labels=2).pairs == ()


def test_copies_that_are_even_on_the_whole_may_differ_in_parts() -> None:
    paired = made(clip(9, 1), clip(1, 9), cuts=((0, 1), (1, 2)))
    assert paired.pairs == (Made(0, 1, 0.0, segments=(1, -1)),)


def test_of_several_copies_two_or_every_two() -> None:
    copies = clip(3), clip(7), clip(5)
    (best,) = made(*copies, cuts=((0, 1),), n=3).pairs
    assert (best.chosen, best.rejected, best.gap) == (1, 0, 4.0)
    every = made(*copies, cuts=((0, 1),), n=3, strategy="all").pairs
    assert [(one.chosen, one.rejected) for one in every] == [(1, 2), (1, 0), (2, 0)]
    assert all(one.segments == (1,) for one in every)


def test_without_segments_copies_are_judged_whole() -> None:
    paired = made(clip(1, 3), clip(4, 8), cuts=())
    assert paired.pairs == (Made(1, 0, 4.0),) and paired.scores[0] == {"score": 2.0}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n": 1}, "n: must be 2 or more"),
        ({"strength": 0.0}, "strength: must be above 0"),
        ({"strength": 1.1}, "strength: must be above 0 and at most 1"),
        ({"segments": 0}, "segments: must be 1 or more"),
        ({"min_gap": -1.0}, "min_gap: must be 0 or more"),
        ({"segments": 2, "min_labels": 3}, r"min_labels: must lie in 1\.\.2"),
    ],
)
def test_settings_that_contradict_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PartialNoise(**fields)


def test_the_shipped_config_is_one() -> None:
    shipped = _config.load(Path(__file__).parents[2] / "configs" / "build" / "partial_noise_video.yaml")
    assert shipped.builder == PartialNoise(segments=3, reads="frames", min_gap=0.1)
    assert _config.from_tree(_config.to_tree(shipped), "test") == shipped


# ---------------------------------------------------------------- builds of real clips


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


def test_any_number_of_processes_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    """Of pictures: clips are decoded in processes of their own, which threads cannot fork safely."""
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
