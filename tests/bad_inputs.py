"""Broken data sets and pictures: each builder writes one into a folder and says what the error must name.

FILES break when the data set is read, IMAGES when its pictures are decoded. Every builder takes a folder and
returns the path of a JSON-lines file and the words that the one-line error must contain.
"""

import gzip
import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Made = tuple[Path, tuple[str, ...]]
Builder = Callable[[Path], Made]

GOOD = {"prompt": "Say hello.", "chosen": "Hello!", "rejected": "Go away."}


def write_rows(path: Path, rows: list[Any]) -> Path:
    """JSON lines as any writer would make them."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _raw(content: bytes, *words: str) -> Builder:
    def make(folder: Path) -> Made:
        path = folder / "bad.jsonl"
        path.write_bytes(content)
        return path, ("bad.jsonl", *words)

    return make


def _second_row(change: dict[str, Any], *words: str) -> Builder:
    """A sound row, then one with `change`; a value of ... removes the field."""

    def make(folder: Path) -> Made:
        row = {key: value for key, value in {**GOOD, **change}.items() if value is not ...}
        return write_rows(folder / "bad.jsonl", [GOOD, row]), ("bad.jsonl row 2", *words)

    return make


def _empty(folder: Path) -> Made:
    (folder / "bad.jsonl").write_bytes(b"\n\n")
    return folder / "bad.jsonl", ("bad.jsonl", "no rows")


def _missing(folder: Path) -> Made:
    return folder / "nothing.jsonl", ("nothing.jsonl", "no such file")


def _folder(folder: Path) -> Made:
    (folder / "bad.jsonl").mkdir()
    return folder / "bad.jsonl", ("bad.jsonl", "not a regular file")


def _same_ids(folder: Path) -> Made:
    rows = [{**GOOD, "id": "a"}, {**GOOD, "id": "b"}, {**GOOD, "id": "a"}]
    return write_rows(folder / "bad.jsonl", rows), ("bad.jsonl row 3", "'a'", "bad.jsonl row 1")


_LINE = json.dumps(GOOD).encode()
_USER = {"role": "user", "content": "Hi"}
_BOT = {"role": "assistant", "content": "Hello"}
_CHAT: dict[str, Any] = {"prompt": [_USER], "chosen": [_BOT], "rejected": [{**_BOT, "content": "No"}]}

FILES: dict[str, Builder] = {
    "broken line": _raw(_LINE + b"\n{'chosen': 1}\n" + _LINE + b"\n", "row 2", "not valid JSON"),
    "no object": _raw(b'"text"\n', "row 1", "JSON object"),
    "key twice": _raw(b'{"prompt": "a", "prompt": "b"}\n', "row 1", "'prompt'", "twice"),
    "UTF-16": _raw(json.dumps(GOOD).encode("utf-16"), "UTF-16", "UTF-8"),
    "UTF-16 without mark": _raw(json.dumps(GOOD).encode("utf-16-le") + b"\n\x00", "NUL bytes"),
    "NUL bytes": _raw(_LINE + b"\n" + b"\x00" * 32 + b"\n", "row 2", "NUL bytes"),
    "Latin-1": _raw('{"prompt": "caf\xe9"}\n'.encode("latin-1"), "row 1", "not UTF-8"),
    "NaN": _raw(_LINE[:-1] + b', "margin": NaN}\n', "row 1", "NaN"),
    "Infinity": _raw(_LINE[:-1] + b', "margin": -Infinity}\n', "row 1", "Infinity"),
    "overflow": _raw(_LINE[:-1] + b', "margin": 1e999}\n', "row 1", "margin", "finite"),
    "deep nesting": _raw(b'{"a": ' + b"[" * 200_000 + b"\n", "row 1", "nested"),
    "cut off": _raw(_LINE + b"\n" + _LINE[:40], "row 2", "not valid JSON", "cut off"),
    "gzip": _raw(gzip.compress(_LINE), "gzip"),
    "parquet": _raw(b"PAR1" + b"\x00" * 64, "parquet"),
    "empty": _empty,
    "missing": _missing,
    "folder": _folder,
    "ids twice": _same_ids,
    "bad id": _second_row({"id": ""}, "'id'"),
    "no chosen": _second_row({"chosen": ...}, "'chosen'", "missing"),
    "null chosen": _second_row({"chosen": None}, "'chosen'", "null"),
    "number chosen": _second_row({"chosen": 3}, "'chosen'", "int"),
    "no answers": _second_row({"chosen": ..., "rejected": ...}, "columns are prompt"),
    "no prompt": _second_row({"prompt": ...}, "'prompt'", "missing"),
    "empty prompt": _second_row({"prompt": "  "}, "'prompt'", "empty"),
    "empty answer": _second_row({"rejected": ""}, "'rejected'", "empty"),
    "blank answer": _second_row({"chosen": " \n\t"}, "'chosen'", "empty"),
    "long text": _second_row({"chosen": "a" * 10_000_000}, "'chosen'", "10000000 characters"),
    "half a surrogate": _second_row({"chosen": "a\ud800"}, "'chosen'", "surrogate"),
    "unknown role": _second_row({**_CHAT, "prompt": [{"role": "boss", "content": "x"}]}, "prompt[0]", "boss"),
    "late system": _second_row(
        {**_CHAT, "prompt": [_USER, {"role": "system", "content": "x"}]}, "prompt[1]", "'system'"
    ),
    "two users": _second_row({**_CHAT, "prompt": [_USER, _USER]}, "prompt[1]", "alternate"),
    "assistant first": _second_row({**_CHAT, "prompt": [_BOT, _USER]}, "prompt[0]", "user first"),
    "prompt ends with assistant": _second_row({**_CHAT, "prompt": [_USER, _BOT]}, "must end with the user"),
    "answer ends with user": _second_row(
        {**_CHAT, "chosen": [_USER, _BOT, _USER]}, "'chosen'", "end with the assistant"
    ),
    "empty turn": _second_row({**_CHAT, "chosen": [{**_BOT, "content": ""}]}, "'chosen'", "empty"),
    "odd turn": _second_row({**_CHAT, "chosen": [{"text": "x"}]}, "chosen[0]", "content"),
    "other prefix": _second_row({**_CHAT, "chosen": [{**_USER, "content": "x"}, _BOT]}, "begin with"),
    "text beside chat": _second_row({"chosen": [_BOT]}, "'rejected'", "both"),
    "system for plain text": _second_row({"system": "Be brief."}, "'system'", "chat prompt"),
    "weight": _second_row({"weight": 0}, "'weight'", "above 0"),
    "margin": _second_row({"margin": "large"}, "'margin'", "number"),
    "margin true": _second_row({"margin": True}, "'margin'", "number"),
    "tie": _second_row({"tie": "yes"}, "'tie'", "true or false"),
    "score": _second_row({"chosen_score": "9"}, "'chosen_score'", "number"),
    "spans": _second_row({"spans": {"chosen": [[2, 90]]}}, "spans.chosen", "6 characters"),
    "label": _second_row({"chosen": ..., "rejected": ..., "completion": "x", "label": "good"}, "'label'"),
    "two kinds": _second_row({"completion": "x"}, "different kinds"),
    "one response": _second_row({"chosen": ..., "rejected": ..., "responses": ["x"]}, "at least two"),
    "no scores": _second_row({"chosen": ..., "rejected": ..., "responses": ["x", "y"]}, "scores"),
    "short scores": _second_row(
        {"chosen": ..., "rejected": ..., "responses": ["x", "y"], "scores": [1]}, "'scores'", "2 numbers"
    ),
    "image null": _second_row({"images": [None]}, "images[0]", "null"),
    "image list nested": _second_row({"images": [["a.png"]]}, "images[0]", "a list"),
    "too many images": _second_row({"images": ["a.png"] * 65}, "'images'", "65"),
    "image count": _second_row(
        {
            **_CHAT,
            "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}],
            "images": ["a.png", "b.png"],
        },
        "'images'",
        "2 images for 1",
    ),
}


# ---------------------------------------------------------------- pictures


def png(size: tuple[int, int] = (16, 12), mode: str = "RGB") -> bytes:
    """A picture with noise, so that its data are worth cutting."""
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encoded(Image.fromarray(values).convert(mode), "PNG")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A picture as a file's bytes."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def bomb_png(width: int, height: int) -> bytes:
    """A PNG of one bit per pixel and a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress((b"\x00" + b"\x00" * ((width + 7) // 8)) * height, 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def image_row(name: str) -> dict[str, Any]:
    """A pair of pictures; the rejected one is called `name`."""
    return {"prompt": "a cat", "chosen_image": "good.png", "rejected_image": name}


def _image(content: bytes, *words: str, name: str = "bad.png") -> Builder:
    def make(folder: Path) -> Made:
        (folder / name).write_bytes(content)
        return _named(name, *words)(folder)

    return make


def _named(name: str, *words: str) -> Builder:
    def make(folder: Path) -> Made:
        (folder / "good.png").write_bytes(png())
        path = write_rows(folder / "images.jsonl", [image_row("good.png"), image_row(name)])
        return path, ("images.jsonl row 2", "'rejected'", *words)

    return make


def _flipped() -> bytes:
    data = bytearray(png((64, 64)))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def _link_out(folder: Path) -> Made:
    outside = folder.parent / f"{folder.name}-outside.png"
    outside.write_bytes(png())
    (folder / "link.png").symlink_to(outside)
    return _named("link.png", "link.png", "outside data.root")(folder)


def _pipe(folder: Path) -> Made:
    os.mkfifo(folder / "pipe.png")
    return _named("pipe.png", "pipe.png", "regular file")(folder)


def _device(folder: Path) -> Made:
    (folder / "zero.png").symlink_to("/dev/zero")
    return _named("zero.png", "outside data.root")(folder)


_JPEG = encoded(Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).rotate(9), "JPEG")

IMAGES: dict[str, Builder] = {
    "cut PNG": _image(png((64, 64))[:-900], "bad.png", "broken or cut off"),
    "cut JPEG": _image(_JPEG[: len(_JPEG) * 2 // 3], "bad.jpg", "broken or cut off", name="bad.jpg"),
    "flipped byte": _image(_flipped(), "bad.png", "broken"),
    "empty file": _image(b"", "bad.png", "empty"),
    "text file": _image(b"hello there, this is text", "bad.png", "not a picture"),
    "error page": _image(b"<!DOCTYPE html><html>404</html>", "x.jpg", "not a picture", name="x.jpg"),
    "PostScript": _image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture", name="x.eps"),
    "bomb 65 MP": _image(bomb_png(65_000, 1_000), "65000x1000", "64000000 pixels"),
    "bomb 200 MP": _image(bomb_png(20_000, 10_000), "64000000 pixels"),
    "aspect": _image(png((201, 1)), "201x1", "200 times"),
    "no such file": _named("gone.png", "gone.png", "no such file"),
    "a folder": _named(".", "regular file"),
    "out by dots": _named("../x.png", "../x.png", "outside data.root"),
    "out by root": _named("/etc/hostname", "/etc/hostname", "outside data.root"),
    "out by link": _link_out,
    "pipe": _pipe,
    "device": _device,
    "https": _named("https://example.com/a.png", "https://example.com/a.png", "address"),
    "file://": _named("file:///etc/passwd", "address"),
    "data:": _named("data:image/png;base64,iVBORw0KGgo=", "address"),
    "NUL in name": _named("a\0b.png", "not a file name"),
}
