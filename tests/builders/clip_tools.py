"""Builders that ask about clips, without any model: clips that count, a teller and a writer by rule."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mmalign
from mmalign.builders import _config
from mmalign.builders._candidates import Asked
from mmalign.builders._media import encoded
from mmalign.builders._whole_rows import Pool, Tools
from mmalign.shapes.sight_pairs import CLIP_PAIRS_FILE, clip_of, read_pairs
from mmalign.types import Clip, Frames, Message, Part
from mmalign.writing import Writer

Turns = tuple[Message, ...]
ROOT = Path(mmalign.__file__).parent.parent


def counting(count: int, rate: float = 2.0, first: int = 0) -> Clip:
    """A clip whose frames are grey by their number."""
    grey = torch.arange(first, first + count, dtype=torch.uint8)[:, None, None, None]
    places = tuple(range(count))
    seconds = tuple(place / rate for place in places)
    return Clip(grey.expand(count, 3, 2, 2).contiguous(), places, seconds, rate, count, "memory")


def numbers(turns: Turns) -> list[int]:
    """The numbers of the frames that some turns show."""
    clips = [part.data for turn in turns for part in turn.parts if part.kind == "video"]
    return [int(frame[0, 0, 0]) for clip in clips for frame in clip.frames]


def said(turns: Turns) -> str:
    """All text of some turns."""
    return "".join(part.data for turn in turns for part in turn.parts if part.kind == "text")


def row(name: str, clip: Clip, question: str = "What comes last?") -> Asked:
    return Asked(name, (Message("user", (Part("video", clip), Part("text", question))),))


@dataclass
class Teller:
    """Stands in for an adapter: answers by a rule of the turns and the seed, and remembers what was asked."""

    rule: Callable[[Turns, int], str]
    frames: Frames | None = field(default_factory=lambda: Frames(count=4))
    media: frozenset[str] = frozenset({"image", "video"})
    kind: str = "exact"
    asked: list[tuple[Turns, int]] = field(default_factory=list)

    def generate(self, model: Any, prompts: Sequence[Turns], seeds: Sequence[int]) -> list[Part]:
        self.asked += zip(prompts, seeds, strict=True)
        return [Part("text", self.rule(*one)) for one in zip(prompts, seeds, strict=True)]


@dataclass
class ByRule(Writer):
    """A writer that answers by a rule."""

    rule: Callable[[Turns, int], str | None] = lambda turns, seed: None
    asked: list[Turns] = field(default_factory=list)

    def ready(self) -> None:
        """Nothing to load."""

    def write(self, questions: Sequence[Turns], seeds: Sequence[int]) -> list[str | None]:
        self.asked += questions
        return [self.rule(*one) for one in zip(questions, seeds, strict=True)]


def tools(rows: Sequence[Asked], teller: Teller, helper: Writer | None = None, judge: Any = None) -> Tools:
    """A helper that must not be asked stands where none is given."""

    def refuse(turns: Turns, seed: int) -> str:
        raise AssertionError("nobody is to be asked")

    pool = Pool(rows, teller.frames)
    return Tools(pool, teller, nn.Linear(1, 1), helper or ByRule(refuse), judge)


def scenes(folder: Path, count: int) -> Path:
    """Rows of a question on motion and a clip of the built-in world each, as a file beside its clips."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    moving = [pair for pair in read_pairs(CLIP_PAIRS_FILE) if pair.question.startswith("Which way")]
    for number, pair in enumerate(moving[:count]):
        clip = Part("video", clip_of(pair.split, pair.seed, pair.number))
        (folder / f"{number}.mkv").write_bytes(encoded(clip, "clip")[0])
        parts = [{"type": "video", "video": f"{number}.mkv"}, {"type": "text", "text": pair.question}]
        rows.append({"id": f"s{number}", "prompt": [{"role": "user", "content": parts}]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder / "rows.jsonl"


def shipped(name: str, rows: Path, output: Path, *overrides: str) -> _config.BuildConfig:
    """A shipped config of a build with the built-in model that watches, on rows of one's own."""
    given = [
        f"model.path={ROOT}/mmalign/shapes/models/video",
        f"prompts={{source: jsonl, path: {rows}}}",
        "num_prompts=null",
        "log.progress=false",
        f"output={output}",
    ]
    return _config.load(ROOT / f"configs/build/{name}.yaml", [*given, *overrides])
