"""A pair with a side that cannot be used goes out whole, counted, or stops the run; none takes its place."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import bomb_png, png
from clips import KINDS, can_write, video
from data.format_rows import answer_of, read_rows
from data.samples import example

from mmalign.adapters._clip_pixels import clip_of
from mmalign.clips import Frames
from mmalign.data._first_pass import first_pass
from mmalign.data._loader import Loader, Recipe
from mmalign.data._order import Order
from mmalign.data._pairing import PairRule
from mmalign.data._sources import Skipped
from mmalign.types import Example, Part, PreferenceSample, Prepared, Row, UserError

ROLES = ("chosen", "rejected")
BROKEN = {
    "cut off": (png((64, 64))[:-900], "broken or cut off"),
    "empty": (b"", "empty"),
    "too many pixels": (bomb_png(20_000, 10_000), "64000000 pixels"),
    "no picture": (b"<html>404</html>", "not a picture"),
    "missing": (None, "no such file"),
}


def pairs(folder: Path, kind: str = "image", ending: str = "png") -> list[PreferenceSample]:
    """Three pairs of files c0 and r0, c1 and r1, c2 and r2, which are yet to be written."""
    rows = [
        {
            "id": str(n),
            "prompt": f"P{n}",
            "chosen": {kind: f"c{n}.{ending}"},
            "rejected": {kind: f"r{n}.{ending}"},
        }
        for n in range(3)
    ]
    return read_rows(folder, *rows).samples


def fill(folder: Path, content: bytes, ending: str = "png") -> None:
    for name in (f"{side}{n}.{ending}" for side in "cr" for n in range(3)):
        (folder / name).write_bytes(content)


def spoil(file: Path, content: bytes | None) -> None:
    file.unlink()
    if content is not None:
        file.write_bytes(content)


@pytest.mark.parametrize("side", ROLES)
@pytest.mark.parametrize("what", BROKEN)
def test_one_broken_picture(what: str, side: str, tmp_path: Path) -> None:
    content, rule = BROKEN[what]
    samples = pairs(tmp_path)
    fill(tmp_path, png())
    spoil(tmp_path / f"{side[0]}1.png", content)
    with pytest.raises(UserError) as caught:
        first_pass(samples, lambda sample: ())
    line = str(caught.value)
    assert line.startswith(f"x.jsonl row 2, role {side!r}, image '{side[0]}1.png': ")
    assert rule in line and "\n" not in line
    passed = first_pass(samples, lambda sample: (), "skip")
    assert passed.kept == [samples[0], samples[2]]
    assert passed.skipped == [Skipped("1", "x.jsonl row 2", line)]
    assert "1 of 3 rows left out (33.3 %)" in passed.lines()[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, 7.0])
def test_a_picture_of_wild_numbers(value: float) -> None:
    sound, wild = np.full((8, 8, 3), 0.5), np.full((8, 8, 3), 0.5)
    wild[3, 3, 0] = value
    examples = {
        role: (Example(example("P", "").prompt, (Part("image", picture),)),)
        for role, picture in zip(ROLES, (sound, wild), strict=True)
    }
    broken = PreferenceSample("w", examples, origin="memory row 1")
    with pytest.raises(UserError, match="^memory row 1, role 'rejected', image: .*(NaN|lie in)"):
        first_pass([broken], lambda sample: ())


def test_of_a_list_only_the_pairs_with_the_broken_picture_go_out(tmp_path: Path) -> None:
    row = {"id": "L", "prompt": "P", "response_images": ["a.png", "b.png", "c.png"], "scores": [3, 2, 1]}
    samples = read_rows(tmp_path, row, pairs=PairRule("all")).samples
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(png() if name != "b" else b"")
    passed = first_pass(samples, lambda sample: (), "skip")
    assert [[answer_of(one, role) for role in ROLES] for one in passed.kept] == [
        ["image:a.png", "image:c.png"]
    ]
    assert len(passed.skipped) == 2


def prepare(sample: PreferenceSample, roles: Sequence[str]) -> Prepared:
    """The pictures' sizes, in place of an adapter's tensors."""
    rows = [
        Row(role, 0, {"size": np.array(sample.examples[role][0].response[0].data.size)}) for role in roles
    ]
    return Prepared(sample.id, tuple(rows))


def test_a_picture_that_breaks_during_the_run_leaves_its_pair_without_weight(tmp_path: Path) -> None:
    samples = pairs(tmp_path)
    fill(tmp_path, png())
    assert len(first_pass(samples, lambda sample: ()).kept) == 3
    spoil(tmp_path / "r1.png", png()[:-30])
    noted: list[tuple[int, Skipped]] = []
    loader = Loader(
        [samples],
        Order(0, (3,), 3),
        Recipe(prepare, ROLES, on_error="skip"),
        on_skip=lambda step, row: noted.append((step, row)),
    )
    (items,) = loader.steps(0, 1)
    assert {item.id: (item.weight, len(item.prepared.rows)) for item in items} == {
        "0": (1.0, 2),
        "1": (0.0, 0),
        "2": (1.0, 2),
    }
    assert [row.id for _, row in noted] == ["1"]
    with pytest.raises(UserError, match="x.jsonl row 2, role 'rejected', image 'r1.png'"):
        list(Loader([samples], Order(0, (3,), 3), Recipe(prepare, ROLES)).steps(0, 1))


def whole_clips(sample: PreferenceSample) -> tuple[str, ...]:
    """What a denoiser of clips asks of both sides: exactly as many frames as it is trained on."""
    for role in ROLES:
        clip_of(sample.examples[role][0].response, 8, f"{sample.origin}, role {role!r}")
    return ()


@pytest.mark.multiprocess
@pytest.mark.skipif(not can_write(KINDS["mpeg4"]), reason="this build cannot write MPEG-4")
@pytest.mark.parametrize("side", ROLES)
@pytest.mark.parametrize("what", ["short", "cut off", "missing"])
def test_one_broken_clip(what: str, side: str, tmp_path: Path) -> None:
    samples = pairs(tmp_path, "video", "mp4")
    sound = video(KINDS["mpeg4"], 12)
    fill(tmp_path, sound, "mp4")
    content = {"short": video(KINDS["mpeg4"], 5), "cut off": sound[: len(sound) // 2], "missing": None}[what]
    spoil(tmp_path / f"{side[0]}1.mp4", content)
    frames = Frames(count=8)
    with pytest.raises(UserError) as caught:
        first_pass(samples, whole_clips, frames=frames)
    line = str(caught.value)
    assert line.startswith(f"x.jsonl row 2, role {side!r}") and "\n" not in line
    assert "5 frames" in line or what != "short"
    passed = first_pass(samples, whole_clips, "skip", frames=frames)
    assert [one.id for one in passed.kept] == ["0", "2"]
    assert [row.id for row in passed.skipped] == ["1"]
