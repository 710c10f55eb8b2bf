"""MIA-DPO's pairs for shapes_vlm.py, built from a model's own answers as configs/build/mia_dpo.yaml does it.

The built-in model takes an area of 48 x 48 pixels, in which the cells of a collage cannot be made out: all
pairs are sequences, of 2 to 4 pictures.
"""

import json
import random
from pathlib import Path
from typing import Literal

from _several_base import teach

from mmalign import api

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "configs" / "build" / "mia_dpo.yaml"
SEQUENCES = ["builder.layouts=[sequence]", "builder.sequence={counts: [2, 3, 4], share: [0.8, 0.7, 0.6]}"]
ROWS = {
    "mixed": "prompts={source: '_single:SingleRows'}",
    "questions": "prompts={source: '_single:SingleRows', captions: false, num: 2400}",
}
Built = Literal["mixed", "questions", "balanced", "wrong numbers"]
"""Pairs of captions and questions; of questions alone; of these as many in which yes is right as in which no
is; of questions with the numbers of other pictures."""


def taught(folder: Path) -> Path:
    """The model that was taught to read several pictures; it is taught once."""
    model = folder.parent / "taught"
    if not (model / "config.json").is_file():
        teach(model)
    return model


def built_pairs(start: str, built: Built, folder: Path) -> Path:
    """The file of pairs of a model, built once; or the same with the numbers of other pictures."""
    rows = built if built == "mixed" else "questions"
    output = folder.parent / f"mia-{start}-{rows}"
    pairs = output / "pairs.jsonl"
    if not pairs.is_file():
        overrides = [*SEQUENCES, ROWS[rows], "num_prompts=null", f"output={output}", "log.progress=false"]
        overrides += [f"model.path={taught(folder)}"] if start == "taught" else []
        api.build(BUILD, *overrides)
    if built in ("mixed", "questions"):
        return pairs
    listed = [json.loads(line) for line in pairs.read_text().splitlines()]
    changed = output / f"{built.replace(' ', '_')}.jsonl"
    kept = _balanced(listed) if built == "balanced" else [_with_wrong_number(row) for row in listed]
    changed.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return changed


def _balanced(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """As many rows in which yes is right as in which no is, the first of either."""
    sides = [[row for row in rows if row["chosen"] == answer] for answer in ("yes", "no")]
    return [row for pair in zip(*sides, strict=False) for row in pair]


def _with_wrong_number(row: dict[str, object]) -> dict[str, object]:
    """The row with another picture's number in its question; both answers stay."""
    told = row["built"]
    assert isinstance(told, dict)
    others = [n for n in range(1, told["pictures"] + 1) if n != told["target"]]
    other = random.Random(f"wrong number {row['id']}").choice(others)
    text = json.dumps(row["prompt"]).replace(f"In Image{told['target']},", f"In Image{other},")
    assert text != json.dumps(row["prompt"])
    return {**row, "prompt": json.loads(text)}
