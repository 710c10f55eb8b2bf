"""Pictures and videos of a build as files: written whole and without loss."""

from __future__ import annotations

import io
import uuid
from collections.abc import Container, Iterable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from mmalign.clips import ASSUMED_RATE, Clip
from mmalign.data._digest import digest
from mmalign.data._frame_folders import frame_names
from mmalign.data._media import decode_image
from mmalign.data._paths import File, RatedFile, folder_of, locate, read_file
from mmalign.training import _files
from mmalign.types import Message, Part, UserError

FOLDER = "media"


def encoded(part: Part, where: str) -> tuple[bytes, str]:
    """A decoded picture as PNG or a clip as FFV1 in Matroska, with the ending of its file; the same part
    gives the same bytes. Raises UserError for anything else and for a clip of only some frames of a video."""
    if isinstance(part.data, Image.Image):
        buffer = io.BytesIO()
        part.data.convert("RGB").save(buffer, format="PNG")
        return buffer.getvalue(), ".png"
    if isinstance(part.data, Clip) and _whole(part.data):
        pixels = part.data.frames.permute(0, 2, 3, 1).contiguous().numpy()
        return _matroska(pixels, part.data.sampled_rate), ".mkv"
    found = "a clip of some frames of a video" if isinstance(part.data, Clip) else type(part.data).__name__
    raise UserError(f"{where}: only texts, pictures and whole clips can be written, this is {found}")


def _whole(clip: Clip) -> bool:
    """True if the clip holds every frame of its video, in even steps: what its file gives back."""
    steps = [later - earlier for earlier, later in pairwise(clip.seconds)]
    even = all(abs(step * clip.sampled_rate - 1) < 0.01 for step in steps)
    return clip.indices == tuple(range(clip.total)) and even


def whole_clip(clip: Clip) -> Clip:
    """The frames of a clip as a video of their own, at the rate they have among themselves; such a clip can
    be written, and is read again as it is by whoever takes so many frames."""
    count, rate = len(clip.frames), clip.sampled_rate
    seconds = tuple(place / rate for place in range(count))
    return Clip(clip.frames, tuple(range(count)), seconds, rate, count, clip.reader)


def _matroska(frames: Iterable[np.ndarray], rate: float) -> bytes:
    """Every frame, uint8 [H, W, 3], without loss. The flag leaves out the container's random identifier.
    Raises UserError for frames of different sizes."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska", options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream("ffv1", rate=Fraction(rate).limit_denominator(100_000))
        stream.codec_context.thread_count = 1
        stream.pix_fmt = "bgr0"
        size: tuple[int, ...] | None = None
        for pixels in frames:
            if size is None:
                size = pixels.shape[:2]
                stream.height, stream.width = size
            if pixels.shape[:2] != size:
                raise UserError("its frames have different sizes, so that no clip can hold them")
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            file.mux(stream.encode(frame.reformat(format="bgr0")))
        file.mux(stream.encode())
    return buffer.getvalue()


def store(folder: Path, name: str, data: bytes) -> str:
    """Write media/`name` in one go and return that path, relative to `folder`. Several processes may write
    the same file at once, of several machines too, where process ids may be the same."""
    place = folder / FOLDER / name
    fresh = place.with_name(f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        _files.write_bytes(fresh, data)
        _files.sync(fresh)
        _files.rename(fresh, place)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    return f"{FOLDER}/{name}"


def sweep(folder: Path, used: Container[str]) -> None:
    """Delete files in media/ that no row names: what was left by a process that was killed."""
    for place in (folder / FOLDER).iterdir():
        if f"{FOLDER}/{place.name}" not in used:
            place.unlink()


def store_prompt(
    folder: Path, name: str, given: tuple[Message, ...], ready: tuple[Message, ...]
) -> list[str]:
    """Files of a prompt's media, in order, each named by its content: pictures as they were decoded, videos
    as the bytes they came in. `given`: the turns as their source has them; `ready`: decoded."""
    names = []
    for turn, decoded in zip(given, ready, strict=True):
        for part, seen in zip(turn.parts, decoded.parts, strict=True):
            if part.kind == "text":
                continue
            names.append(store_part(folder, name, part, seen))
    return names


def store_part(folder: Path, name: str, given: Part, ready: Part) -> str:
    """The file of one picture or clip of the row called `name`; see `store_prompt`."""
    data, ending = _video(given, name) if given.kind == "video" else _picture(ready, name)
    file = f"prompt-{digest(data)}{ending}"
    taken = (folder / FOLDER / file).exists()
    return f"{FOLDER}/{file}" if taken else store(folder, file, data)


def refuse_unwritable(name: str, turns: tuple[Message, ...]) -> None:
    """Raise UserError for a prompt with a video that no file can hold as it is."""
    for part in (part for turn in turns for part in turn.parts if part.kind == "video"):
        whole = isinstance(part.data, Clip) and _whole(part.data)
        if not whole and not isinstance(part.data, File | bytes):
            raise UserError(
                f"prompt {name!r}: its video is in memory and no whole clip, so that writing it would change "
                "it; use a source whose videos are files"
            )


def _picture(part: Part, name: str) -> tuple[bytes, str]:
    ready = part if isinstance(part.data, Image.Image) else Part("image", decode_image(part.data))
    return encoded(ready, f"prompt {name!r}")


def _of_folder(folder: Path, file: File, name: str) -> bytes:
    """A clip that is a folder of frames as a file: every frame, not the chosen ones alone."""
    rate = file.rate if isinstance(file, RatedFile) else ASSUMED_RATE
    frames = (File(file.root, f"{file.name}/{one}") for one in frame_names(folder))
    try:
        return _matroska((np.array(decode_image(one)) for one in frames), rate)
    except UserError as error:
        raise UserError(f"prompt {name!r}, video {file.name!r}: {error}") from None


def _video(part: Part, name: str) -> tuple[bytes, str]:
    if isinstance(part.data, File):
        if (folder := folder_of(part.data)) is not None:
            return _of_folder(folder, part.data, name), ".mkv"
        return read_file(part.data), locate(part.data).suffix.lower()
    if isinstance(part.data, bytes):
        return part.data, ".video"  # readers go by content
    return encoded(part, f"prompt {name!r}")
