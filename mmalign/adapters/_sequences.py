"""What every adapter that scores sequences token by token does alike, whatever its prompts hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmalign.adapters import _tokens
from mmalign.adapters._distribution import Head, TiledDistribution, token_log_probs
from mmalign.adapters._saving import save_lora
from mmalign.types import Batch, LogProbs, Prepared, Row, UserError


class Lengths(Protocol):
    """The fields of a config that say how long rows may be and how they end."""

    @property
    def max_length(self) -> int | None:
        """Tokens of a row; None: what the model can place."""

    @property
    def over_long(self) -> Literal["refuse", "cut_response"]:
        """What is done with longer ones."""

    @property
    def append_eos(self) -> bool:
        """Whether the end token is put behind responses that no chat template ends."""


def rules_of(
    config: Lengths, tokenizer: Any, positions: int | None, banned: Sequence[str], folder: Path
) -> _tokens.Rules:
    """How text becomes ids. Raises UserError for more tokens than the model can place, and for an end token
    that is wanted and not there."""
    if config.max_length and positions and config.max_length > positions:
        raise UserError(
            f"model.max_length: {config.max_length} is more than the {positions} positions of {folder}"
        )
    eos_id = tokenizer.eos_token_id if config.append_eos else None
    if config.append_eos and eos_id is None:
        raise UserError(f"{folder}: the tokenizer has no end token; set model.append_eos: false")
    return _tokens.Rules(eos_id, config.max_length or positions, config.over_long, tuple(banned))


def batch_of(
    encoded: Sequence[Prepared], roles: Sequence[str], inputs_of: Callable[[Sequence[Row]], dict[str, Any]]
) -> Batch:
    """Rows of the given roles as one batch, by role, sample and slot; `inputs_of` lays them out."""
    listed = [
        (roles.index(row.role), sample, row)
        for sample, one in enumerate(encoded)
        for row in one.rows
        if row.role in roles
    ]
    listed.sort(key=lambda entry: (entry[0], entry[1], entry[2].slot))
    if not listed:
        raise UserError(f"no sample of this batch has a response in the roles {', '.join(roles)}")
    rows = [row for _, _, row in listed]
    return Batch(
        inputs=inputs_of(rows) | {"response": response_ids(rows)},
        roles=tuple(roles),
        row_role=torch.tensor([role for role, _, _ in listed]),
        row_sample=torch.tensor([sample for _, sample, _ in listed]),
        row_slot=torch.tensor([row.slot for _, _, row in listed]),
        sample_ids=tuple(one.sample_id for one in encoded),
    )


def score(model: nn.Module, hidden: Tensor, batch: Batch, needs: frozenset[str]) -> LogProbs:
    """Log-probability of every response token from `hidden` [N, T, H]; the output head sees response
    positions only, in tiles."""
    inputs, index = batch.inputs, batch.inputs["index"]
    read = hidden.flatten(0, 1).index_select(0, inputs["source"])
    head = Head.of(model)
    scored = token_log_probs(read, inputs["target"], head)
    values = torch.zeros(index.numel(), device=index.device).index_copy(0, inputs["place"], scored)
    kind = hidden.device.type
    running = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    whole = TiledDistribution(read, index, head, autocast=running) if "distribution" in needs else None
    return LogProbs(
        values=values.view(index.shape),
        mask=index >= 0,
        kind="exact",
        unit="token",
        sample=batch.row_sample,
        slot=batch.row_slot,
        distribution=whole,
        ids=inputs["response"] if "tokens" in needs else None,
    )


def response_ids(rows: Sequence[Row]) -> Tensor:
    """The scored ids of every row, [N, K] long on the CPU, -1 behind their end."""
    return pad_sequence([row.data["ids"][int(row.data["start"]) :] for row in rows], True, -1)


def refuse_full(lengths: Sequence[int], limit: int | None) -> None:
    """Raise UserError for a prompt that leaves no place for a token of its answer."""
    for number, length in enumerate(lengths):
        if limit is not None and length >= limit:
            raise UserError(
                f"prompt {number}: has {length} tokens, so that none of the {limit} allowed is left for a "
                "response"
            )


def recompute_activations(policy: Any) -> None:
    """Have the layers recompute their activations in backward (acts while the policy is in training mode)."""
    # Renamed in transformers 5.23; the old name goes in version 6.
    enable = getattr(policy, "activation_checkpointing_enable", None) or policy.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def save(
    model: Any, reader: Any, folder: Path, lora: str | None, base: str, task: str | None = "CAUSAL_LM"
) -> None:
    """Write what transformers loads, the model with its tokenizer or processor, or with `lora` the PEFT
    folder of that adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    if lora is not None:
        save_lora(model, folder, lora, base, task)
        return
    if any(".lora_" in name for name, _ in model.named_parameters()):
        raise ValueError("this model carries LoRA layers: name the adapter to save, or merge it first")
    model.save_pretrained(folder)
    reader.save_pretrained(folder)


def end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a generated response."""
    listed = model.generation_config.eos_token_id
    listed = listed if isinstance(listed, list) else [listed]
    return tuple(sorted({i for i in (*listed, tokenizer.eos_token_id) if i is not None}))


def layout(rows: Sequence[tuple[Tensor, int]], pad_id: int) -> dict[str, Tensor]:
    """Padded ids and the places of the scored tokens, see `CausalLM.collate`."""
    lengths = torch.tensor([len(ids) for ids, _ in rows])
    starts = torch.tensor([start for _, start in rows])
    width, units = int(lengths.max()), lengths - starts
    input_ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    for row, (ids, _) in enumerate(rows):
        input_ids[row, : len(ids)] = ids
    mask = torch.arange(int(units.max())) < units[:, None]
    unit = torch.arange(mask.shape[1]).expand(mask.shape)
    target_place = (torch.arange(len(rows))[:, None] * width + starts[:, None] + unit)[mask]
    index = torch.full(mask.shape, -1, dtype=torch.long)
    index[mask] = torch.arange(len(target_place))
    return {
        "input_ids": input_ids,
        "source": target_place - 1,
        "target": input_ids.flatten()[target_place],
        "place": torch.nonzero(mask.flatten()).flatten(),
        "index": index,
        "length": lengths,
    }
