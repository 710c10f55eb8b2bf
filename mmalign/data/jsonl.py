"""JSON lines: one object per line; a file that holds one JSON array of objects is read too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from mmalign.data._paths import existing_file
from mmalign.data._sources import Row, SourceOptions
from mmalign.types import UserError

_SIGNATURES = {
    b"\x1f\x8b": "gzip-compressed; unpack it",
    b"PAR1": "a parquet file; use source: parquet",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"(\xb5/\xfd": "zstd-compressed; unpack it",
    b"BZh": "bzip2-compressed; unpack it",
    b"ARROW1": "an Arrow file; use source: hub with its folder",
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
}


@dataclass(frozen=True, kw_only=True)
class Jsonl(SourceOptions):
    """Rows of a JSON-lines file at `path`; row N is line N. A UTF-8 byte order mark and CRLF are fine."""

    path: str  # file of JSON lines

    @property
    def folder(self) -> str:
        """`root`, or the folder of the file."""
        return self.root or str(Path(self.path).expanduser().parent)

    @property
    def title(self) -> str:
        """The path as the config gives it."""
        return repr(self.path)

    def records(self) -> Iterator[Row]:
        """Every line with its origin; a line that is no JSON object comes as the UserError that says why."""
        path = existing_file(self.path)
        with path.open("rb") as stream:
            head = stream.read(4096)
            for signature, rule in _SIGNATURES.items():
                if head.startswith(signature):
                    raise UserError(f"{path.name}: is {rule}")
            start = 3 if head.startswith(b"\xef\xbb\xbf") else 0
            stream.seek(start)
            if head[start:].lstrip()[:1] == b"[":
                yield from _array(stream, path.name)
            else:
                yield from _lines(stream, path.name)


def _lines(stream: BinaryIO, name: str) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):  # splits at line feeds only: U+2028 may stand inside a string
        if not line.strip():
            continue
        origin = f"{name} row {number}"
        try:
            row = _parse(line, origin)
        except UserError as error:
            cut = not line.endswith(b"\n") and "not valid JSON" in str(error)
            hint = "the last line is cut off; the file was not written to its end"
            yield origin, UserError(f"{error} ({hint})") if cut else error
            continue
        if isinstance(row, dict):
            yield origin, row
        else:
            yield origin, UserError(f"{origin}: must be a JSON object, got {type(row).__name__}")


def _array(stream: BinaryIO, name: str) -> Iterator[Row]:
    rows = _parse(stream.read(), name)
    for number, row in enumerate(rows, 1):
        origin = f"{name} row {number}"
        if isinstance(row, dict):
            yield origin, row
        else:
            yield origin, UserError(f"{origin}: must be a JSON object, got {type(row).__name__}")


def _parse(data: bytes, where: str) -> Any:
    if b"\x00" in data:
        raise UserError(f"{where}: holds NUL bytes; the file is damaged or not UTF-8")
    try:
        return json.loads(
            data.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys
        )
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise UserError(f"{where}: not valid JSON at {place}: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON and would poison the loss; remove the row or the value")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return found
