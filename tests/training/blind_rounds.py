"""Small runs in rounds that write answers blind: rows of every kind, a tiny model, and configs of both."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters import tiny_vlm

from mmalign.config import RunConfig, from_tree

BLIND = {"rho": 0.9, "tries": 1, "flip": 1.0, "encoder": None}
ONLINE: dict[str, Any] = {
    "judge": {"name": "test_online:Letters"},
    "prompts": 12,
    "n": 2,
    "steps": 2,
    "batch": 3,
    "offline": 0.5,
    "blind": BLIND,
}
KINDS: tuple[dict[str, Any], ...] = (
    {"chosen": "a red fox. it sits", "rejected": "the sky"},
    {"chosen": "a blue box. it is old", "bdhs": "before"},
    {"chosen": "happy girl", "rejected": "an answer", "bdhs": "before"},
    {"chosen": "yes", "rejected": "perhaps"},
    {"chosen": "no picture", "rejected": "none at all", "bdhs": "before"},
    {"chosen": "nor here", "bdhs": "before"},
)
"""Rows about a picture with a rejected answer, with one that was written blind before, with both, and with a
yes; and two without a picture."""


@dataclass(frozen=True)
class Make:
    """Makes configs whose data, model and outputs are in one folder."""

    folder: Path

    @classmethod
    def in_folder(cls, folder: Path) -> "Make":
        """Write two rows of each kind, and the model."""
        tiny_vlm.save_vlm("qwen2_5_vl", folder / "model")
        for number in range(4):
            tiny_vlm.picture(number, (24 + 8 * number, 40)).save(folder / f"{number}.png")
        made = cls(folder)
        made.write("rows.jsonl", [made.row(number, KINDS[number % 6]) for number in range(12)])
        return made

    def row(self, number: int, answers: dict[str, Any]) -> dict[str, Any]:
        """A row with these answers; the last two of every six show nothing."""
        seen = [] if number % 6 > 3 else [{"type": "image", "image": f"{number % 6}.png"}]
        asked = {"role": "user", "content": [*seen, {"type": "text", "text": f"what is {number}?"}]}
        return {"id": f"row-{number}", "prompt": [asked], **answers}

    def write(self, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """A file of rows, as section data."""
        (self.folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n")
        return {"source": "jsonl", "path": str(self.folder / name)}

    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows by their ids."""
        lines = (self.folder / "rows.jsonl").read_text().splitlines()
        return {row["id"]: row for row in map(json.loads, lines)}

    def tree(self, output: str, steps: int = 4, online: Any = None, **sections: Any) -> dict[str, Any]:
        """A config as plain values; sections given extend the defaults, or replace them."""
        model = {"adapter": "vlm", "path": str(self.folder / "model"), "generation": {"max_new_tokens": 6}}
        return {
            "model": model | sections.pop("model", {}),
            "data": {"source": "jsonl", "path": str(self.folder / "rows.jsonl")},
            "objective": {"name": "bdhs"},
            "lora": {"rank": 4},
            "train": {"steps": steps, "batch": 4, "lr": 0.05, "save_every": 1, "keep": 5},
            "log": {"every": 1, "progress": False},
            "cache": None,
            "seed": 1,
            "output": str(self.folder / output),
            "online": ONLINE | (online or {}),
            **sections,
        }

    def __call__(self, output: str, steps: int = 4, online: Any = None, **sections: Any) -> RunConfig:
        """The same, resolved."""
        return from_tree(self.tree(output, steps, online, **sections), "test", allow_code=True)
