"""Media files named by a dataset: where they may lie and how they are opened.

A dataset is data, not trusted code: a row may name a URL, a device or a file elsewhere on the machine. Such
names are refused before anything is opened.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from mmalign._relative import started_from
from mmalign.messages import is_media as is_media
from mmalign.messages import kind_of as kind_of
from mmalign.types import UserError

MAX_FILE_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class File:
    """A media file as a row names it: `name` relative to `root`, or absolute and inside it."""

    root: str
    name: str


@dataclass(frozen=True)
class RatedFile(File):
    """A clip whose row tells its rate, in frames per second; that counts where it is a folder of frames, for
    these do not tell one themselves."""

    rate: float


def read_file(file: File) -> bytes:
    """The content of a regular file inside its root.

    Raises UserError with the name and the rule for URLs, `data:` strings, names that lead out of the root
    (also through links), missing files, folders, devices, pipes and files above 512 MiB.
    """
    path = locate(file)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"{file.name!r} cannot be opened: {error.strerror}") from None
    with os.fdopen(handle, "rb") as stream:
        status = os.fstat(stream.fileno())  # again on the open file: the name may have changed hands
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{file.name!r} is not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise UserError(f"{file.name!r} has {status.st_size} bytes; the limit is {MAX_FILE_BYTES}")
        return stream.read()


def locate(file: File) -> Path:
    """The real path of a media file, checked but not opened; raises UserError as `read_file` does."""
    path, mode = _resolve(file)
    if not stat.S_ISREG(mode):
        raise UserError(f"{_short(file.name)} is not a regular file")
    return path


def folder_of(file: File) -> Path | None:
    """The real path of a name that is a folder inside the root; None if it is something else or nothing is
    there."""
    try:
        path, mode = _resolve(file)
    except UserError:
        return None  # whoever reads the file says why
    return path if stat.S_ISDIR(mode) else None


def _resolve(file: File) -> tuple[Path, int]:
    """The real path inside the root, and what stands there."""
    name = file.name
    scheme = name.split(":", 1)[0].lower()
    if "://" in name or (":" in name and scheme in {"data", "file", "http", "https", "ftp", "s3"}):
        raise UserError(f"{_short(name)} is an address; only files inside data.root are read, so download it")
    if not name or "\0" in name:
        raise UserError(f"{_short(name)} is not a file name")
    root = os.path.realpath(file.root)
    try:
        path = os.path.realpath(os.path.join(root, name))
        if path != root and not path.startswith(root.rstrip(os.sep) + os.sep):
            raise UserError(f"{_short(name)} lies outside data.root; move the file or set data.root")
        mode = os.stat(path).st_mode
    except OSError as error:
        reason = "no such file in data.root" if isinstance(error, FileNotFoundError) else error.strerror
        raise UserError(f"{_short(name)}: {reason}") from None
    return Path(path), mode


def existing_file(path: str) -> Path:
    """`path` as a readable regular file, or UserError naming it."""
    found = Path(path).expanduser()
    if not found.exists():
        raise UserError(f"data.path {path!r}: no such file{started_from(path)}")
    if not found.is_file():
        raise UserError(f"data.path {path!r}: not a regular file")
    if not os.access(found, os.R_OK):
        raise UserError(f"data.path {path!r}: no permission to read it")
    return found


def _short(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "...")
