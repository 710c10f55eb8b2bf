"""Runs on videos of which one hangs its decoder."""

import ctypes
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from data.clips import KINDS, video
from tiny_runs import Bench, add_vision, metrics

from mmalign.clips import Clip, Frames
from mmalign.data import _media, _video
from mmalign.training.run import run
from mmalign.types import UserError

pytestmark = [
    pytest.mark.multiprocess,
    pytest.mark.skipif(sys.platform != "linux", reason="the test's decoder reaches workers by forking"),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A tiny model for videos and six pairs; the third clip is of nine frames, the others of eight."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Bench(tmp_path_factory.mktemp("bench"))
    add_vision(bench)
    rows = []
    for i in range(6):
        (bench.folder / f"{i}.mp4").write_bytes(video(KINDS["mpeg4"], count=9 if i == 2 else 8))
        rows.append({"id": f"clip-{i}", "prompt": "what moves?", "videos": [f"{i}.mp4"]})
        rows[-1] |= {"chosen": "a red fox", "rejected": "the sky"}
    path = bench.folder / "videos.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    frames = {"count": 2, "timeout_s": 3.0}
    bench.model["video"] = {**bench.model["vlm"], "adapter": "video_lm", "frames": frames}
    bench.data["video"] = {"source": "jsonl", "path": str(path)}
    yield bench
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hangs inside C on a clip of nine frames, with the interpreter's lock held."""

    def decode(data: Any, frames: Frames) -> Clip:
        clip = _video.decode_video(data, frames)
        if clip.total == 9:
            ctypes.PyDLL(None).sleep(600)
        return clip

    monkeypatch.setattr(_media, "decode_video", decode)


def test_a_hanging_video_is_left_out_or_ends_the_run(bench: Bench) -> None:
    train = {"steps": 2, "batch": 5}
    reason = "videos.jsonl row 3, role 'chosen', video '2.mp4': gave no answer within 3 s"
    data = {**bench.data["video"], "on_error": "skip"}
    folder: Path = run(bench.config("video", "skip", data=data, train=train, lora={"rank": 4}))
    (row,) = [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]
    assert row["id"] == "clip-2" and reason in row["reason"]
    assert len(metrics(folder)) >= 2
    with pytest.raises(UserError, match=reason):
        run(bench.config("video", "stop", train=train, lora={"rank": 4}))
