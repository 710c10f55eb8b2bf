"""Hiding places of pictures and clips from attention while a model answers (arXiv 2407.02477, BDHS).

The attention mask that the language model is given loses the hidden places as keys, at every step. It is
changed right before the language model: positions are made from the true mask above it and stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.adapters._vision_media import MediaKind
from mmalign.adapters._vision_places import visual_places
from mmalign.adapters._vision_rows import Seen
from mmalign.types import UserError


def hidden_places(
    seen: Sequence[Seen], tokens: Mapping[MediaKind, int], visible: Sequence[Tensor | None] | None
) -> list[list[int]]:
    """Places to hide of every row. Raises UserError unless `visible` has one bool for each place of media."""
    if visible is None:
        return [[] for _ in seen]
    found: list[list[int]] = []
    for number, (one, mask) in enumerate(zip(seen, visible, strict=True)):
        places = visual_places(one, tokens)
        if mask is None:
            found.append([])
            continue
        if mask.dtype != torch.bool or mask.shape != (len(places),):
            raise UserError(
                f"prompt {number}: visible: must be bool [{len(places)}], one for each place of its media, "
                f"got {str(mask.dtype).removeprefix('torch.')} {list(mask.shape)}"
            )
        found.append([place for place, shown in zip(places, mask.tolist(), strict=True) if not shown])
    return found


@contextmanager
def hiding(model: Any, hidden: Sequence[Sequence[int]], lengths: Sequence[int]) -> Iterator[None]:
    """Inside the block no token attends to the hidden places of its row; rows are of these lengths, padded on
    the left to the longest, and grow at the right.

    Raises UserError for a family that hands its language model another mask than one of tokens.
    """
    if not any(hidden):
        yield
        return
    width = max(lengths)
    seen = torch.ones(len(hidden), width, dtype=torch.bool)
    for row, places in enumerate(hidden):
        seen[row, [width - lengths[row] + place for place in places]] = False

    def hide(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs.get("attention_mask")
        if mask is None:  # left out upstream where no row is padded
            given, cache = kwargs["inputs_embeds"], kwargs["past_key_values"]
            shape = len(given), given.shape[1] + (0 if cache is None else cache.get_seq_length())
            mask = torch.ones(shape, dtype=torch.long, device=given.device)
        if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] < width:
            raise UserError(
                f"{type(model).__name__}: hands its language model a finished attention mask, in which no "
                "places can be hidden; use another model"
            )
        cut = mask.clone()
        cut[:, :width] *= seen.to(mask)
        return args, {**kwargs, "attention_mask": cut}

    hook = model.get_decoder().register_forward_pre_hook(hide, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
