"""Files of pairs about pictures and clips: each line names a scene by its stream, seed and number.

The scene is drawn again when the file is read, so a pair takes a hundred bytes. Two files ship with the
package; `vlm_pairs.py` makes them from what the shipped models say.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from mmalign.clips import Clip
from mmalign.shapes.clips import FPS, FRAMES, render_clip, sample_clip
from mmalign.shapes.sights import Split
from mmalign.types import UserError

CAPTION_PAIRS_FILE = Path(__file__).parent / "data" / "caption_pairs.jsonl"
CLIP_PAIRS_FILE = Path(__file__).parent / "data" / "clip_pairs.jsonl"
SPLITS: tuple[Split, ...] = get_args(Split)

Origin = Literal["sample", "truth", "made"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)


@dataclass(frozen=True)
class SightPair:
    """A question about the scene `number` of the stream (`split`, `seed`), and two answers to it.

    `chosen_from` and `rejected_from` tell whether a model gave the answer ("sample"), the scene ("truth"), or
    neither ("made": a plausible wrong answer).
    """

    id: str
    split: Split
    seed: int
    number: int
    question: str
    chosen: str
    rejected: str
    chosen_from: Origin
    rejected_from: Origin


def write_pairs(path: Path, pairs: Iterable[SightPair]) -> None:
    """Write pairs as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(pair)) + "\n" for pair in pairs), encoding="utf-8")


def read_pairs(path: Path) -> list[SightPair]:
    """Read a file of pairs; UserError naming file and line for one that is no pair."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a file of pairs") from None
    return [_pair(line, f"{path} line {number}") for number, line in enumerate(lines, 1)]


def _pair(line: str, where: str) -> SightPair:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg})") from None
    names = [field.name for field in fields(SightPair)]
    if not isinstance(row, dict) or sorted(row) != sorted(names):
        raise UserError(f"{where}: a pair is an object with the fields {', '.join(names)}")
    for name in names:
        wanted = int if name in ("seed", "number") else str
        if type(row[name]) is not wanted:
            raise UserError(f"{where}: {name} must be of type {wanted.__name__}, got {row[name]!r}")
    if row["split"] not in SPLITS:
        raise UserError(f"{where}: split must be one of {', '.join(SPLITS)}, got {row['split']!r}")
    for name in ("chosen_from", "rejected_from"):
        if row[name] not in ORIGINS:
            raise UserError(f"{where}: {name} must be one of {', '.join(ORIGINS)}, got {row[name]!r}")
    return SightPair(**row)


def clip_of(split: Split, seed: int, number: int) -> Clip:
    """The clip with this number as an adapter takes it: its four frames at 4 per second."""
    frames = render_clip(sample_clip(split, seed, number))
    return Clip(frames, tuple(range(FRAMES)), tuple(i / FPS for i in range(FRAMES)), FPS, FRAMES, "memory")
