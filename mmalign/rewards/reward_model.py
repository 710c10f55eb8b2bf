"""A trained reward model as a judge: a run's folder, its final/ folder, or a sequence classifier's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from mmalign._names import KINDS, class_of
from mmalign.messages import criticised
from mmalign.rewards._batch import BatchJudge
from mmalign.types import Example, Message, Part, PreferenceSample, UserError, derive_seed

ROLE = "response"


@dataclass(frozen=True)
class RewardModel(BatchJudge):
    """Scores a response as the model in `path` was trained to: higher is better, the unit is its own. A model
    that writes critiques (objective critique_rm) first writes one and is read behind it."""

    reads: ClassVar[frozenset[str]] = frozenset({"text"})

    path: str  # a reward run, its final/ folder, or a transformers sequence classifier
    batch: int = 16  # responses per forward

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise ValueError("path: must name a folder, got an empty string")
        if self.batch < 1:
            raise ValueError(f"batch: must be above 0, got {self.batch}")

    def ready(self) -> None:
        """Load the model. Raises UserError if the folder holds no reward model."""
        _ = self._adapter

    @cached_property
    def _adapter(self) -> Any:
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise UserError(f"reward_model: path: there is no folder {self.path}")
        if (folder / "config.yaml").is_file():  # a run
            if not (folder / "final").is_dir():
                raise UserError(f"reward_model: path: the run {self.path} has no final/ yet; let it finish")
            folder = folder / "final"
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = class_of(KINDS["model"], "reward_head")
        adapter = model.open(folder, device)
        adapter.policy.requires_grad_(False).eval()
        return adapter

    @torch.no_grad()
    def score_many(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float]]:
        """Every aspect by its name, and "score", the mean of the aspects."""
        adapter = self._adapter
        rows = [Example(prompt, (part,)) for prompt, part in zip(prompts, responses, strict=True)]
        if adapter.config.critiques:
            rows = self._criticised(rows)
        samples = [
            PreferenceSample(str(i), {ROLE: (row,)}, origin=f"response {i + 1}") for i, row in enumerate(rows)
        ]
        for sample in samples:
            adapter.check(sample, (ROLE,))
        found: list[Mapping[str, float]] = []
        for begin in range(0, len(samples), self.batch):
            some = [adapter.prepare(sample, (ROLE,)) for sample in samples[begin : begin + self.batch]]
            batch = adapter.collate(adapter.encode(some), (ROLE,))
            draw = adapter.draw(batch, list(range(len(some))))
            scored = adapter.logprobs(adapter.policy, batch, draw, frozenset()).take(batch.rows_of(ROLE))
            names = adapter.config.aspects
            for values, total in zip(scored.values.tolist(), scored.total().tolist(), strict=True):
                found.append(dict(zip(names, values, strict=True)) | {"score": total})
        return found

    def _criticised(self, rows: Sequence[Example]) -> list[Example]:
        """Every response with a critique that the model itself writes of it, which depends on these two
        alone. Where it writes nothing, the bare response, as in rows that were trained without a critique."""
        adapter, found = self._adapter, list[Example]()
        for begin in range(0, len(rows), self.batch):
            some = rows[begin : begin + self.batch]
            asked = [criticised(row.prompt, row.response) for row in some]
            seeds = [derive_seed(0, 0, _told(turns), "critique") for turns in asked]
            written = adapter.critiques(adapter.policy, asked, seeds)
            for row, turns, part in zip(some, asked, written, strict=True):
                found.append(Example(turns, (part,)) if part.data.strip() else row)
        return found


def _told(turns: Sequence[Message]) -> str:
    """All text of some turns, to tell random streams apart."""
    return "\n".join(part.data for turn in turns for part in turn.parts if part.kind == "text")
