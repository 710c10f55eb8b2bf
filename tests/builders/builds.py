"""Small builds for tests: configs on tiny models, and a painter that answers at once."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import nn

from mmalign.builders import _run
from mmalign.builders._config import BuildConfig, from_tree
from mmalign.builders._model import Answering
from mmalign.types import Example, Message, Part, PreferenceSample

NUMBER = 5


@dataclass(frozen=True)
class Captions:
    """A source of a user's own, builders.builds:Captions: captions "1", "2", ... as prompts."""

    num: int = NUMBER

    def samples(self) -> Iterator[PreferenceSample]:
        """Samples with that prompt; the answer is of no interest here."""
        for number in range(self.num):
            prompt = (Message("text", (Part("text", f"caption {number}"),)),)
            example = Example(prompt, (Part("image", Image.new("RGB", (2, 2))),))
            yield PreferenceSample(f"c{number}", {"chosen": (example,)}, origin=f"captions row {number + 1}")


@dataclass(frozen=True)
class Red:
    """A judge of a user's own, builders.builds:Red: how red a picture is."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """The red value of the mean colour."""
        return {"score": float(response.data.resize((1, 1)).getpixel((0, 0))[0])}


class Painter:
    """Paints small pictures whose colour is decided by the seed; stands in for an adapter."""

    kind, frames = "surrogate", None
    policy = nn.Linear(1, 1, bias=False).requires_grad_(False)

    def generate(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        """A picture per seed."""
        colours = [tuple(random.Random(seed).randbytes(3)) for seed in seeds]
        return [Part("image", Image.new("RGB", (3, 2), colour)) for colour in colours]

    def fingerprint(self) -> str:
        """Always the same."""
        return "painter"


@contextmanager
def painting() -> Iterator[nn.Module]:
    """The painter's switch."""
    yield Painter.policy


def open_painter(*given: Any) -> Answering:
    """In place of `open_model`."""
    return Answering(Painter(), painting, {"path": "painter"})  # type: ignore[arg-type]


def load_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds on several threads load their models one after the other: transformers patches its own classes
    while it loads, and two at once can leave them patched."""
    lock, load = threading.Lock(), _run.open_model

    def locked(*given: Any) -> Answering:
        with lock:
            return load(*given)

    monkeypatch.setattr(_run, "open_model", locked)


def painted(output: Path, **sections: Any) -> BuildConfig:
    """A build whose model is never loaded: patch `_run.open_model` with `open_painter`."""
    tree: dict[str, Any] = {
        "builder": {"name": "best_of_n", "n": 3},
        "model": {"adapter": "diffusion", "path": "nowhere"},
        "prompts": {"source": "builders.builds:Captions"},
        "judge": "builders.builds:Red",
        "batch": 2,
        "log": {"progress": False},
        "output": str(output),
    }
    return from_tree(tree | sections, "test", allow_code=True)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a build but the lock, by its name."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}
