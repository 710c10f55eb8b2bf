"""Pictures and videos of a build as files: written whole and without loss."""

from __future__ import annotations

import io
import os
from collections.abc import Container
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from PIL import Image

from mmalign.clips import Clip
from mmalign.data._digest import digest
from mmalign.data._paths import File, locate, read_file
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
        return _matroska(part.data), ".mkv"
    found = "a clip of some frames of a video" if isinstance(part.data, Clip) else type(part.data).__name__
    raise UserError(f"{where}: only texts, pictures and whole clips can be written, this is {found}")


def _whole(clip: Clip) -> bool:
    """True if the clip holds every frame of its video, in even steps: what its file gives back."""
    steps = [later - earlier for earlier, later in pairwise(clip.seconds)]
    even = all(abs(step * clip.sampled_rate - 1) < 0.01 for step in steps)
    return clip.indices == tuple(range(clip.total)) and even


def _matroska(clip: Clip) -> bytes:
    """Every frame without loss. The flag leaves out the container's random identifier."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska", options={"fflags": "+bitexact"}) as file:
        rate = Fraction(clip.sampled_rate).limit_denominator(100_000)
        stream = file.add_stream("ffv1", rate=rate)
        stream.codec_context.thread_count = 1
        stream.height, stream.width = clip.frames.shape[2:]
        stream.pix_fmt = "bgr0"
        for pixels in clip.frames:
            frame = av.VideoFrame.from_ndarray(pixels.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            file.mux(stream.encode(frame.reformat(format="bgr0")))
        file.mux(stream.encode())
    return buffer.getvalue()


def store(folder: Path, name: str, data: bytes) -> str:
    """Write media/`name` in one go and return that path, relative to `folder`. Several processes may write
    the same file at once."""
    place = folder / FOLDER / name
    fresh = place.with_name(f".{name}.{os.getpid()}.tmp")
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
            data, ending = _video(part, name) if part.kind == "video" else encoded(seen, f"prompt {name!r}")
            file = f"prompt-{digest(data)}{ending}"
            taken = (folder / FOLDER / file).exists()
            names.append(f"{FOLDER}/{file}" if taken else store(folder, file, data))
    return names


def refuse_unwritable(name: str, turns: tuple[Message, ...]) -> None:
    """Raise UserError for a prompt with a video that no file can hold as it is."""
    for part in (part for turn in turns for part in turn.parts if part.kind == "video"):
        whole = isinstance(part.data, Clip) and _whole(part.data)
        if not whole and not isinstance(part.data, File | bytes):
            raise UserError(
                f"prompt {name!r}: its video is in memory and no whole clip, so that writing it would change "
                "it; use a source whose videos are files"
            )


def _video(part: Part, name: str) -> tuple[bytes, str]:
    if isinstance(part.data, File):
        return read_file(part.data), locate(part.data).suffix.lower()
    if isinstance(part.data, bytes):
        return part.data, ".video"  # readers go by content
    return encoded(part, f"prompt {name!r}")
