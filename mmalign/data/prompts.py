"""Prompts alone, for runs that train on the model's own answers: a list of lines, or a benchmark's file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign._evaluation import prompt_file
from mmalign.data._sources import Row, SourceOptions


@dataclass(frozen=True, kw_only=True)
class Prompts(SourceOptions):
    """Every different prompt of the file `path`, in any form that `evaluation.prompts` reads.

    `form`: lines (a prompt in every line), parti, hpsv2, geneval or vbench; null: told from the file. `chat`:
    each prompt is a user's turn; otherwise a caption, or a text to be continued.
    """

    path: str  # file or folder of prompts
    form: str | None = None  # lines, parti, hpsv2, geneval or vbench; null: told from the file
    chat: bool = False  # each prompt is a user's turn; otherwise a caption, or a text to be continued

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path.strip():
            raise ValueError("path: must not be empty")

    @property
    def folder(self) -> str:
        """`root`, or the folder of the file."""
        return self.root or str(Path(self.path).expanduser().parent)

    @property
    def title(self) -> str:
        """The path as the config gives it."""
        return repr(self.path)

    def records(self) -> Iterator[Row]:
        """Every prompt with its origin. Raises UserError for a file that is not of the form."""
        named = {"path": self.path} | ({} if self.form is None else {"name": self.form})
        name = Path(self.path).name
        for asked in prompt_file(named, "data").read():
            prompt: Any = [{"role": "user", "content": asked.text}] if self.chat else asked.text
            yield f"{name} {asked.id}", {"id": asked.id, "prompt": prompt}
