"""Frames on disk: found by content and rule, bounded, made again where damaged, no part of what a run is."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bad_inputs import write_rows
from data.clips import KINDS, numbers, video

from mmalign import config
from mmalign.clips import Clip, Frames
from mmalign.data import _frame_cache
from mmalign.data._frame_cache import cached
from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.types import UserError

H264 = KINDS["h264"]


def clip_of(folder: Path, name: str, frames: Frames) -> Clip:
    row = {"prompt": "P", "chosen": "a", "rejected": "b", "videos": [name]}
    (sample,) = load(Jsonl(path=str(write_rows(folder / "x.jsonl", [row])), format="canonical")).samples
    return decode(sample, frames).examples["chosen"][0].prompt[0].parts[0].data


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "cache").rglob("*.safetensors"))


def refuse(*_: object) -> Clip:
    raise AssertionError("decoded again")


def test_a_clip_is_decoded_once_per_content_and_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(video(H264))
    shutil.copy(tmp_path / "a.mp4", tmp_path / "b.mp4")
    frames = Frames(count=4, cache=str(tmp_path / "cache"))
    first = clip_of(tmp_path, "a.mp4", frames)
    assert numbers(first.frames) == [0, 9, 19, 29] and len(entries(tmp_path)) == 1
    with monkeypatch.context() as patch:
        patch.setattr("mmalign.data._media.decode_video", refuse)
        again = clip_of(tmp_path, "b.mp4", frames)
        for other in (replace(frames, count=5), replace(frames, max_seconds=1.0)):
            with pytest.raises(AssertionError, match="decoded again"):
                clip_of(tmp_path, "a.mp4", other)
    assert torch.equal(again.frames, first.frames) and replace(again, frames=first.frames) == first
    assert clip_of(tmp_path, "a.mp4", replace(frames, scale_to=32 * 24)).frames.shape[2:] == (24, 32)
    assert len(entries(tmp_path)) == 2


def test_limits_hold_for_what_is_kept_too(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(video(H264))
    frames = Frames(count=4, cache=str(tmp_path / "cache"))
    clip_of(tmp_path, "a.mp4", frames)
    with pytest.raises(UserError, match="1 s long; model.frames.max_seconds is 1"):
        clip_of(tmp_path, "a.mp4", replace(frames, max_seconds=1.0))
    shutil.copy(tmp_path / "a.mp4", tmp_path / "list.m3u8")
    with pytest.raises(UserError, match="a playlist"):
        clip_of(tmp_path, "list.m3u8", frames)
    (tmp_path / "bad.mp4").write_bytes(video(H264)[:600])
    with pytest.raises(UserError, match="video 'bad.mp4': cannot be opened"):
        clip_of(tmp_path, "bad.mp4", frames)
    assert len(entries(tmp_path)) == 1


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(video(H264))
    frames = Frames(count=4, cache=str(tmp_path / "cache"))
    first = clip_of(tmp_path, "a.mp4", frames)
    (entry,) = entries(tmp_path)
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.write_bytes(data)
    with pytest.warns(UserWarning, match="is damaged and will be made again"):
        assert torch.equal(clip_of(tmp_path, "a.mp4", frames).frames, first.frames)


def test_the_folder_stays_within_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen parts of 2 KiB, entries of 768 bytes and a header each: at most one or two fit in a part."""
    monkeypatch.setattr(_frame_cache, "_BYTES", 1024)
    frames = Frames(cache=str(tmp_path / "cache"), cache_gb=32.0)
    made = [torch.full((1, 3, 16, 16), number, dtype=torch.uint8) for number in range(100)]
    for number, pixels in enumerate(made):
        clip = Clip(pixels, (0,), (0.0,), 24.0, 1, "memory")
        assert cached(number, frames, lambda clip=clip: clip) is clip
    held = sum(entry.stat().st_size for entry in entries(tmp_path))
    assert 16 * 1024 < held <= 32 * 1024 + 16 * 600  # the newest header of each part comes on top
    last = cached(99, frames, refuse)
    assert torch.equal(last.frames, made[99])
    large = Clip(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), (0,), (0.0,), 24.0, 1, "memory")
    before = entries(tmp_path)
    assert cached("large", frames, lambda: large) is large and entries(tmp_path) == before


def test_a_full_disk_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise UserError("cache: writing failed")

    monkeypatch.setattr("mmalign.data._cache.TensorCache.put", full)
    clip = Clip(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), (0,), (0.0,), 24.0, 1, "memory")
    with pytest.warns(UserWarning, match="frames are not kept: cache: writing failed"):
        assert cached("x", Frames(cache=str(tmp_path / "cache")), lambda: clip) is clip


def test_rules_of_the_options() -> None:
    with pytest.raises(ValueError, match="cache_gb: must be above 0, got 0"):
        Frames(cache_gb=0)
    assert Frames(cache="x").fingerprint() == Frames().fingerprint()


def test_where_frames_are_kept_is_no_part_of_what_a_run_is() -> None:
    path = str(Path(__file__).parents[2] / "configs" / "quickstart" / "video.yaml")
    plain = config.load(path)
    kept = config.load(path, ["model.frames.cache=elsewhere", "model.frames.cache_gb=3"])
    assert kept.model.frames.cache == "elsewhere"
    assert config.identity(kept) == config.identity(plain)
    assert config.identity(config.load(path, ["model.frames.count=5"])) != config.identity(plain)
    assert "cache" not in config.comparable(kept)["model"]["frames"]
