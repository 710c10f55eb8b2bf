"""Errors of clips by temporal segment: which latent frame belongs to which, and means over each."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_subject import ROLES
from contract import Case
from tiny_sd import prompt

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters._segments import by_segment, segment_of, shares
from mmalign.adapters.diffusion import Diffusion
from mmalign.data._row_cache import RowCache
from mmalign.types import Clip, Example, Frames, LogProbs, Part, PreferenceSample, UserError

CPU = torch.device("cpu")
SEGMENTS = frozenset({"segments"})


def test_frames_belong_to_the_segment_that_holds_their_middle() -> None:
    assert segment_of(6, 3) == [0, 0, 1, 1, 2, 2]
    assert segment_of(5, 2) == [0, 0, 1, 1, 1]
    assert segment_of(3, 2) == [0, 1, 1]
    assert segment_of(21, 4) == [0] * 5 + [1] * 5 + [2] * 6 + [3] * 5
    for frames in range(1, 30):
        for count in range(1, frames + 1):
            found = segment_of(frames, count)
            assert found == sorted(found) and set(found) == set(range(count))
            sizes = [found.count(one) for one in range(count)]
            assert max(sizes) - min(sizes) <= 1


def test_shares_are_means() -> None:
    held = shares(3, torch.tensor([2, 1]))
    assert held.tolist() == [[[1, 0, 0], [0, 0.5, 0.5]], [[pytest.approx(1 / 3)] * 3, [0, 0, 0]]]


def test_worked_errors() -> None:
    """Squares 1, 4, 9 of three frames: segments of one and of two frames; a draw of twice the weight."""
    frames = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1, 1).expand(2, 2, 3, 2, 2)
    index = torch.zeros(1, dtype=torch.long)
    known = torch.tensor([[0.25, 0.75]])
    scored = LogProbs(known, known > 0, "surrogate", "draw", index, index, timestep=known)
    factors = torch.tensor([[[-0.5, -1.0]], [[1.0, 1.0]]])
    found = by_segment(scored, frames, torch.zeros_like(frames), factors, torch.tensor([2]))
    assert found.unit == "segment" and found.mask.tolist() == [[True, True]]
    assert found.error is not None and found.error.tolist() == [[1.0, 6.5]]
    assert found.values.tolist() == [[-0.75, -0.75 * 6.5]]
    assert found.timestep is not None and found.timestep.tolist() == [[0.5, 0.5]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("segments")
    for name in ("modelscope", "wan"):
        tiny.FAMILIES[name](base / name, 0)
    return base


def adapter(folder: Path, name: str, **settings: object) -> Denoiser:
    side, count = (16, 4) if name == "modelscope" else (32, 9)
    config = Diffusion(str(folder / name), resolution=side, frames=Frames("leading", count, 8.0))
    return replace(config, **settings).build(CPU)  # type: ignore[arg-type]


def clip(seed: int, count: int, side: int) -> Clip:
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(seed))
    times = tuple(i / 8 for i in range(count))
    return Clip(pixels.to(torch.uint8), tuple(range(count)), times, 8.0, count, "memory")


def pair(made: Denoiser, name: str, segments: list[int] | None) -> PreferenceSample:
    count, side = int(made.num_frames or 0), made.resolution
    examples = {
        role: (Example(prompt("cat"), (Part("video", clip(len(name) + i, count, side)),)),)
        for i, role in enumerate(ROLES)
    }
    labels = {} if segments is None else {"segments": segments}
    return PreferenceSample(name, examples, labels, origin=f"pairs.jsonl row {name}")


@pytest.mark.parametrize("name", ["modelscope", "wan"])
def test_segments_hold_the_error_of_the_whole(folder: Path, name: str) -> None:
    """One segment is the clip's own score; single frames have its mean; rows may differ in number."""
    made = adapter(folder, name, num_draws=2, caption_dropout=0.0)
    frames = int(made._latent_frames or 0)
    samples = (pair(made, "one", [1]), pair(made, "every", [1] * frames), pair(made, "two", [1, -1]))
    batch = Case(made, samples).batch()
    draw = made.draw(batch, [1, 2, 3])
    with torch.no_grad():
        plain = made.logprobs(made.policy, batch, draw, frozenset())
        cut = made.logprobs(made.policy, batch, draw, SEGMENTS)
        whole = made.logprobs(made.policy, batch, draw, frozenset({"prediction"}))
    assert cut.unit == "segment" and cut.values.shape == (6, frames) and cut.error is not None
    counts = [1, 1, frames, frames, 2, 2]
    assert cut.mask.sum(-1).tolist() == counts and not cut.values[~cut.mask].any()
    assert torch.allclose(cut.total()[:4], plain.total()[:4], rtol=1e-5)
    assert torch.allclose(cut.mean_error()[:4], plain.mean_error()[:4], rtol=1e-5)
    assert whole.prediction is not None and whole.target is not None
    squares = (whole.prediction - whole.target).square().mean((1, 2, 4, 5))  # [N, F]: draws, channels, places
    held = torch.tensor(segment_of(frames, 2))
    expected = torch.stack([squares[4:, held == one].mean(-1) for one in (0, 1)], -1)
    assert torch.allclose(cut.error[4:, :2], expected, rtol=1e-4)


def test_a_number_for_all_rows(folder: Path) -> None:
    made = adapter(folder, "modelscope", segments=2)
    batch = Case(
        made,
        (
            pair(made, "a", None),
            pair(made, "b", [0, 1]),
        ),
    ).batch()
    assert batch.inputs["segments"].tolist() == [2] * 4
    bare = adapter(folder, "modelscope")
    batch = Case(bare, (pair(bare, "a", None),)).batch()
    with pytest.raises(UserError, match="segments: a row has no label of that name"):
        bare.logprobs(bare.policy, batch, bare.draw(batch, [1]), SEGMENTS)
    one, two = (made.prepare(pair(made, "a", label), ROLES).rows[0].key for label in (None, [1, 1]))
    assert one == two != bare.prepare(pair(bare, "a", None), ROLES).rows[0].key


def test_rows_found_by_their_content_have_the_number_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    """The number is no part of what a sample is read from, by which encoded rows are found again."""
    for number in (2, 4):
        made = adapter(folder, "modelscope", segments=number)
        cache = RowCache(str(tmp_path), made.fingerprint())
        found = cache.find("a", "content", {})
        assert found is None, f"rows of {found and found.rows[0].data['segments']} segments, not {number}"
        (encoded,) = made.encode([replace(made.prepare(pair(made, "a", None), ROLES), content="content")])
        known: dict[str, Mapping[str, torch.Tensor]] = {}
        cache.index(replace(encoded, rows=tuple(cache.store(row, known) for row in encoded.rows)))
        again = cache.find("a", "content", {})
        assert again is not None and int(again.rows[0].data["segments"]) == number


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    made = adapter(folder, "modelscope", segments=2)
    with pytest.raises(UserError, match="row a: label segments has 3 numbers, model.segments is 2"):
        made.check(pair(made, "a", [1, 0, 1]), ROLES)
    with pytest.raises(UserError, match="row a: label segments has 5 numbers for 4 latent frames"):
        bare = adapter(folder, "modelscope")
        bare.check(pair(bare, "a", [1] * 5), ROLES)
    with pytest.raises(UserError, match="model.segments: 5 of a clip with 4 latent frames"):
        adapter(folder, "modelscope", segments=5)
    with pytest.raises(ValueError, match="segments: must be 1 or more, got 0"):
        Diffusion("x", segments=0)


def test_pictures_have_none(tmp_path: Path) -> None:
    from tiny_sd import pairs, save_pipeline

    folder = save_pipeline(tmp_path / "sd")
    made = Diffusion(str(folder)).build(CPU)
    with pytest.raises(UserError, match="row s0: label segments is of clips, and this model makes pictures"):
        made.check(replace(pairs(1)[0], labels={"segments": [1]}), ROLES)
    with pytest.raises(UserError, match="model.segments: 2 of a clip with no latent frames"):
        Diffusion(str(folder), segments=2).build(CPU)
