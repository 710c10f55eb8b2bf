"""What a greedy answer attended to among its pictures and clips, at one layer (arXiv 2410.17637, MIA-DPO).

The answer is scored once as a whole, which asks every layer what the steps of generating it asked. Only for
this forward, and only in the language model, attention is computed the plain way that keeps its weights; of
these one layer's are caught, so that memory holds those of one layer at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmalign.adapters._vision_batch import row_data
from mmalign.adapters._vision_places import Medium
from mmalign.adapters._vision_rows import Seen
from mmalign.adapters._vision_sampling import sample_new, text_of
from mmalign.types import Attended, Part, Prepared, Row, UserError

if TYPE_CHECKING:
    from mmalign.adapters._vision_lm import VisionLM

_SIDES = 4  # of a tensor of one picture: its pictures or tiles, channels, height, width


def attended(
    adapter: VisionLM,
    model: nn.Module,
    seen: Sequence[Seen],
    media: Sequence[Sequence[Medium]],
    layer: int | float,
) -> list[Attended]:
    """A greedy answer to every prompt with what it attended to. Raises UserError for a layer that is not
    there or keeps no attention."""
    settings = replace(adapter.config.generation, temperature=0.0, stop=())
    new = sample_new(adapter, model, seen, [0] * len(seen), settings)
    # a placeholder that the model writes itself would be read as a picture: what comes before it counts
    pictures = set(adapter.reader.ids.values())
    cut = [list(takewhile(lambda token: token not in pictures, ids)) for ids in new]
    found = []
    for one, ids, whole_ids, shown in zip(seen, cut, new, media, strict=True):
        space = min(settings.max_new_tokens, (adapter.reader.rules.limit or math.inf) - len(one.ids))
        ended = len(whole_ids) < space and len(ids) == len(whole_ids)
        whole = [*ids, adapter.end_ids[0]] if ended else ids
        certainty, weights = _scored(adapter, model, _answered(one, whole, adapter.reader.apart), layer)
        seen_by = None if weights is None else tuple(weights[list(medium.places)] for medium in shown)
        grids = tuple(grid_of(medium, adapter.merge) for medium in shown)
        answer = Part("text", text_of(adapter, list(one.ids[one.start :]), ids))
        found.append(Attended(answer, certainty, seen_by, grids))
    return found


def _answered(seen: Seen, new: Sequence[int], apart: bool) -> Seen:
    """The prompt with the new ids as its answer; one that stands `apart` has types of tokens of its own."""
    per_token = {
        name: torch.cat([value, value.new_full((len(new),), int(apart))])
        for name, value in seen.per_token.items()
    }
    return replace(seen, ids=(*seen.ids, *new), start=len(seen.ids), per_token=per_token)


def _scored(
    adapter: VisionLM, model: nn.Module, seen: Seen, layer: int | float
) -> tuple[Tensor, Tensor | None]:
    """Probabilities of the answer's tokens [n], and the attention of its steps behind the first to every
    place [T], mean over heads and steps; None where there is no such step."""
    if len(seen.ids) == seen.start:
        return torch.zeros(0), None
    row = Row("answer", 0, row_data(seen))
    batch = adapter.collate([Prepared("", (row,))], ["answer"])
    with plain_attention(model), catching(model, layer) as caught:
        scores = adapter.logprobs(model, batch, {}, frozenset())
    certainty = scores.values[0][scores.mask[0]].exp().cpu()
    (weights,) = caught
    # the token that a step adds is what the next step asks with; the last asks nothing
    steps = weights[0, :, seen.start : len(seen.ids) - 1].float()
    return certainty, steps.mean(dim=(0, 1)).cpu() if steps.shape[1] else None


@contextmanager
def plain_attention(model: Any) -> Iterator[None]:
    """Inside the block the language model, and nothing else, computes attention in the way that keeps its
    weights."""
    before = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation({"text_config": "eager"})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})


@contextmanager
def catching(model: Any, layer: int | float) -> Iterator[list[Tensor]]:
    """Inside the block forwards add the attention weights [N, heads, T, T] of a layer to the list.

    Raises UserError for a layer that is not there, and after the block if none were kept: attention computed
    in another way than the plain one gives none, and says nothing.
    """
    layers = model.get_decoder().layers
    number = layer if isinstance(layer, int) else int(layer * len(layers))
    if not 0 <= number < len(layers):
        raise UserError(f"layer: must be from 0 to {len(layers) - 1} in this model, got {layer:g}")
    try:
        module = layers[number].get_submodule("self_attn")
    except AttributeError as error:
        raise UserError(f"layer: {layer:g} is no layer of attention in this model; choose another") from error
    caught: list[Tensor] = []

    def catch(_: nn.Module, __: Any, given: Any) -> None:
        if isinstance(given, tuple) and len(given) > 1 and isinstance(given[1], Tensor):
            caught.append(given[1])

    hook = module.register_forward_hook(catch)
    try:
        yield caught
    finally:
        hook.remove()
    if len(caught) != 1 or caught[0].ndim != _SIDES:
        raise UserError(
            f"{type(model).__name__}: its layer {number} keeps no attention weights; use another model"
        )


def grid_of(medium: Medium, merge: int) -> tuple[int, int] | None:
    """Rows and columns in which a picture's places stand, one after another by rows; None where they stand
    otherwise: in tiles, with line breaks, or for a clip. `merge`: patches that a place has on each side."""
    if medium.kind != "image" or medium.unit is None:
        return None
    tensors = medium.unit.tensors
    count = len(medium.places)
    layout = next((value for name, value in tensors.items() if name.endswith("_grid_thw")), None)
    if layout is not None:
        times, rows, columns = (int(n) for n in layout[0])
        grid = rows // merge, columns // merge
        return grid if times == 1 and math.prod(grid) == count else None
    pixels = tensors["pixel_values"]
    side = math.isqrt(count)
    one = pixels.ndim >= _SIDES and math.prod(pixels.shape[:-3]) == 1 and pixels.shape[-1] == pixels.shape[-2]
    return (side, side) if one and side * side == count else None
