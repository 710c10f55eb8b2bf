"""A small valid config as text and as values, and the loading of variants of it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from mmalign.config import RunConfig, load
from mmalign.types import UserError

SECTIONS = {
    "model": "{adapter: text, path: m}",
    "data": "{source: jsonl, path: d.jsonl}",
    "objective": "{name: dpo}",
    "train": "{steps: 10}",
}


def text(**sections: str | None) -> str:
    """The valid config with some sections replaced or, by None, left out."""
    return "".join(f"{k}: {v}\n" for k, v in {**SECTIONS, **sections}.items() if v is not None)


def loaded(
    folder: Path, content: str | bytes, overrides: Sequence[str] = (), allow_code: bool = False
) -> RunConfig:
    """The config in a file `run.yaml` with this content."""
    path = folder / "run.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load(path, overrides, allow_code)


def refusal(
    folder: Path, content: str | bytes, overrides: Sequence[str] = (), allow_code: bool = False
) -> str:
    """The one line that refuses a config."""
    with pytest.raises(UserError) as refused:
        loaded(folder, content, overrides, allow_code)
    line = str(refused.value)
    assert "\n" not in line and len(line) < 600
    return line.replace(f"{folder}/", "")
