"""Answers sampled by upstream's own `generate`, which knows every family's positions; the choice is ours.

A logits processor leaves one id per row, drawn from that row's own random stream, and greedy search takes it.
So answers do not depend on how prompts are batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmalign.adapters._text_sampling import Sampling, answer, choose
from mmalign.adapters._vision_batch import prompt_inputs
from mmalign.adapters._vision_hiding import FinishedMask, hidden_places, hiding
from mmalign.adapters._vision_media import KINDS, answering, encode_units, fitted
from mmalign.adapters._vision_parts import core_of
from mmalign.adapters._vision_rows import Seen
from mmalign.types import Part, UserError

if TYPE_CHECKING:
    from mmalign.adapters._vision_lm import VisionLM


def sample_answers(
    adapter: VisionLM,
    model: nn.Module,
    seen: Sequence[Seen],
    seeds: Sequence[int],
    visible: Sequence[Tensor | None] | None = None,
) -> list[Part]:
    """One answer per prompt, or what follows one that is begun. `visible`: see `HidingCompleter`."""
    settings = adapter.config.generation
    new = sample_new(adapter, model, seen, seeds, settings, visible)
    texts = [text_of(adapter, list(one.ids[one.start :]), ids) for one, ids in zip(seen, new, strict=True)]
    return [
        answer(text, settings, len(ids), _room(adapter, one, settings))
        for text, one, ids in zip(texts, seen, new, strict=True)
    ]


def sample_new(
    adapter: VisionLM,
    model: nn.Module,
    seen: Sequence[Seen],
    seeds: Sequence[int],
    settings: Sampling,
    visible: Sequence[Tensor | None] | None = None,
) -> list[list[int]]:
    """New ids for every prompt without the id that ended them, batches of prompts of similar length."""
    hidden = hidden_places(seen, adapter.reader.ids, visible)
    order = sorted(range(len(seen)), key=lambda i: len(seen[i].ids))
    found: dict[int, list[int]] = {}
    for begin in range(0, len(order), settings.batch):
        chosen = order[begin : begin + settings.batch]
        rows = [seen[i] for i in chosen]
        new = _hidden_ids(
            adapter, model, rows, [seeds[i] for i in chosen], settings, [hidden[i] for i in chosen]
        )
        found |= dict(zip(chosen, new, strict=True))
    return [found[i] for i in range(len(seen))]


def _hidden_ids(
    adapter: VisionLM,
    model: Any,
    seen: Sequence[Seen],
    seeds: Sequence[int],
    settings: Sampling,
    hidden: Sequence[Sequence[int]],
) -> list[list[int]]:
    """New ids of one batch, with the hidden places of every row out of sight."""
    for module in (model.get_decoder(), core_of(model)):
        try:
            with hiding(module, hidden, [len(one.ids) for one in seen]):
                return _new_ids(adapter, model, seen, seeds, settings)
        except FinishedMask:
            continue
    raise UserError(
        f"{type(model).__name__}: hands its language model a finished attention mask, in which no places can "
        "be hidden; use another model"
    )


def _new_ids(
    adapter: VisionLM, model: Any, seen: Sequence[Seen], seeds: Sequence[int], settings: Sampling
) -> list[list[int]]:
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    room = [_room(adapter, one, settings) for one in seen]
    most = min(settings.max_new_tokens, max(room))
    core = core_of(model)
    units = {unit.digest: unit for one in seen for unit in one.units}
    features = dict(zip(units, encode_units(core, list(units.values()), adapter.device), strict=True))
    per_kind = {k: [features[u.digest] for one in seen for u in one.units if u.kind == k] for k in KINDS}
    inputs = prompt_inputs(seen, adapter.pad_id, adapter.device)
    stop = StoppingCriteriaList([_Stops(adapter, inputs["input_ids"].shape[1])] if settings.stop else [])
    fitting = fitted(core, inputs["input_ids"], adapter.reader.ids, per_kind)
    with answering(core, fitting) as pixels:
        out = model.generate(
            input_ids=inputs["input_ids"],
            **inputs["forward"],
            **pixels,
            generation_config=GenerationConfig(
                do_sample=False,
                num_beams=1,
                max_new_tokens=most,
                eos_token_id=list(adapter.end_ids),
                pad_token_id=adapter.end_ids[0],
                repetition_penalty=1.0,
                use_cache=True,
            ),
            logits_processor=LogitsProcessorList([_Draws(settings, seeds)]),
            stopping_criteria=stop,
        )
    answers = out[:, inputs["input_ids"].shape[1] :].tolist()
    return [_until_end(ids, adapter.end_ids)[:space] for ids, space in zip(answers, room, strict=True)]


def _room(adapter: VisionLM, seen: Seen, settings: Sampling) -> int:
    """Tokens that the answer may have."""
    limit = adapter.reader.rules.limit
    return settings.max_new_tokens if limit is None else limit - len(seen.ids)


class _Draws:
    """Leaves one id per row: the distribution inverted at the row's next uniform number."""

    def __init__(self, settings: Sampling, seeds: Sequence[int]) -> None:
        self._settings = settings
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in self._generators])
        chosen = choose(
            scores.float(), uniform.to(scores.device), self._settings.temperature, self._settings.top_p
        )
        return torch.full_like(scores, float("-inf")).scatter(1, chosen[:, None], 0.0)


class _Stops:
    """Ends a row at the first stop string of its answer."""

    def __init__(self, adapter: VisionLM, width: int) -> None:
        self._adapter, self._width = adapter, width

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        stop = self._adapter.config.generation.stop
        texts = [
            self._adapter.tokenizer.decode(ids, skip_special_tokens=True)
            for ids in input_ids[:, self._width :].tolist()
        ]
        ended = [any(end in text for end in stop) for text in texts]
        return torch.tensor(ended, device=input_ids.device)


def _until_end(ids: list[int], end_ids: Sequence[int]) -> list[int]:
    for place, token in enumerate(ids):
        if token in end_ids:
            return ids[:place]
    return ids


def text_of(adapter: VisionLM, begun: list[int], new: list[int]) -> str:
    """Text of the new ids, stop strings and all; behind a beginning, what they add to its text: decoding them
    alone would lose a leading space with some tokenizers."""
    before = str(adapter.tokenizer.decode(begun, skip_special_tokens=True)) if begun else ""
    text = str(adapter.tokenizer.decode([*begun, *new], skip_special_tokens=True))
    if text.startswith(before):
        return text[len(before) :]
    return str(adapter.tokenizer.decode(new, skip_special_tokens=True))
