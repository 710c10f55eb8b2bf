"""Real photos and clips for tests of benchmarks, the photos in every form that files come in."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from mmalign.clips import Frames
from mmalign.data._paths import File
from mmalign.data._video import decode_video

_PHOTOS = ("522418", "204805", "542145", "412151", "173350", "303818", "555705", "565778")
_CLIPS = {  # small ones, of several containers, codecs and rates; one is monochrome, one turned by a flag
    "timecode": "testcard_timecode_2s.mp4",
    "cradle": "newtons_cradle.gif",
    "dot": "red_dot_alpha.webm",
    "keys": "rotate_0.mov",
    "chaplin": "chaplin_10s.mp4",
}
_TURNED = 6  # the number in EXIF for a camera held upright


@dataclass(frozen=True)
class Photo:
    """A photo of COCO by its number, as a file holds it, and what people said of it."""

    name: str
    content: bytes
    captions: Sequence[str]
    objects: Sequence[str]
    questions: Sequence[Mapping[str, str]]  # Is there a dog? with label, object, and the kind of a negative


@dataclass(frozen=True)
class Film:
    """A clip as a file holds it, with a question about it, the right answer, and a wrong one."""

    content: bytes
    prompt: str
    right: str
    wrong: str


# ---------------------------------------------------------------- files


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _small(image: Image.Image) -> Image.Image:
    return image.reduce(5)


def _turned(image: Image.Image) -> bytes:
    exif = image.getexif()
    exif[0x0112] = _TURNED
    return _saved(_small(image).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif.tobytes())


def _clear(image: Image.Image) -> bytes:
    small = _small(image)
    small.putalpha(Image.linear_gradient("L").resize(small.size))
    return _saved(small, "PNG")


def _deep(image: Image.Image) -> bytes:
    return _saved(Image.fromarray(np.asarray(_small(image).convert("L")).astype(np.uint16) * 257), "PNG")


FORMS: Mapping[str, Callable[[Image.Image], bytes]] = {
    "grey": lambda image: _saved(_small(image).convert("L"), "JPEG"),
    "CMYK": lambda image: _saved(_small(image).convert("CMYK"), "JPEG"),
    "turned": _turned,
    "clear": _clear,
    "palette": lambda image: _saved(_small(image).convert("P"), "GIF"),
    "16 bits": _deep,
    "strip": lambda image: _saved(image.crop((0, 99, 301, 101)), "WEBP", lossless=True),
}
"""Ways to store a photo besides the way it is, from its pixels."""


def photos(data: Path) -> list[Photo]:
    """One photo in its own file, each other one in the next of FORMS."""
    folder = data / "image_text"
    rows = {str(row["coco_id"]): row for row in _lines(folder / "coco_photos.jsonl")}
    asked = _lines(folder / "coco_object_qa_pairs.jsonl")
    found = []
    for number, name in enumerate(_PHOTOS):
        row, path = rows[name], folder / rows[name]["file"]
        content = path.read_bytes()
        if number:
            with Image.open(path) as image:
                content = list(FORMS.values())[number - 1](image.convert("RGB"))
        questions = [one for one in asked if one["image"] == row["file"]]
        found.append(Photo(name, content, row["captions"], list(row["objects"]), questions))
    assert number == len(FORMS), "every form is taken"
    return found


def films(data: Path) -> dict[str, Film]:
    """Clips by a short name; "snow" is stored as HEVC."""
    texts: dict[str, Mapping[str, str]] = {}
    for row in _lines(data / "video" / "video_text_pairs.jsonl"):
        texts.setdefault(row["video"], row)

    def told(name: str, content: bytes) -> Film:
        row = texts[name]
        return Film(content, row["prompt"], row["chosen"], row["rejected"])

    found = {short: told(name, (data / "video" / name).read_bytes()) for short, name in _CLIPS.items()}
    snow = "sintel_snow_2s.mp4"
    return {**found, "snow": told(snow, _hevc(data / "video", snow))}


def frames_of(content: bytes) -> list[bytes]:
    """Six frames of a clip as pictures."""
    clip = decode_video(content, Frames(count=6, scale_to=4096))
    return [_saved(Image.fromarray(frame.permute(1, 2, 0).numpy()), "JPEG") for frame in clip.frames]


def _hevc(folder: Path, name: str) -> bytes:
    clip = decode_video(File(str(folder), name), Frames(count=12, scale_to=4096))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        options = {"preset": "ultrafast", "x265-params": "bframes=2:log-level=none:pools=1"}
        track = container.add_stream("libx265", rate=8, options=options)
        track.height, track.width = (size // 2 * 2 for size in clip.frames.shape[2:])
        for frame in clip.frames[:, :, : track.height, : track.width]:
            pixels = frame.permute(1, 2, 0).contiguous().numpy()
            container.mux(track.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(track.encode())
    return buffer.getvalue()


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@dataclass(frozen=True)
class Place:
    """A folder for one benchmark's files, and what they are made of; photos begin with another form in every
    place. The media lie in its folder "media"."""

    folder: Path
    data: Path
    photos: Sequence[Photo]
    films: Mapping[str, Film]

    @property
    def media(self) -> str:
        """The folder of media."""
        return str(self.folder / "media")

    def put(self, name: str, content: bytes) -> Path:
        """A file among the media."""
        path = self.folder / "media" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def lines(self, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
        """A file of rows."""
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def tree(self, name: str, value: Any) -> str:
        """A JSON file."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value))
        return str(path)
