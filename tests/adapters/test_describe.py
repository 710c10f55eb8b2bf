"""Prepared rows shown to people: counts add up to the row, text is the tokenizer's own, media in short."""

from pathlib import Path
from typing import Any

import more_vlm
import pytest
import tiny_lm
import tiny_sd
import tiny_sdxl
import tiny_vlm
import torch

from mmalign.adapters._score_head import Head
from mmalign.adapters._vision_batch import units_of
from mmalign.adapters.diffusion import Diffusion
from mmalign.adapters.reward_head import RewardHead
from mmalign.adapters.text import Text
from mmalign.adapters.video_lm import VideoLm
from mmalign.adapters.vlm import Vlm
from mmalign.types import PreferenceSample, RowView

ROLES = ("chosen", "rejected")
CPU = torch.device("cpu")
PLACEHOLDER = {
    "llava": "<image>",
    "qwen2_5_vl": "<|image_pad|>",
    "smolvlm": "<image>",
    "llava_onevision": "<image>",
}


def views(adapter: Any, sample: PreferenceSample) -> list[tuple[list[int], RowView]]:
    rows = adapter.prepare(sample, ROLES).rows
    return [(row.data["ids"].tolist(), adapter.describe(row)) for row in rows]


def test_text(tmp_path: Path) -> None:
    adapter = Text(path=tiny_lm.save_tiny(tmp_path), max_length=100).build(CPU)
    for sample in tiny_lm.SAMPLES:
        for ids, view in views(adapter, sample):
            assert view.text + view.scored == adapter.tokenizer.decode(ids)
            assert sum(view.counts.values()) == len(ids) and view.limit == 100
            assert view.scored == adapter.tokenizer.decode(ids[view.counts["prompt"] :])
            assert view.scored.endswith("<|im_end|>") and view.media == () and view.pictures == ()
    section = {"adapter": "text", "path": str(tmp_path)}
    reward = RewardHead(section, Head(init="fresh")).build(CPU)
    row = reward.prepare(tiny_lm.SAMPLES[0], ROLES).rows[0]
    assert reward.describe(row).text == "the small red fox"


@pytest.mark.parametrize("family", tiny_vlm.FAMILIES)
def test_pictures_in_the_prompt(tmp_path: Path, family: str) -> None:
    adapter = Vlm(path=str(tiny_vlm.save_vlm(family, tmp_path))).build(CPU)
    placeholder = adapter.tokenizer.convert_tokens_to_ids(PLACEHOLDER[family])
    for sample in tiny_vlm.mixed_pairs():
        for role, (ids, view) in zip(ROLES, views(adapter, sample), strict=True):
            pictures = sum(part.kind == "image" for part in sample.examples[role][0].prompt[0].parts)
            assert view.counts["image"] == ids.count(placeholder)
            assert sum(view.counts.values()) == len(ids)
            assert PLACEHOLDER[family] not in view.text and "what is it?" in view.text
            places = [int(piece.split(" places")[0]) for piece in view.text.split("<image: ")[1:]]
            assert sum(places) == view.counts["image"] and bool(places) == bool(pictures)
            answer = sample.examples[role][0].response[0].data
            assert view.scored.startswith(answer) and answer not in view.text
            if family == "qwen2_5_vl":  # every picture stands between tokens of its own
                assert len(places) == len(view.media) == pictures
                sizes = [line.partition(": ")[2] for line in view.media]
                assert [
                    piece.split(">")[0].split("places, ")[1] for piece in view.text.split("<image: ")[1:]
                ] == sizes


def test_sizes_are_those_the_tower_reads(tmp_path: Path) -> None:
    adapter = Vlm(path=str(tiny_vlm.save_vlm("llava", tmp_path))).build(CPU)
    sample = tiny_vlm.vlm_pair("one", (tiny_vlm.picture(1, (64, 32)),))
    (_, view), _ = views(adapter, sample)
    assert view.media == ("image 1: 28x28",), "resized and cropped to the tower's own size"
    assert "<image: 4 places, 28x28>" in view.text and view.counts["image"] == 4
    two = tiny_vlm.vlm_pair("two", (tiny_vlm.picture(1), tiny_vlm.picture(2)))
    (_, view), _ = views(adapter, two)
    assert "<image: 8 places>" in view.text, "where one ends and the next begins cannot be seen"
    assert view.media == ("image 1: 28x28", "image 2: 28x28")


def test_tiles_and_frames(tmp_path: Path) -> None:
    smol = Vlm(path=str(tiny_vlm.save_vlm("smolvlm", tmp_path / "smol"))).build(CPU)
    (_, view), _ = views(smol, tiny_vlm.vlm_pair("one", (tiny_vlm.picture(1, (64, 32)),)))
    (line,) = view.media
    count = int(line.removeprefix("image 1: ").split(" tiles of ")[0])
    assert view.text.count("<image: 4 places>") == count > 1, "four places per tile, each told by itself"
    clips = VideoLm(path=str(tiny_vlm.save_vlm("qwen2_5_vl", tmp_path / "qwen"))).build(CPU)
    (_, view), _ = views(clips, tiny_vlm.vlm_pair("clip", (tiny_vlm.clip(1, frames=4),)))
    (line,) = view.media
    assert line.startswith("video 1: 4 frames of ") and f"places, {line[len('video 1: ') :]}>" in view.text


@pytest.mark.parametrize("tiny", [tiny_sd, tiny_sdxl])
def test_captions_and_square_pictures(tmp_path: Path, tiny: Any) -> None:
    adapter = Diffusion(path=str(tiny.save_pipeline(tmp_path))).build(CPU)
    sample = tiny_sd.pairs(1)[0]
    row = adapter.prepare(sample, ROLES).rows[0]
    view = adapter.describe(row)
    assert (view.scored, view.limit) == ("", 77)
    assert (
        view.counts["caption"] <= view.limit
        and sample.examples["chosen"][0].prompt[0].parts[0].data in view.text
    )
    assert torch.equal(view.pictures[0], row.data["pixels"])
    assert view.media == (f"picture: {adapter.resolution}x{adapter.resolution}",)


@pytest.mark.parametrize("family", ["smolvlm", "internvl"])
def test_clips_handed_over_as_pictures_are_told_as_clips(tmp_path: Path, family: str) -> None:
    """Four frames of four places; a picture is four places per tile."""
    save = more_vlm.save_more if family in more_vlm.MORE else tiny_vlm.save_vlm
    adapter = VideoLm(path=str(save(family, tmp_path))).build(CPU)
    clip, picture = tiny_vlm.clip(1, frames=4), tiny_vlm.picture(1, (96, 48))

    def told(*media: Any) -> tuple[int, int, tuple[str, ...]]:
        (ids, view), _ = views(adapter, tiny_vlm.vlm_pair("x", media))
        image, video = view.counts["image"], view.counts["video"]
        assert image + video == ids.count(adapter.reader.ids["image"]) > 0
        assert sum(view.counts.values()) == len(ids)
        for kind, count in (("image", image), ("video", video)):
            runs = view.text.split(f"<{kind}: ")[1:]
            assert sum(int(run.split(" places")[0]) for run in runs) == count
        return image, video, view.media

    tiles, none, (line,) = told(picture)
    assert none == 0 and line.startswith(f"image 1: {tiles // 4} tiles of ")
    frames = f"4 frames of {line.split()[-1]}"
    assert told(clip) == (0, 16, (f"video 1: {frames}",))
    assert told(clip, clip)[:2] == (0, 32)
    if family == "internvl":  # SmolVLM takes either
        lines = (line, f"video 1: {frames}", f"video 2: {frames}")
        assert told(clip, picture, tiny_vlm.clip(2, frames=4)) == (tiles, 32, lines)


def test_the_mark_of_a_clip_stays_with_encoded_rows(tmp_path: Path) -> None:
    adapter = VideoLm(path=str(more_vlm.save_more("internvl", tmp_path))).build(CPU)
    media = (tiny_vlm.picture(1), tiny_vlm.clip(1, frames=4))
    prepared = adapter.prepare(tiny_vlm.vlm_pair("x", media), ("chosen",))
    for one in (prepared, adapter.encode([prepared])[0]):
        assert [unit.shown for unit in units_of(one.rows[0])] == ["image", "video"]
        assert [unit.kind for unit in units_of(one.rows[0])] == ["image", "image"]
