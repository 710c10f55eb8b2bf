"""Views of pictures and clips: what each change does to pixels, order and prompt, and from which numbers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, Qwen2VLImageProcessor
from view_rows import PIXELS, clip, generator, made, media_of, picture, places, prompt, seen

from mmalign.clips import Clip
from mmalign.data import _views_media as changes
from mmalign.data._views import CHANGES, SEEN, change_of, check_views, unseen
from mmalign.types import Example, Message, Part, PreferenceSample, UserError, View

pytestmark = pytest.mark.usefixtures("one_thread")


# ---------------------------------------------------------------- pixels


def test_a_crop_is_a_box_of_the_stated_area_and_aspect_blown_up() -> None:
    height, width = 96, 112
    areas, aspects = [], []
    for seed in range(200):
        (frame,) = changes.crop(places(height, width), generator(seed))
        assert frame.shape == (3, height, width)
        columns, rows = frame[0].float(), frame[1].float()
        # a linear picture stays linear: its slope tells the size of the box
        assert (columns - columns[0]).abs().max() <= 1 and (rows - rows[:, :1]).abs().max() <= 1
        w = float(columns.max() - columns.min()) / 255 * (width - 1) + 1
        h = float(rows.max() - rows.min()) / 255 * (height - 1) + 1
        areas.append(w * h / (width * height))
        aspects.append(w / h)
    assert min(areas) > 0.005 and max(areas) < 0.22
    assert sum(areas) / 200 == pytest.approx(0.105, abs=0.01)
    assert min(aspects) > 0.6 and max(aspects) < 1.6
    assert sum(map(math.log, aspects)) / 200 == pytest.approx(0.0, abs=0.03)


def test_one_box_for_all_frames_of_a_clip() -> None:
    frames = changes.crop(places(30, 40, frames=5), generator(3))
    assert frames.shape == (5, 3, 30, 40)
    assert all(torch.equal(frame, frames[0]) for frame in frames)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (3, 2)])
def test_small_and_narrow_pictures_can_be_cropped(size: tuple[int, int]) -> None:
    for seed in range(20):
        assert changes.crop(places(*size), generator(seed)).shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("step", "signal", "sigma"),
    [
        (0, 0.999989, 0.004726),
        (300, 0.980984, 0.194089),
        (500, 0.863017, 0.505175),
        (999, 0.285042, 0.958515),
    ],
)
def test_worked_noise_levels(step: int, signal: float, sigma: float) -> None:
    assert changes.noise_level(step) == pytest.approx((signal, sigma), abs=1e-6)


def test_noise_is_that_of_step_500_clamped() -> None:
    grey = torch.full((2, 3, 200, 200), 128, dtype=torch.uint8)
    noisy = changes.noise(grey, generator()).double() / 255
    inside = noisy[(noisy > 0) & (noisy < 1)]
    mean, sigma = 128 / 255 * 0.863017, 0.505175
    # what a clamped Gaussian puts at 0, at 1 and below its mean
    share = {edge: 0.5 * math.erfc(abs(edge - mean) / sigma / math.sqrt(2)) for edge in (0.0, 1.0)}
    for edge, expected in share.items():
        assert float((noisy == edge).double().mean()) == pytest.approx(expected, abs=0.005)
    assert float((noisy < mean).double().mean()) == pytest.approx(0.5, abs=0.005)
    assert len(inside) > 0 and not torch.equal(noisy[0], noisy[1])
    # a wrapped value would put white far from where it can be
    white = changes.noise(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8), generator(1))
    assert float((white == 255).double().mean()) == pytest.approx(0.393, abs=0.02)


@pytest.mark.parametrize("processor", [CLIPImageProcessor, Qwen2VLImageProcessor])
def test_gray_is_nothing_to_a_processor_with_the_means_of_clip(processor: type) -> None:
    """Half a step of 8 bits over the smallest deviation, 0.26, is 0.0076."""
    still, moving = media_of(made(seen(picture(), clip(3)), "gray"))
    values = processor()(Image.fromarray(still), return_tensors="pt")["pixel_values"]
    assert 0 < values.abs().max() < 0.0076
    assert len(np.unique(still.reshape(-1, 3), axis=0)) == 1
    assert all(np.array_equal(frame, moving[0]) for frame in moving) and moving[0, 2].max() == 104


def test_black() -> None:
    example = made(seen(picture(), clip(3)), "black")
    assert [int(pixels.max()) for pixels in media_of(example)] == [0, 0]


@pytest.mark.parametrize("change", PIXELS)
def test_sizes_kinds_and_everything_else_stay(change: str) -> None:
    sample = seen(picture(1), clip(4), picture(2, (7, 64)))
    before, example = sample.examples["chosen"][0], made(sample, change)
    assert example.response is before.response
    for old, new in zip(before.prompt, example.prompt, strict=True):
        assert (old.speaker, [p.kind for p in old.parts]) == (new.speaker, [p.kind for p in new.parts])
    for was, now in zip(media_of(before), media_of(example), strict=True):
        assert was.shape == now.shape and now.dtype == np.uint8 and not np.array_equal(was, now)
    moved = example.prompt[0].parts[1].data
    assert replace(moved, frames=clip(4).frames).seconds == clip(4).seconds
    assert np.array_equal(media_of(sample.examples["chosen"][0])[0], np.asarray(picture(1))), "the row itself"


def test_pictures_of_every_turn_are_changed() -> None:
    later = Message("user", (Part("text", "and this?"), Part("image", picture(5))))
    one = Example((*prompt(picture(4)), later), (Part("text", "red"),))
    sample = PreferenceSample("a", {"chosen": (one,)}, origin="test row a")
    assert [int(p.max()) for p in media_of(made(sample, "black"))] == [0, 0]


# ---------------------------------------------------------------- frames out of order


def first_values(example: Example) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in media_of(example)[0]]


def test_reversed_frames_keep_the_time_stamps() -> None:
    moved = made(seen(clip(4)), "reversed_frames").prompt[0].parts[0].data
    assert moved.frames[:, 0, 0, 0].tolist() == [30, 20, 10, 0]
    assert moved.indices == clip(4).indices == (0, 3, 6, 9) and moved.seconds == clip(4).seconds


def test_shuffled_frames_are_a_permutation_and_never_the_first_order() -> None:
    orders = {tuple(first_values(made(seen(clip(3)), "shuffled_frames", seed))) for seed in range(60)}
    assert len(orders) == 5  # all but 0, 10, 20
    assert all(sorted(order) == [0, 10, 20] and order != (0, 10, 20) for order in orders)
    assert first_values(made(seen(clip(2)), "shuffled_frames")) == [10, 0]


def test_dropped_frames_are_a_run_of_half_of_them_and_their_neighbours_stand_in() -> None:
    orders = {tuple(first_values(made(seen(clip(4)), "dropped_frames", seed))) for seed in range(60)}
    assert orders == {(20, 20, 20, 30), (0, 0, 30, 30), (0, 10, 10, 10)}
    odd = {tuple(first_values(made(seen(clip(3)), "dropped_frames", seed))) for seed in range(60)}
    assert odd == {(10, 10, 20), (0, 0, 20), (0, 10, 10)}
    moved = made(seen(clip(4)), "dropped_frames").prompt[0].parts[0].data
    assert moved.seconds == clip(4).seconds and moved.indices == clip(4).indices, "a model is told times"


def test_pictures_beside_a_clip_keep_their_place() -> None:
    example = made(seen(picture(1), clip(2)), "reversed_frames")
    assert np.array_equal(media_of(example)[0], np.asarray(picture(1)))


# ---------------------------------------------------------------- other media, none


def test_other_media_bind_in_order_and_cyclically() -> None:
    own = seen(picture(1), clip(2, 1), picture(2), picture(3))
    partner = seen(clip(3, 7), picture(4, (9, 9)), picture(5))
    example = made(own, "other_image", partner=partner)
    expected = [picture(4, (9, 9)), clip(3, 7), picture(5), picture(4, (9, 9))]
    for found, wanted in zip(media_of(example), media_of(Example(prompt(*expected), ())), strict=True):
        assert np.array_equal(found, wanted)
    assert example.prompt[0].parts[-1] == Part("text", "what is it?")


def flat(shade: int, size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, (shade, 2 * shade, 0))


def together(*samples: PreferenceSample) -> PreferenceSample:
    """Several partners, as the loader hands them over."""
    return replace(samples[0], examples={"chosen": tuple(one.examples["chosen"][0] for one in samples)})


def test_the_mean_of_other_pictures_in_the_size_of_the_own_one() -> None:
    partners = together(seen(flat(10, (9, 9))), seen(flat(21, (80, 20))), seen(flat(30, (2, 3))))
    (found,) = media_of(made(seen(picture(1)), "mean_image", partner=partners))
    assert found.shape == np.asarray(picture(1)).shape == (30, 40, 3)
    assert (found == [20, 41, 0]).all(), "61 / 3 and 122 / 3, rounded once at the end"
    left = Image.fromarray(np.repeat(np.array([[[0] * 3, [200] * 3]], np.uint8), 40, axis=1))
    halves = together(seen(left), seen(flat(0, (2, 2))))
    (found,) = media_of(made(seen(picture(1)), "mean_image", partner=halves))
    assert found[:, :8].max() == 0 and found[:, -8:].min() == 100, "stretched, not cut out"


def test_every_picture_of_a_row_is_a_mean_and_takes_the_others_in_turn() -> None:
    partners = together(
        seen(clip(2, 1), flat(10, (5, 5)), flat(20, (5, 5))), seen(flat(30, (5, 5)), clip(2, 3))
    )
    example = made(seen(picture(1), clip(2), picture(2, (8, 8))), "mean_image", partner=partners)
    first, moving, second = media_of(example)
    assert (first == [20, 40, 0]).all() and (second == [25, 50, 0]).all()
    mean = (clip(2, 1).frames.float() + clip(2, 3).frames.float()) / 2
    assert np.abs(moving.astype(float) - mean.numpy()).max() <= 0.5


def test_frames_of_a_mean_clip_are_those_at_the_same_share_of_the_others() -> None:
    def shades(*values: int) -> Clip:
        frames = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 6, 8)
        return replace(clip(len(values)), frames=frames)

    partners = together(seen(shades(0, 20, 40, 60, 80, 100)), seen(shades(100)))
    (found,) = media_of(made(seen(clip(3)), "mean_image", partner=partners))
    assert found[:, 0, 0, 0].tolist() == [50, 70, 90]
    assert (
        made(seen(clip(3)), "mean_image", partner=partners).prompt[0].parts[0].data.seconds == clip(3).seconds
    )


def test_no_image_leaves_the_text() -> None:
    example = made(seen(picture(1), clip(2)), "no_image")
    assert example.prompt == prompt()
    bare = Example((Message("user", (Part("image", picture()),)), *prompt()), ())
    sample = PreferenceSample("a", {"chosen": (bare,)}, origin="test row a")
    assert made(sample, "no_image").prompt[0] == Message("user", (Part("text", ""),))


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("change", [name for name, change in CHANGES.items() if change.media])
def test_rows_without_media_are_refused_in_one_line(change: str) -> None:
    line = (
        r"^test row a: role 'odd' is made of 'chosen' by \w+, but the prompt holds no [a-z ]*video; leave the"
    )
    with pytest.raises(UserError, match=line) as error:
        check_views(seen(), {"odd": View("chosen", change)})
    assert "\n" not in str(error.value)
    check_views(seen(clip(2)), {"odd": View("chosen", change)})
    if CHANGES[change].media == SEEN:
        check_views(seen(picture()), {"odd": View("chosen", change)})
    else:
        with pytest.raises(UserError, match="holds no video"):
            check_views(seen(picture()), {"odd": View("chosen", change)})


def test_a_clip_of_one_frame_has_no_order() -> None:
    with pytest.raises(UserError, match="holds a clip of one frame, which has no order"):
        check_views(seen(clip(1)), {"odd": View("chosen", "reversed_frames")})
    check_views(seen(clip(1)), {"odd": View("chosen", "crop")})


def test_a_prompt_of_pictures_alone_has_no_form_without_them() -> None:
    with pytest.raises(UserError, match="holds nothing but media"):
        only = Example((Message("user", (Part("image", picture()), Part("text", " \n"))),), ())
        check_views(PreferenceSample("a", {"chosen": (only,)}), {"odd": View("chosen", "no_image")})


def test_changes_of_media_need_an_adapter_that_reads_them() -> None:
    for name, change in CHANGES.items():
        views = {"odd": View("chosen", name)}
        assert (unseen(views, frozenset()) is None) == (not change.media)
        assert unseen(views, frozenset({"video"})) is None
    assert unseen({"odd": View("chosen", "crop")}, frozenset({"image"})) is None
    assert unseen({"odd": View("chosen", "reversed_frames")}, frozenset({"image"})) == "video"
    with pytest.raises(UserError, match="unknown change 'blur'; known: other_response, crop"):
        change_of("odd", View("chosen", "blur"))


@pytest.mark.parametrize(("change", "count"), [("crop", 2), ("other_response", 2), ("mean_image", 0)])
def test_other_rows_that_a_change_does_not_take_are_refused(change: str, count: int) -> None:
    with pytest.raises(UserError, match=f"^view 'odd': {change} cannot be made of {count} other rows$"):
        change_of("odd", View("chosen", change, count))
