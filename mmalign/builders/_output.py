"""Whether a build may write into its output folder; loads no model library, so that a refusal is quick."""

from __future__ import annotations

import json
from pathlib import Path

from mmalign._yaml import parse_file
from mmalign.builders import _config
from mmalign.builders._config import BuildConfig
from mmalign.types import UserError

RECORD = "build.json"


def check_output(config: BuildConfig) -> None:
    """Raise UserError unless the output folder is absent, empty, or holds a build of this very config."""
    folder = Path(config.output)
    if not config.output.strip():
        raise UserError("output: must name a folder, got an empty string")
    if blocked := next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), None):
        raise UserError(f"output: {blocked} is a file; choose a folder")
    if not folder.exists() or all(p.name.startswith(".") for p in folder.iterdir()):
        return
    stored = folder / "config.yaml"
    if not stored.is_file() or not any((folder / name).exists() for name in (RECORD, ".lock")):
        raise UserError(f"output: {folder} is not empty and holds no build; choose another folder")
    before = _config.from_tree(parse_file(stored), str(stored), allow_code=True)
    old, new = _config.comparable(before), _config.comparable(config)
    changed = [name for name in old | new if old.get(name) != new.get(name)]
    if changed:
        was, now = (json.dumps(tree.get(changed[0]), sort_keys=True) for tree in (old, new))
        raise UserError(
            f"output: {folder} holds a build of another config ({changed[0]} was {was:.200}, is {now:.200}); "
            f"choose another folder. When a build goes on, only {' and '.join(_config.FREE)} may change"
        )
