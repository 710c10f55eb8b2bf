"""How likely a model is to begin its answer with given words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mmalign.types import Adapter, Example, Message, Part, PreferenceSample
from mmalign.writers._turns import refuse_alike


def first_chances(
    adapter: Adapter, model: nn.Module, questions: Sequence[tuple[Message, ...]], words: Sequence[str]
) -> list[tuple[float, ...]]:
    """For every question the probabilities that its answer's first token is that of each word, temperature 1:
    one forward of every question, whatever the words. `adapter` must offer distributions; `model` is one of
    its kind. Raises UserError for words whose first tokens are the same, and as the adapter does."""
    roles = tuple(f"word {place}" for place in range(len(words)))
    rows, ids = [], []
    for number, turns in enumerate(questions):
        answers = {
            role: (Example(turns, (Part("text", word),)),) for role, word in zip(roles, words, strict=True)
        }
        sample = PreferenceSample(str(number), answers, origin=f"question {number}")
        prepared = adapter.prepare(sample, roles)
        first = [_first(row.data) for row in prepared.rows]
        refuse_alike(words, first)
        ids.append(first)
        rows.append(replace(prepared, rows=prepared.rows[:1]))
    batch = adapter.collate(adapter.encode(rows), roles[:1])
    draw = adapter.draw(batch, [0] * len(rows))
    scored = adapter.logprobs(model, batch, draw, frozenset({"distribution"}))
    assert scored.distribution is not None, "an adapter that offers distributions gives one"
    wanted = torch.tensor(ids, device=scored.values.device)  # [questions, words]
    chances = [
        scored.distribution.gather(column[:, None].expand_as(scored.mask).contiguous())[:, 0].exp()
        for column in wanted.unbind(1)
    ]
    return [tuple(own) for own in torch.stack(chances, 1).double().tolist()]


def _first(data: Mapping[str, Any]) -> int:
    """The first scored id of a row, as adapters that read sequences name it."""
    return int(data["ids"][int(data["start"])])
