"""Hiding places of pictures and clips from attention while a model answers (arXiv 2407.02477, BDHS).

The attention mask loses the hidden places as keys, at every step. It is changed where positions are made
already, from the true mask, and stay as they are: right before the language model, or, in families that
finish the mask above it (Gemma 3), one level higher.
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


class FinishedMask(Exception):
    """The language model is handed another mask than one of tokens."""


@contextmanager
def hiding(module: Any, hidden: Sequence[Sequence[int]], lengths: Sequence[int]) -> Iterator[None]:
    """Inside the block no token attends to the hidden places of its row; rows are of these lengths, padded on
    the left to the longest, and grow at the right. `module`: whose mask is changed, one that makes no
    positions of it.

    Raises FinishedMask, from the block, if the module is given no mask of tokens, or no positions either.
    """
    if not any(hidden):
        yield
        return
    width = max(lengths)
    seen = torch.ones(len(hidden), width, dtype=torch.bool)
    for row, places in enumerate(hidden):
        seen[row, [width - lengths[row] + place for place in places]] = False

    def hide(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs.get("attention_mask")
        if mask is None:  # left out upstream where no row is padded
            given = kwargs.get("inputs_embeds")
            given, cache = kwargs["input_ids"] if given is None else given, kwargs["past_key_values"]
            shape = len(given), given.shape[1] + (0 if cache is None else cache.get_seq_length())
            mask = torch.ones(shape, dtype=torch.long, device=given.device)
        if not isinstance(mask, Tensor) or mask.ndim != 2 or kwargs.get("position_ids") is None:
            raise FinishedMask
        cut = mask.clone()
        cut[:, :width] *= seen.to(mask)
        return args, {**kwargs, "attention_mask": cut}

    hook = module.register_forward_pre_hook(hide, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
