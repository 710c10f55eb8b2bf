"""Small sets of rows for `check`, and the call itself."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tiny_runs import Bench

from mmalign.config import RunConfig
from mmalign.training.inspection.check import Inspection, inspect

CONTROL = "<|im_end|>"
KTO = {"name": "kto", "baseline": "batch"}


def pair(number: int, **changes: Any) -> dict[str, Any]:
    """A sound row unlike those of other numbers; a field changed to None is left out."""
    row = {
        "id": f"r{number}",
        "prompt": f"say {number}",
        "chosen": f" yes {number}",
        "rejected": f" no {number}",
    }
    return {name: value for name, value in {**row, **changes}.items() if value is not None}


def write(path: Path, rows: Sequence[Mapping[str, Any] | str]) -> Path:
    """Rows as JSON lines; a str stands as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def text_config(bench: Bench, path: Path, heldout: Path | None = None, **sections: Any) -> RunConfig:
    """A run on rows of texts."""
    data = {"source": "jsonl", "path": str(path), **sections.pop("data", {})}
    if heldout is not None:
        sections["heldout"] = {"source": "jsonl", "path": str(heldout)}
    train = {"batch": 4, **sections.pop("train", {})}
    return bench.config("text", "never", data=data, train=train, **sections)


def inspect_rows(bench: Bench, folder: Path, rows: Sequence[Any], **sections: Any) -> Inspection:
    return inspect(text_config(bench, write(folder / "rows.jsonl", rows), **sections))
