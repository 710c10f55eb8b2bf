"""Decoding: every kind of picture becomes the upright RGB picture one sees."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_inputs import encoded, png
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from samples import pair

from mmalign.data._first_pass import first_pass
from mmalign.data._media import decode, decode_image
from mmalign.data._paths import File
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.types import Part, PreferenceSample, UserError

RED, WHITE = (200, 30, 20), (255, 255, 255)


def flat(color: Any, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.new(mode, size, color)


def test_plain_pictures_keep_their_values() -> None:
    data = png((9, 7))
    out = decode_image(data)
    assert (out.mode, out.size) == ("RGB", (9, 7))
    assert np.array_equal(np.asarray(out), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (flat(90, "L"), "PNG", (90, 90, 90)),
        (flat(1, "1"), "PNG", WHITE),
        (flat((*RED, 255), "RGBA"), "PNG", RED),
        (flat((*RED, 0), "RGBA"), "PNG", WHITE),  # a hidden colour must not show
        (flat((0, 0, 0, 128), "RGBA"), "PNG", (127, 127, 127)),
        (flat((40, 0), "LA"), "PNG", WHITE),
        (flat(RED).quantize(4), "PNG", RED),
        (flat(RED), "BMP", RED),
        (flat(RED), "TIFF", RED),
        (flat(RED), "PPM", RED),
        (flat(RED), "GIF", RED),
        (flat((0, 0, 0, 0), "CMYK"), "TIFF", WHITE),
        (flat((0, 255, 255, 0), "CMYK"), "TIFF", (255, 0, 0)),
    ],
)
def test_modes_and_formats(image: Image.Image, kind: str, expected: tuple[int, int, int]) -> None:
    out = decode_image(encoded(image, kind))
    assert (out.mode, out.size) == ("RGB", (6, 4))
    assert out.getpixel((2, 2)) == expected


def test_lossy_formats() -> None:
    for kind in ("JPEG", "WEBP"):
        found = np.asarray(decode_image(encoded(flat(RED), kind)))[2, 2].astype(int)
        assert np.abs(found - RED).max() <= 8


def test_palette_with_a_transparent_colour() -> None:
    image = flat(RED).quantize(4)
    index = image.getpixel((0, 0))
    assert decode_image(encoded(image, "PNG", transparency=index)).getpixel((2, 2)) == WHITE


def test_sixteen_bits_are_rescaled_not_clipped() -> None:
    deep = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    out = decode_image(encoded(Image.fromarray(deep), "PNG"))
    assert [out.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 100, 255]


@pytest.mark.parametrize("number", range(10))
def test_orientation_is_applied(number: int) -> None:
    """Each of the eight ways to hold a camera, as Pillow turns it; other numbers are none."""
    pixels = np.arange(40 * 20 * 3, dtype=np.uint8).reshape(20, 40, 3)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = number
    data = encoded(image, "PNG", exif=exif.tobytes())
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert decode_image(data).tobytes() == turned.tobytes()
    assert decode_image(data).size == ((20, 40) if number in (5, 6, 7, 8) else (40, 20))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_notes_that_cannot_be_read_turn_nothing(kind: str) -> None:
    """A camera's notes may be broken where the pixels are sound."""
    image = Image.new("RGB", (40, 20), WHITE)
    assert decode_image(encoded(image, kind, exif=b"Exif\0\0no notes")).size == (40, 20)
    assert decode_image(encoded(image, kind, exif=b"")).tobytes() == image.tobytes()


def test_endless_notes_are_told_as_what_they_are() -> None:
    notes = PngInfo()
    notes.add_text("workflow", "x" * 2_000_000, zip=True)
    with pytest.raises(UserError, match="^what is written beside its pixels takes too much memory"):
        decode_image(encoded(flat(RED), "PNG", pnginfo=notes))


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [flat(RED), flat((0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data).getpixel((0, 0)) == RED


def test_a_single_pixel_and_the_largest_aspect_are_pictures() -> None:
    assert decode_image(png((1, 1))).size == (1, 1)
    assert decode_image(png((200, 1))).size == (200, 1)


def test_pil_images_and_arrays() -> None:
    assert decode_image(flat((*RED, 0), "RGBA")).getpixel((0, 0)) == WHITE
    array = np.full((4, 6, 3), 0.2)
    assert decode_image(array).getpixel((5, 3)) == (51, 51, 51)
    assert decode_image((array * 255).astype(np.uint8)).size == (6, 4)
    assert decode_image(np.ones((4, 6, 1), np.float32)).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.full((4, 4, 3), np.inf, np.float32), "infinite"),
        (np.full((4, 4, 3), 2.0), r"\[0, 1\], got 2 to 2"),
        (np.full((4, 4, 3), 70, np.int64), "int64"),
        (np.zeros((4, 4, 2)), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "4x0"),
        (Image.new("RGB", (0, 5)), "0x5"),
        (Image.fromarray(np.full((2, 2), np.nan, np.float32)), "NaN"),
        (Image.fromarray(np.full((2, 2), 70_000, np.int32)), "16 bits"),
        (Image.new("L", (9000, 9000)), "64000000 pixels"),
        (None, "NoneType"),
        (
            b"\x89PNG\r\n\x1a\n" + bytes(40),
            "^the picture is broken: it begins as a PNG file and cannot be read$",
        ),
        (b"hello", r"^not a picture \(it starts with 'hello'\)"),
    ],
)
def test_values_that_are_no_picture(data: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        decode_image(data)


def test_a_shared_picture_is_decoded_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    part = Part("image", File(str(tmp_path), "a.png"))
    one = pair("a")
    both = {role: (replace(group[0], response=(part,)),) for role, group in one.examples.items()}
    out = decode(replace(one, examples=both))
    pictures = [out.examples[role][0].response[0].data for role in ("chosen", "rejected")]
    assert pictures[0] is pictures[1] and pictures[0].mode == "RGB"
    assert decode(one) is one


def test_videos_are_refused_by_name() -> None:
    one = pair("a")
    clip = {"chosen": (replace(one.examples["chosen"][0], response=(Part("video", b"x"),)),)}
    with pytest.raises(UserError, match="test row a, role 'chosen': holds a video; videos need"):
        decode(replace(one, examples=clip))


def test_real_pictures(test_data: Path) -> None:
    columns = {"images": "image", "rejected_image": None}
    photos = load(
        Jsonl(path=str(test_data / "image_text" / "coco_caption_pairs.jsonl"), columns=columns, limit=9)
    )
    seen = []

    def look(sample: PreferenceSample) -> tuple[str, ...]:
        seen.append(sample.examples["chosen"][0].prompt[0].parts[0].data)
        return ()

    first_pass(photos.samples, look)
    assert len(seen) == 9 and all(image.mode == "RGB" and min(image.size) > 200 for image in seen)
    ranked = {"response_images": "images", "images": None, "ranks": "rank"}
    path = test_data / "diffusion" / "preference_images" / "metadata.jsonl"
    pictures = [decode(sample) for sample in load(Jsonl(path=str(path), columns=ranked)).samples]
    assert sorted(len(sample.examples["responses"]) for sample in pictures) == [2, 4]
