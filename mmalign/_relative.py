"""Where the relative paths of a config start, in the words of a refusal."""

from __future__ import annotations

from pathlib import Path


def started_from(path: str) -> str:
    """Words that follow "no such file": the folder that a relative path starts from; none for others."""
    relative = not Path(path).expanduser().is_absolute()
    return f" (relative paths start at {Path.cwd()}, where the command runs)" if relative else ""
