"""Errors of clips: a mean over every dimension of [C, F, h, w]; and which clips a pair may hold."""

import dataclasses
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_subject import ROLES, Subject, drawn, error
from adapters.tiny_sd import prompt
from torch import Tensor

from mmalign.adapters._noise import mean_error
from mmalign.types import Clip, Example, Frames, Part, PreferenceSample, UserError


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tiny.FAMILIES["modelscope"](tmp_path_factory.mktemp("clips") / "modelscope", 0)
    return Subject("modelscope", folder, lambda *_: torch.zeros(()))


# ---------------------------------------------------------------- the mean


def test_the_mean_takes_every_dimension_of_a_clip() -> None:
    """Columns of unequal errors: 0, 1, 4 and 9 give 3.5, whichever column is which."""
    target = torch.zeros(2, 3, 5, 6, 4)
    prediction = torch.arange(4.0).expand_as(target)
    assert mean_error(prediction, target).tolist() == [3.5, 3.5]
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        assert mean_error(prediction[..., order], target[..., order]).tolist() == [3.5, 3.5]


@torch.no_grad()
@pytest.mark.parametrize("axis", [-1, -2, -3])
def test_only_the_model_knows_which_column_is_which(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, axis: int
) -> None:
    """Moving columns, rows or frames of the rejected clip and its noise alike leaves all errors, and so the
    loss, of a network that knows no places; another order of the noise alone does not."""
    adapter = subject.adapter(vae_sample=False)
    monkeypatch.setattr(adapter, "_denoise", lambda model, x, time, told: 0.9 * torch.tanh(x))
    batch = subject.case(adapter).batch()
    draw = drawn(adapter, batch, drop=torch.tensor([False, False]))
    clean, noise = batch.inputs["mean"], draw["noise"][batch.row_sample]
    order = torch.randperm(clean.shape[axis], generator=torch.Generator().manual_seed(1))
    rejected = batch.rows_of("rejected")

    def errors(latents: Tensor, noise: Tensor) -> Tensor:
        moved = dataclasses.replace(batch, inputs={**batch.inputs, "mean": latents})
        return error(adapter, moved, {**draw, "row_noise": noise})

    def reordered(values: Tensor) -> Tensor:
        changed = values.clone()
        changed[rejected] = values[rejected].index_select(axis, order)
        return changed

    base = errors(clean, noise)
    assert torch.allclose(errors(reordered(clean), reordered(noise)), base, rtol=1e-6)
    other = errors(clean, reordered(noise))
    assert float(((other - base).abs() / base)[rejected].min()) > 1e-5


# ---------------------------------------------------------------- which clips


def clip(frames: int, side: int = 16, rate: float = 8.0, width: int | None = None) -> Clip:
    pixels = torch.randint(
        0, 256, (frames, 3, side, width or side), generator=torch.Generator().manual_seed(0)
    )
    times = tuple(i / rate for i in range(frames))
    return Clip(pixels.to(torch.uint8), tuple(range(frames)), times, rate, frames, "memory")


def pair_of(*sides: Any) -> PreferenceSample:
    examples = {
        role: (Example(prompt("a cat"), (side if isinstance(side, Part) else Part("video", side),)),)
        for role, side in zip(ROLES, sides, strict=True)
    }
    return PreferenceSample("p", examples, origin="pairs.jsonl row 3")


def test_a_clip_of_another_number_of_frames_is_refused(subject: Subject) -> None:
    adapter = subject.adapter()  # 4 frames
    for count in (3, 5):
        with pytest.raises(UserError) as caught:
            adapter.check(pair_of(clip(4), clip(count)), ROLES)
        assert str(caught.value) == (
            f"pairs.jsonl row 3: rejected: video gives {count} frames ({count} in all), the model is trained "
            "on 4; leave the row out, or lower model.frames.count"
        )


def test_anything_but_one_decoded_clip_is_refused(subject: Subject) -> None:
    adapter = subject.adapter()
    for wrong, message in (
        (Part("text", "a cat"), "response must be exactly one video, got text$"),
        (Part("text", "a/1.mp4"), r'got text; give \{"video": "a/1.mp4"\} in place of the bare text$'),
        (Part("video", "a.mp4"), "video must be decoded first, got str"),
    ):
        with pytest.raises(UserError, match=message):
            adapter.check(pair_of(clip(4), wrong), ROLES)


@torch.no_grad()
def test_sides_of_other_sizes_and_rates_are_taken_and_brought_to_one_size(subject: Subject) -> None:
    """Every frame is resized to cover the square and its centre is kept, as a picture is; a clip that is too
    small is enlarged, which is counted."""
    adapter = subject.adapter()
    sample = pair_of(clip(4, side=40, width=24), clip(4, side=12, rate=25.0))
    assert list(adapter.check(sample, ROLES)) == ["clips enlarged"]
    prepared = adapter.prepare(sample, ROLES)
    assert [tuple(row.data["pixels"].shape) for row in prepared.rows] == [(4, 3, 16, 16)] * 2
    (encoded,) = adapter.encode([prepared])
    assert [tuple(row.data["mean"].shape) for row in encoded.rows] == [(4, 4, 8, 8)] * 2
    view = adapter.describe(prepared.rows[0])
    assert view.media == ("clip: 4 frames of 16x16",) and len(view.pictures) == 4


def test_both_sides_are_cut_by_one_rule(subject: Subject) -> None:
    """Left to itself the adapter takes the first frames at the family's own rate: 16 at 8 per second."""
    usual = Subject("modelscope", subject.folder, subject.predict).adapter(frames=None)
    assert usual.frames == Frames("leading", 16, 8.0)
    assert usual.frames.choose(100, 24.0) == tuple(range(0, 48, 3))
    assert usual.frames.choose(60, 24.0) == usual.frames.choose(100, 24.0)
