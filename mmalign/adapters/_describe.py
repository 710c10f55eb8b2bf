"""Prepared rows of language models as people read them: text with its control tokens, and token counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from mmalign.adapters._vision_media import PIXELS, MediaKind, Unit
from mmalign.types import Row, RowView


def text_view(tokenizer: Any, row: Row, limit: int | None) -> RowView:
    """A row of text alone: `ids` [T] and `start` [1]."""
    ids, start = row.data["ids"].tolist(), int(row.data["start"])
    text, scored = _split(tokenizer, ids, start)
    return RowView({"prompt": start, "response": len(ids) - start}, limit, text, scored)


def seeing_view(
    processor: Any, row: Row, places: Mapping[MediaKind, int], units: Sequence[Unit], limit: int | None
) -> RowView:
    """A row with media: runs of the ids in `places`, which features replace, are written in short."""
    ids, start = row.data["ids"].tolist(), int(row.data["start"])
    kinds = {token: kind for kind, token in places.items()}
    sizes = {kind: [_size(processor, unit) for unit in units if unit.kind == kind] for kind in places}
    runs = [(kind, list(run)) for kind, run in groupby(range(start), key=lambda i: kinds.get(ids[i]))]
    held: dict[MediaKind, list[int]] = {kind: [] for kind in places}
    pieces: list[str] = []
    for kind, run in runs:
        if kind is None:
            pieces.append(_decoded(processor.tokenizer, ids[run[0] : run[-1] + 1]))
            continue
        # one run for every medium: only then is it known which is whose
        alone = sum(one == kind for one, _ in runs) == len(sizes[kind])
        size = f", {sizes[kind][len(held[kind])]}" if alone else ""
        held[kind].append(len(run))
        pieces.append(f"<{kind}: {len(run)} places{size}>")
    tail = runs[-1][1][0] if runs and runs[-1][0] is None else start
    _, scored = _split(processor.tokenizer, ids[tail:], start - tail)
    media = sum(sum(counts) for counts in held.values())
    counts = {"prompt": start - media, "media": media, "response": len(ids) - start}
    listed = [f"{kind} {i}: {size}" for kind in sizes for i, size in enumerate(sizes[kind], 1)]
    return RowView(counts, limit, "".join(pieces), scored, tuple(listed))


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text)


def _split(tokenizer: Any, ids: Sequence[int], start: int) -> tuple[str, str]:
    """Text before and after a place; the end alone would lose a leading space with some tokenizers."""
    before, whole = _decoded(tokenizer, ids[:start]), _decoded(tokenizer, ids)
    if whole.startswith(before):
        return before, whole[len(before) :]
    return before, _decoded(tokenizer, ids[start:])


def _size(processor: Any, unit: Unit) -> str:
    """Width x height of what the tower reads of a medium, with its tiles or frames."""
    grid = next((value for name, value in unit.tensors.items() if name.endswith("_grid_thw")), None)
    if grid is not None and grid.numel() == 3:
        half = processor.image_processor if unit.kind == "image" else processor.video_processor
        depth, height, width = (int(n) for n in grid.flatten())
        frames = f"{depth * half.temporal_patch_size} frames of " if unit.kind == "video" else ""
        return f"{frames}{width * half.patch_size}x{height * half.patch_size}"
    pixels = unit.tensors.get(PIXELS[unit.kind])
    if pixels is None or pixels.ndim < 4:
        return f"{sum(value.numel() for value in unit.tensors.values())} values"
    count = math.prod(pixels.shape[:-3])
    several = "" if count == 1 else f"{count} {'frames' if unit.kind == 'video' else 'tiles'} of "
    return f"{several}{pixels.shape[-1]}x{pixels.shape[-2]}"
