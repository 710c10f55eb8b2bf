"""Decoding: whatever a row gave as a picture -> an upright 8-bit RGB PIL image; as a video -> a `Clip`.

Rules for pictures, the same for every source: EXIF orientation is applied, where it can be read;
transparency is laid on white; 16-bit values are rescaled, not clipped; of an animation or a multi-page file
the first frame counts; more than 64 million pixels, an edge of 0 or an aspect ratio above 200 is an error.
Colour profiles are not applied. Those for videos are told in `_video.py`.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mmalign.clips import Clip, Frames
from mmalign.data._digest import digest
from mmalign.data._frame_cache import cached
from mmalign.data._frame_folders import frames_content, read_folder
from mmalign.data._paths import File, folder_of, read_file
from mmalign.data._video import decode_video, refuse_playlist
from mmalign.data._video_parts import CutFile, within
from mmalign.data._workers import guarded
from mmalign.types import Example, Message, Part, PreferenceSample, UserError

MAX_PIXELS = 64_000_000
MAX_ASPECT = 200
# A short list on purpose: some of the other decoders start helper programs or are rarely exercised.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError, struct.error)


def decode(sample: PreferenceSample, frames: Frames | None = None) -> PreferenceSample:
    """The same sample with a PIL RGB image in every image part and a Clip in every video part.

    `frames` says how clips are cut from videos; None refuses them. In a worker process `frames.timeout_s`
    limits the time for each video (see `guarded`).

    Raises UserError naming the row, the role (but that of a prompt alone), the picture and the rule. A
    picture or video that several roles share is decoded once and shared.
    """
    if all(_is_text(example) for examples in sample.examples.values() for example in examples):
        return sample
    sample = replace(sample, labels=with_mask(sample.labels, sample.origin or sample.id))
    done: dict[Any, Part] = {}
    examples = {}
    for role, group in sample.examples.items():
        where = sample.origin or sample.id
        at = _Place(sample.id, where if role == "prompt" else f"{where}, role {role!r}")
        examples[role] = tuple(
            replace(
                example,
                prompt=tuple(
                    Message(turn.speaker, tuple(_part(part, at, done, frames) for part in turn.parts))
                    for turn in example.prompt
                ),
                response=tuple(_part(part, at, done, frames) for part in example.response),
            )
            for example in group
        )
    return replace(sample, examples=examples)


def most_videos(samples: Sequence[PreferenceSample]) -> int:
    """How many videos have to be decoded for one sample, at most; one that is shared counts once."""
    return max(map(_num_videos, samples), default=0)


def _num_videos(sample: PreferenceSample) -> int:
    examples = (example for group in sample.examples.values() for example in group)
    parts = (part for example in examples for parts in _turns(example) for part in parts)
    return len({media_key(part) for part in parts if part.kind == "video"})


class _Place(NamedTuple):
    sample: str
    where: str


def _turns(example: Example) -> tuple[tuple[Part, ...], ...]:
    return (*(turn.parts for turn in example.prompt), example.response)


def _is_text(example: Example) -> bool:
    return all(part.kind == "text" for parts in _turns(example) for part in parts)


def media_key(part: Part) -> Any:
    """What a part is decoded once by: its kind and file, or the value itself while it is alive."""
    return part.kind, part.data if isinstance(part.data, File) else id(part.data)


def with_mask(labels: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Labels with `mask`, where it is there, as numbers [h, w]: an upright grey picture, white 1 and black 0.
    Raises UserError, starting with `where`."""
    mask = labels.get("mask")
    if mask is None or (isinstance(mask, np.ndarray) and mask.dtype == np.float32 and mask.ndim == 2):
        return labels
    try:
        grey = np.asarray(decode_image(mask).convert("L"), dtype=np.float32) / 255.0
    except UserError as error:
        raise UserError(f"{where}, label mask: {error}") from None
    if not grey.any():
        raise UserError(f"{where}, label mask: is black all over; white marks where the pictures count")
    return {**labels, "mask": grey}


def _part(part: Part, at: _Place, done: dict[Any, Part], frames: Frames | None) -> Part:
    if part.kind == "text":
        return part
    key = media_key(part)
    if key not in done:
        if part.kind == "video" and frames is None:
            needed = "model.adapter: video_lm, or diffusion with a model that makes clips"
            raise UserError(f"{at.where}: holds a video; videos need {needed}")
        try:
            done[key] = Part(part.kind, _decoded(part, at, frames))
        except UserError as error:
            said = str(error)
            if isinstance(part.data, File):  # which is named already
                said = said.removeprefix(f"{part.data.name!r}: ")
            raise UserError(f"{at.where}, {_name(part)}: {said}") from None
    return done[key]


def _decoded(part: Part, at: _Place, frames: Frames | None) -> Image.Image | Clip:
    if frames is None or part.kind == "image":
        return decode_image(part.data)
    with guarded(digest(at.sample), f"{at.where}, {_name(part)}", frames.timeout_s):
        return _clip(part.data, frames)


def _clip(data: Any, frames: Frames) -> Clip:
    """The chosen frames of a clip, decoded, or from where `frames` keeps them."""
    if isinstance(data, bytes):
        return cached(data, frames, lambda: decode_video(data, frames))
    if not isinstance(data, File):
        return decode_video(data, frames)
    if isinstance(data, CutFile):
        return _clip(data.whole, within(frames, data))
    refuse_playlist(data)
    if folder_of(data) is None:
        return _clip(read_file(data), frames)
    content = None if frames.cache is None else frames_content(data)
    return cached(content, frames, lambda: decode_video(read_folder(data, frames, decode_image), frames))


def _name(part: Part) -> str:
    return f"{part.kind} {part.data.name[:120]!r}" if isinstance(part.data, File) else part.kind


def decode_image(data: Any) -> Image.Image:
    """One picture (File, bytes, PIL image, or array [H, W], [H, W, 1 | 3 | 4]) as an upright RGB image.

    Arrays hold 8-bit values, or floats in [0, 1]. Raises UserError with the rule that was broken.
    """
    if isinstance(data, File):
        data = read_file(data)
    if isinstance(data, np.ndarray):
        data = _from_array(data)
    if isinstance(data, bytes):
        if not data:
            raise UserError("the file is empty")
        return _from_bytes(data)
    if isinstance(data, Image.Image):
        _check_size(data.size)
        return _upright_rgb(data)
    raise UserError(f"a picture must be a file, bytes, a PIL image or an array, got {type(data).__name__}")


_SIGNS = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"RIFF": "WEBP"}


def _from_bytes(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image.size)
                image.load()
                return _upright_rgb(image)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"more than {MAX_PIXELS} pixels; make it smaller") from None
    except Image.UnidentifiedImageError:
        if begun := next((kind for sign, kind in _SIGNS.items() if data.startswith(sign)), None):
            raise UserError(
                f"the picture is broken: it begins as a {begun} file and cannot be read"
            ) from None
        start = data[:16].decode("latin-1").strip()
        kinds = ", ".join(FORMATS)
        raise UserError(f"not a picture (it starts with {start!r}); known formats: {kinds}") from None
    except _BROKEN as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "MAX_TEXT" in reason:
            raise UserError(
                "what is written beside its pixels takes too much memory; save it without"
            ) from None
        raise UserError(f"the picture is broken or cut off: {reason}") from None


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise UserError(f"an array must be [H, W] or [H, W, 1, 3 or 4], got shape {list(array.shape)}")
    _check_size((array.shape[1], array.shape[0]))
    if array.dtype.kind == "f":
        array = _scale_floats(array)
    if array.dtype != np.uint8:
        raise UserError(f"an array must hold 8-bit values or floats in [0, 1], got {array.dtype}")
    return Image.fromarray(array)


def _scale_floats(array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        raise UserError("the picture holds NaN or infinite values")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        raise UserError(f"float values must lie in [0, 1], got {low:g} to {high:g}")
    return (array * 255.0).round().astype(np.uint8)


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise UserError(f"the picture is {width}x{height}; an edge of 0 holds nothing")
    if width * height > MAX_PIXELS:
        raise UserError(f"{width}x{height} is more than {MAX_PIXELS} pixels; make it smaller")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(f"{width}x{height}: one edge is more than {MAX_ASPECT} times the other")


_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _turned(image: Image.Image) -> Image.Image:
    """The picture as its EXIF says that it is held. Pixels are sound though EXIF may not be: what is broken
    there, and the numbers of no turn, turn nothing."""
    image.load()
    with suppress(*_BROKEN):
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
        return image if turn is None else image.transpose(turn)
    return image


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Orientation, bit depth, transparency and mode, in this order: the first is lost with the metadata."""
    image = _turned(image)
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise UserError(
                f"grey values {deep.min()} to {deep.max()} do not fit 16 bits; convert the picture"
            )
        return Image.fromarray((deep / 257.0).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(_scale_floats(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, clear).convert("RGB")
    return image.convert("RGB")
