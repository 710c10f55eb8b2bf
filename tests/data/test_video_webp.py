"""Animated WebP: painted numbers are the places, times are those of the file, damage is refused."""

import io
import random

import pytest
from bad_inputs import png
from data.clips import numbered, numbers
from PIL import Image

from mmalign.clips import Frames
from mmalign.data._video import decode_video
from mmalign.types import UserError

ALL = Frames(count=1000)


def webp(count: int = 12, shown: int | list[int] = 40) -> bytes:
    """`count` numbered frames, each shown for so many milliseconds."""
    pictures = [Image.fromarray(numbered(number)) for number in range(count)]
    stream = io.BytesIO()
    pictures[0].save(stream, "WEBP", save_all=True, append_images=pictures[1:], duration=shown, lossless=True)
    return stream.getvalue()


def test_painted_numbers_are_the_places() -> None:
    clip = decode_video(webp(), Frames(count=4))
    assert numbers(clip.frames) == list(clip.indices) == [0, 3, 7, 11]
    assert (clip.rate, clip.total, clip.reader) == (pytest.approx(25), 12, "pillow")
    assert clip.seconds == pytest.approx((0, 0.12, 0.28, 0.44))


def test_frames_may_be_shown_unevenly() -> None:
    clip = decode_video(webp(4, [100, 500, 20, 30]), ALL)
    assert clip.seconds == pytest.approx((0, 0.1, 0.6, 0.62)) and numbers(clip.frames) == [0, 1, 2, 3]
    assert clip.rate == pytest.approx(3 / 0.62)


def test_transparency_is_laid_on_white() -> None:
    dots = [Image.new("RGBA", (8, 6)) for _ in range(2)]
    for number, dot in enumerate(dots):
        dot.putpixel((number, 2), (200, 30, 20, 255))
    stream = io.BytesIO()
    dots[0].save(stream, "WEBP", save_all=True, append_images=dots[1:], duration=100, lossless=True)
    first, second = decode_video(stream.getvalue(), ALL).frames
    assert first[:, 2, 0].tolist() == second[:, 2, 1].tolist() == [200, 30, 20]
    assert first[:, 5, 7].tolist() == second[:, 2, 0].tolist() == [255, 255, 255]


def test_still_pictures_are_no_videos() -> None:
    stream = io.BytesIO()
    Image.fromarray(numbered(1)).save(stream, "WEBP")
    for data in (stream.getvalue(), png()):
        with pytest.raises(UserError, match="a still picture"):
            decode_video(data, ALL)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_what_is_cut_off_is_refused_with_what_is_left(share: float) -> None:
    data = webp()
    with pytest.raises(UserError, match=r"cut off: its data hold \d+ frames, its header promises more"):
        decode_video(data[: int(share * len(data))], ALL)


def test_limits() -> None:
    with pytest.raises(UserError, match="64x48 is more than model.frames.max_pixels 3071"):
        decode_video(webp(), Frames(max_pixels=3071))
    with pytest.raises(UserError, match="6 s long; model.frames.max_seconds is 5"):
        decode_video(webp(12, 500), Frames(max_seconds=5))


def test_broken_bytes_are_refused_or_read_but_never_fail_otherwise() -> None:
    random_, outcomes = random.Random(0), {"read": 0, "refused": 0}
    whole = webp(6)
    for _ in range(80):
        data = bytearray(whole)
        for _ in range(random_.choice([1, 3, 9])):
            data[random_.randrange(random_.choice([64, len(data)]))] = random_.randrange(256)
        try:
            decode_video(bytes(data), Frames(count=3))
            outcomes["read"] += 1
        except UserError as error:
            outcomes["refused"] += 1
            assert "\n" not in str(error)
    assert min(outcomes.values()) > 10
