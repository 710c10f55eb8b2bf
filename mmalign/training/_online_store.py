"""Rounds on the disk: what was sampled, judged and chosen in each, written whole or not at all.

A round is a folder `rounds/00007` with `round.json` and the media, as PNG, or paths and clips, as
safetensors, that its samples name. A run that goes on in the middle of a round reads it back.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from mmalign.clips import Clip
from mmalign.data._paths import File
from mmalign.training import _files
from mmalign.types import Part, UserError

FORMAT = 1
_RECORD = "round.json"


@dataclass(frozen=True)
class Draft:
    """One sample of a round: its answers by role, and the rows of their paths where it learns from those."""

    id: str
    prompt: str  # id of the prompt
    answers: Mapping[str, Part]
    labels: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # of the answers, by role
    paths: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    offline: bool = False  # the prompt's own pair of the data, which is read there
    told: Mapping[str, Any] = field(default_factory=dict)  # how answers came about, by role; for people


class RoundStore:
    """The rounds of one run."""

    def __init__(self, output: Path) -> None:
        self.folder = output / "rounds"

    def of(self, number: int) -> Path:
        """The folder of a finished round."""
        return self.folder / f"{number:05d}"

    def begin(self, number: int) -> None:
        """An empty folder for a round that is being made; on one process."""
        fresh = self._fresh(number)
        if fresh.exists():
            _files.remove_tree(fresh)
        fresh.mkdir(parents=True)

    def add(self, number: int, draft: Draft, name: str) -> dict[str, Any]:
        """Write the files of a sample, which begin with `name`, and return its record; on any process."""
        folder, answers = self._fresh(number), {}
        for role, part in draft.answers.items():
            answers[role] = _written(folder, f"{name}-{role}", part)
        record: dict[str, Any] = {"id": draft.id, "prompt": draft.prompt, "answers": answers}
        record |= {"labels": dict(draft.labels), "scores": {r: dict(s) for r, s in draft.scores.items()}}
        if draft.offline:
            record["offline"] = True
        if draft.told:
            record["told"] = dict(draft.told)
        if draft.paths:
            file = f"path-{name}.safetensors"
            tensors = {f"{role}/{key}": v for role, row in draft.paths.items() for key, v in row.items()}
            _tensors(folder / file, tensors)
            record["paths"] = file
        return record

    def finish(self, number: int, record: Mapping[str, Any]) -> None:
        """Make the round appear with its record; on one process, when all have written."""
        fresh, final = self._fresh(number), self.of(number)
        _files.replace_bytes(fresh / _RECORD, _files.json_bytes({"format": FORMAT, **record}))
        if final.exists():
            _files.remove_tree(final)
        _files.rename(fresh, final)
        _files.sync(self.folder)

    def record(self, number: int) -> dict[str, Any] | None:
        """The record of a round, None if it is not there; UserError if the file is none."""
        path = self.of(number) / _RECORD
        if not path.is_file():
            return None
        try:
            record = dict(_files.read_json(path))
            if record["format"] != FORMAT:
                raise ValueError(f"its format is {record['format']!r}, this version reads {FORMAT}")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a round's record ({error}); remove {path.parent}") from error
        return record

    def read(self, number: int) -> dict[str, Any] | None:
        """The record of a whole round; None if it is not there, or files that it names are gone."""
        record = self.record(number)
        named = [] if record is None else [file for sample in record["samples"] for file in _named(sample)]
        return record if all((self.of(number) / file).is_file() for file in named) else None

    def answer(self, number: int, held: Mapping[str, Any]) -> Part:
        """One answer of a record; pictures are read when they are decoded."""
        folder = self.of(number)
        if "text" in held:
            return Part("text", held["text"])
        if "image" in held:
            return Part("image", File(str(folder), held["image"]))
        frames = load_file(folder / held["video"])["frames"]
        return Part("video", Clip(frames, **{k: _plain(v) for k, v in held["clip"].items()}))

    def paths(self, number: int, sample: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
        """The rows of a sample's paths, by role."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, value in load_file(self.of(number) / sample["paths"]).items():
            role, _, key = name.rpartition("/")
            found.setdefault(role, {})[key] = value
        return found

    def forget_paths(self, before: int) -> None:
        """Remove the paths of rounds before one, which no step can ask for again; the rest stays to see."""
        for folder in sorted(self.folder.glob("[0-9]*")):
            if folder.name.isdecimal() and int(folder.name) < before:
                for file in folder.glob("path-*.safetensors"):
                    file.unlink()

    def _fresh(self, number: int) -> Path:
        return self.folder / f".{number:05d}.tmp"


def _named(sample: Mapping[str, Any]) -> list[str]:
    held = [one[kind] for one in sample["answers"].values() for kind in ("image", "video") if kind in one]
    return [*held, *([sample["paths"]] if "paths" in sample else [])]


def _written(folder: Path, name: str, part: Part) -> dict[str, Any]:
    if part.kind == "text":
        return {"text": part.data}
    if isinstance(part.data, Image.Image):
        buffer = io.BytesIO()
        part.data.convert("RGB").save(buffer, format="PNG")
        _files.replace_bytes(folder / f"{name}.png", buffer.getvalue())
        return {"image": f"{name}.png"}
    clip = part.data
    assert isinstance(clip, Clip), "an adapter answers with a text, a picture or a clip"
    _tensors(folder / f"{name}.safetensors", {"frames": clip.frames.contiguous()})
    facts: dict[str, Any] = {"indices": list(clip.indices), "seconds": list(clip.seconds), "rate": clip.rate}
    facts |= {"total": clip.total, "reader": clip.reader}
    return {"video": f"{name}.safetensors", "clip": facts}


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    _files.write_tensors(path, {name: value.contiguous().clone() for name, value in tensors.items()})
    _files.sync(path)
