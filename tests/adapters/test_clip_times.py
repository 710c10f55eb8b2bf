"""What models are told of the times of frames: the true ones, whatever rule chose them."""

import re
from dataclasses import replace

import pytest
from more_vlm import save_more
from tiny_vlm import build_vlm, clip, save_vlm, vlm_pair

from mmalign.adapters._vision_lm import VisionLM
from mmalign.adapters._vision_processor import _metadata
from mmalign.types import Clip, Frames

RATE, TOTAL = 24.0, 1440  # a minute


def chosen(rule: Frames, total: int = TOTAL) -> Clip:
    """Frames of a video of constant rate."""
    places = rule.choose(total, RATE)
    seconds = tuple(place / RATE for place in places)
    return Clip(clip(1, frames=len(places)).frames, places, seconds, RATE, total, "pyav")


def uneven() -> Clip:
    """All four frames of a video that hurries and then waits: 4 frames in 13.3 s."""
    return Clip(clip(1).frames, (0, 1, 2, 3), (0.0, 0.1, 0.2, 10.0), 0.3, 4, "pyav")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VisionLM]:
    root = tmp_path_factory.mktemp("models")
    makers = {"qwen2_5_vl": save_vlm, "smolvlm": save_vlm, "qwen3_vl": save_more}
    return {name: build_vlm(save(name, root / name), video=True) for name, save in makers.items()}


def told(own: VisionLM, shown: Clip) -> list[float]:
    """Seconds that stand in the text for a clip, or between its pairs of frames."""
    row = own.prepare(vlm_pair("x", (shown,)), ("chosen",)).rows[0]
    if "row.second_per_grid_ts" in row.data:
        return [float(one) for one in row.data["row.second_per_grid_ts"]]
    text = own.tokenizer.decode(row.data["ids"])
    stamps = re.findall(r"<([\d.]+) seconds>", text)
    minutes = re.findall(r"from (\d\d):(\d\d):", text)
    return [float(one) for one in stamps] or [60.0 * int(m) + int(s) for m, s in minutes]


LEADING, BY_RATE = Frames("leading", 8, fps=2.0), Frames("fps", 8, fps=2.0)


def test_the_pace_that_a_clip_is_told_by(models: dict[str, VisionLM]) -> None:
    own = models["qwen2_5_vl"]
    assert told(own, chosen(LEADING)) == [1.0]  # two frames at two a second
    assert told(own, chosen(BY_RATE, 96)) == [1.0]
    assert told(own, chosen(Frames("uniform", 8))) == [15.0]  # 60 s in four pairs, as upstream counts
    assert told(own, chosen(Frames("segment", 8))) == [15.0]
    middle = chosen(Frames("uniform", 1440)).taken(range(480, 576, 12))  # 20 s to 24 s
    assert told(own, middle) == [1.0]


def test_the_places_that_clips_are_told_by(models: dict[str, VisionLM]) -> None:
    """Not those among the chosen frames."""
    assert told(models["qwen3_vl"], chosen(Frames("uniform", 4))) == [10.0, 50.0]
    assert told(models["qwen3_vl"], chosen(LEADING)) == [0.2, 1.2, 2.2, 3.2]  # 0.25 s with one digit
    assert told(models["smolvlm"], chosen(Frames("uniform", 4))) == [0.0, 19.0, 39.0, 59.0]


def test_varying_rates_are_told_by_their_true_times(models: dict[str, VisionLM]) -> None:
    assert told(models["qwen3_vl"], uneven()) == [0.1, 5.1]  # means of two: 0.05 and 5.1
    assert told(models["smolvlm"], uneven()) == [0.0, 0.0, 0.0, 10.0]


def test_constant_rates_are_told_as_they_are() -> None:
    for rule in (BY_RATE, Frames("uniform", 8), Frames("segment", 7), Frames("uniform", 1)):
        for total in (1440, 1435, 100, 5, 1):
            one = chosen(rule, total)
            found = _metadata(one)
            assert found.frames_indices == list(one.indices) and found.total_num_frames == total
            assert found.fps == RATE and found.duration == total / RATE
    rounded = chosen(Frames("uniform", 8), 100)  # as a container that counts milliseconds has it
    rounded = replace(rounded, seconds=tuple(round(second, 3) for second in rounded.seconds))
    assert _metadata(rounded).frames_indices == list(rounded.indices)
