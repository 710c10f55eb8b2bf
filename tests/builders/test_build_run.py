"""A build from end to end on a painter: what its files hold, whatever kills it and however many work."""

import json
import os
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.builds import Painter, Red, content, open_painter, painted
from PIL import Image
from training.faults import ALONE, Moment, crash_at, in_child, on_threads, record_operations

from mmalign.builders import _run
from mmalign.builders._originals import BROKEN
from mmalign.builders._run import build
from mmalign.clips import Clip, Frames
from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.types import Example, Message, Part, PreferenceSample, UserError


@pytest.fixture(autouse=True)
def painter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_run, "open_model", open_painter)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an undisturbed build."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_run, "open_model", open_painter)
        return without_place(content(build(painted(folder), ALONE)))


def without_place(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files with the output folder left out of the config."""
    lines = files["config.yaml"].decode().splitlines()
    kept = "\n".join(line for line in lines if not line.startswith("output:"))
    return {**files, "config.yaml": kept.encode()}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


def test_pairs_are_what_the_judge_says_of_the_seeds(tmp_path: Path) -> None:
    folder = build(painted(tmp_path / "out"), ALONE)
    found = rows(folder)
    assert [row["built"]["prompt_id"] for row in found] == [f"c{i}" for i in range(5)]
    for row in found:
        built = row["built"]
        first = built["seeds"][0]
        assert built["seeds"] == [first, first + 1, first + 2]
        scores = [own["score"] for own in built["scores"]]
        assert row["chosen_score"] == max(scores) == scores[built["chosen"]]
        assert row["rejected_score"] == min(scores) == scores[built["rejected"]]
        assert row["margin"] == row["chosen_score"] - row["rejected_score"]
        assert built["model"] == {"path": "painter", "weights": built["model"]["weights"]}
        assert built["judge"] == {"name": "builders.builds:Red"}
    samples = load(Jsonl(path=str(folder / "pairs.jsonl"))).samples
    for sample, row in zip(samples, found, strict=True):
        ready = decode(sample)
        for side in ("chosen", "rejected"):
            score = Red().score((), ready.examples[side][0].response[0])["score"]
            assert score == row[f"{side}_score"]
    assert len(list((folder / "media").iterdir())) == 10


def test_the_record_counts_everything_and_names_no_place(tmp_path: Path) -> None:
    strict = {"name": "best_of_n", "n": 3, "min_gap": 150}
    folder = build(painted(tmp_path / "out", builder=strict), ALONE)
    record = json.loads((folder / "build.json").read_text())
    kept = record["kept"]["pairs"]
    assert 0 < kept < 5 and record["kept"]["prompts with pairs"] == kept == len(rows(folder))
    assert record["left_out_in_all"] == {"prompts": 5 - kept, "pairs": 5 - kept}
    assert record["prompts"]["count"] == 5 and record["status"] == "finished"
    assert (
        record["model"]["encoding"] == "painter"
        and record["versions"]["torch"] == torch.__version__.split("+")[0]
    )
    for name, data in content(folder).items():
        assert name == "config.yaml" or str(tmp_path).encode() not in data
    assert not (folder / "parts").exists()


def test_the_same_command_again_changes_nothing(tmp_path: Path, whole: dict[str, bytes]) -> None:
    config = painted(tmp_path / "out")
    build(config, ALONE)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.name != ".lock"}
    build(config, ALONE)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert without_place(content(tmp_path / "out")) == whole


@pytest.mark.parametrize("size", [2, 3, 4])
def test_any_number_of_processes_gives_the_same_files(
    tmp_path: Path, whole: dict[str, bytes], size: int
) -> None:
    config = painted(tmp_path / "out")
    results = on_threads(size, lambda world: build(config, world))
    assert results == [tmp_path / "out"] * size
    assert without_place(content(tmp_path / "out")) == whole


@pytest.mark.parametrize("moment", ["before", "torn"])
def test_a_kill_at_any_file_operation_loses_nothing(tmp_path: Path, moment: Moment) -> None:
    """Of two blocks, a whole one and one with a single prompt."""
    with pytest.MonkeyPatch.context() as patch:
        operations = record_operations(patch)
        build(painted(tmp_path / "counted", num_prompts=3), ALONE)
    whole = without_place(content(tmp_path / "counted"))
    tearable = ("write_bytes", "remove_tree")
    places = [k for k, name in enumerate(operations) if moment == "before" or name in tearable]
    assert len(places) > 10
    for k in places:
        config = painted(tmp_path / f"{k}", num_prompts=3)

        def killed(k: int = k, config: Any = config) -> None:
            with pytest.MonkeyPatch.context() as patch:
                crash_at(patch, k, moment)
                build(config, ALONE)

        assert in_child(killed) == 137
        build(config, ALONE)
        assert without_place(content(tmp_path / f"{k}")) == whole, f"{operations[k]}, number {k}"


@dataclass(frozen=True)
class Deadly(Red):
    """A judge that ends its process, or signals it, at its n-th answer, unless a file says that it did."""

    mark: str = ""
    after: int = 8
    signum: int = 9

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """As Red."""
        count = len(list(Path(self.mark).iterdir()))
        if count <= self.after:
            (Path(self.mark) / str(count)).touch()
        if count == self.after:
            os.kill(os.getpid(), self.signum)
        return super().score(prompt, response)


def deadly(folder: Path, **fields: Any) -> Any:
    (folder / "mark").mkdir(exist_ok=True)
    judge = {"name": "builders.test_build_run:Deadly", "mark": str(folder / "mark"), **fields}
    return painted(folder / "out", judge=judge)


def test_a_killed_build_goes_on_with_the_prompts_that_are_missing(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    config = deadly(tmp_path)
    assert in_child(lambda: build(config, ALONE)) == -signal.SIGKILL
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "parts").iterdir()}
    assert sorted(path.name for path in parts) == ["000000.json", "000001.json"], "the first block is whole"
    assert json.loads((tmp_path / "out" / "build.json").read_text())["status"] == "running"
    sampled: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        from mmalign.builders import _work

        original = _work.Work._do
        patch.setattr(_work.Work, "_do", lambda work, block: (sampled.append(block), original(work, block)))
        build(config, ALONE)
    assert sampled == [1, 2]
    ours = [{**row, "built": None} for row in rows(tmp_path / "out")]
    theirs = [{**json.loads(line), "built": None} for line in whole["pairs.jsonl"].splitlines()]
    assert ours == theirs


def test_a_signal_ends_it_after_the_block(tmp_path: Path) -> None:
    config = deadly(tmp_path, after=3, signum=int(signal.SIGTERM))
    with pytest.raises(SystemExit) as stopped:
        build(config, ALONE)
    assert stopped.value.code == 143
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 2
    build(config, ALONE)
    assert len(rows(tmp_path / "out")) == 5


def test_a_fault_of_one_process_stops_all(tmp_path: Path) -> None:
    config = painted(tmp_path / "out", judge={"name": "builders.test_build_run:Broken"})
    first, second = on_threads(2, lambda world: build(config, world))
    assert isinstance(first, UserError) and isinstance(second, UserError)
    assert str(first) == str(second) == "prompt 'c2': is not red"


@dataclass(frozen=True)
class Broken(Red):
    """A judge that refuses one prompt."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """As Red."""
        if prompt[0].parts[0].data == "caption 2":
            raise UserError("is not red")
        return super().score(prompt, response)


def test_another_config_is_refused(tmp_path: Path) -> None:
    build(painted(tmp_path / "out"), ALONE)
    quiet = painted(tmp_path / "out", log={"progress": True})
    build(quiet, ALONE)
    before = content(tmp_path / "out")
    for changes, words in (
        ({"seed": 1}, "seed was 0, is 1"),
        ({"builder": {"name": "best_of_n", "n": 4}}, '"n": 3'),
        ({"batch": 3}, "batch was 2, is 3"),
        ({"num_prompts": 2}, "num_prompts was null, is 2"),
    ):
        with pytest.raises(UserError, match="holds a build of another config") as refused:
            build(painted(tmp_path / "out", **changes), ALONE)
        assert words in str(refused.value)
    assert content(tmp_path / "out") == before


def test_other_weights_and_other_prompts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = deadly(tmp_path)
    assert in_child(lambda: build(config, ALONE)) == -signal.SIGKILL
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Painter, "policy", torch.nn.Linear(1, 1, bias=False))
        with pytest.raises(
            UserError, match="model: its weights are not those that this build was begun with"
        ):
            build(config, ALONE)
    monkeypatch.setattr("builders.builds.Captions.samples", other_captions)
    with pytest.raises(UserError, match="prompts: they are not those that .* was begun with"):
        build(config, ALONE)


def other_captions(source: Any) -> Any:
    for number in range(5):
        prompt = (Message("text", (Part("text", f"caption {number + 1}"),)),)
        yield PreferenceSample(f"c{number}", {"chosen": (Example(prompt, (Part("text", "x"),)),)})


def test_a_folder_that_is_no_build_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="is not empty and holds no build"):
        build(painted(tmp_path / "mine"), ALONE)
    with pytest.raises(UserError, match="thesis.txt is a file; choose a folder"):
        build(painted(tmp_path / "mine" / "thesis.txt" / "out"), ALONE)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    finished = build(painted(tmp_path / "out"), ALONE)
    (finished / "pairs.jsonl").unlink()
    with pytest.raises(UserError, match=r"is finished but has no pairs\.jsonl"):
        build(painted(tmp_path / "out"), ALONE)


# ---------------------------------------------------------------- broken media of prompts


def shown(folder: Path, **options: Any) -> dict[str, Any]:
    """Sections of a build whose prompts show pictures, of which the second last is cut off."""
    listed = []
    for number in range(4):
        Image.effect_noise((32, 32), 50).convert("RGB").save(folder / f"{number}.png")
        listed.append({"id": f"r{number}", "prompt": "<image>paint", "images": [f"{number}.png"]})
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:300])
    (folder / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in listed))
    model = {"adapter": "vlm", "path": "nowhere"}
    return {"model": model, "prompts": {"source": "jsonl", "path": str(folder / "rows.jsonl"), **options}}


def test_a_broken_picture_of_a_prompt_is_left_out_or_stops_before_anything_is_made(tmp_path: Path) -> None:
    told = r"^rows\.jsonl row 3, image '2\.png': "
    with pytest.raises(UserError, match=told):
        build(painted(tmp_path / "out", **shown(tmp_path)), ALONE)
    assert not (tmp_path / "out").exists()
    for batch in (1, 3):  # of one the broken row is a block of its own
        sections = shown(tmp_path, on_error="skip") | {"batch": batch}
        folder = build(painted(tmp_path / f"of {batch}", **sections), ALONE)
        record = json.loads((folder / "build.json").read_text())
        assert [row["built"]["prompt_id"] for row in rows(folder)] == ["r0", "r1", "r3"]
        assert record["left_out"] == {BROKEN: 1} and re.match(told, record["skipped"][0])
        names = [row["images"][0] for row in rows(folder)]
        assert [(folder / name).exists() for name in names] == [True] * 3


# ---------------------------------------------------------------- clips


class Filmer(Painter):
    """Answers with clips of four frames."""

    def generate(self, model: Any, prompts: Any, seeds: Any) -> list[Part]:
        clips = []
        for seed in seeds:
            pixels = torch.randint(0, 256, (4, 3, 6, 8), generator=torch.Generator().manual_seed(seed))
            places = tuple(range(4))
            moments = tuple(i / 8 for i in places)
            clips.append(Part("video", Clip(pixels.to(torch.uint8), places, moments, 8.0, 4, "memory")))
        return clips


@dataclass(frozen=True)
class Bright:
    """A judge of a user's own, builders.test_build_run:Bright: how bright a clip is."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """The mean of all values."""
        return {"score": float(response.data.frames.float().mean())}


def test_clips_are_judged_and_come_back_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filming = replace(open_painter(), adapter=Filmer())
    monkeypatch.setattr(_run, "open_model", lambda *given: filming)
    folder = build(painted(tmp_path / "out", judge="builders.test_build_run:Bright"), ALONE)
    samples = load(Jsonl(path=str(folder / "pairs.jsonl"))).samples
    assert len(samples) == 5
    for sample, row in zip(samples, rows(folder), strict=True):
        ready = decode(sample, Frames(count=4))
        for side in ("chosen", "rejected"):
            (part,) = ready.examples[side][0].response
            (sampled,) = Filmer().generate(None, [None], [row["built"]["seeds"][row["built"][side]]])
            assert torch.equal(part.data.frames, sampled.data.frames)
            assert Bright().score((), part)["score"] == row[f"{side}_score"]
