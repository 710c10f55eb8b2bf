"""Prepared rows of language models as people read them: text with its control tokens, and token counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from mmalign.adapters._vision_media import PIXELS, MediaKind, Unit
from mmalign.adapters._vision_rows import Reader
from mmalign.types import Row, RowView


def text_view(tokenizer: Any, row: Row, limit: int | None) -> RowView:
    """A row of text alone: `ids` [T] and `start` [1]."""
    ids, start = row.data["ids"].tolist(), int(row.data["start"])
    text, scored = _split(tokenizer, ids, start)
    return RowView({"prompt": start, "response": len(ids) - start}, limit, text, scored)


def seeing_view(reader: Reader, row: Row, units: Sequence[Unit]) -> RowView:
    """A row with media: runs of the ids that features replace are written in short. Clips count as clips,
    also where their frames are handed over as pictures."""
    processor, read = reader.processor, tuple(reader.markers)
    ids, start = row.data["ids"].tolist(), int(row.data["start"])
    kinds: dict[int, MediaKind] = {}
    for as_, token in reader.ids.items():
        own = [place for place in range(start) if ids[place] == token]
        kinds |= zip(own, _shown(as_, len(own), [unit for unit in units if unit.kind == as_]), strict=True)
    sizes = {kind: [_size(processor, unit) for unit in units if unit.shown == kind] for kind in read}
    runs = [(kind, list(run)) for kind, run in groupby(range(start), key=kinds.get)]
    held: dict[MediaKind, list[int]] = {kind: [] for kind in read}
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
    media = {str(kind): sum(counts) for kind, counts in held.items()}
    counts = {"prompt": start - sum(media.values()), **media, "response": len(ids) - start}
    listed = [f"{kind} {i}: {size}" for kind in sizes for i, size in enumerate(sizes[kind], 1)]
    return RowView(counts, reader.rules.limit, "".join(pieces), scored, tuple(listed))


def _shown(kind: MediaKind, count: int, units: Sequence[Unit]) -> list[MediaKind]:
    """What each of the `count` places of some units shows, in order. Where pictures and clips share them, all
    tiles and frames take equally many; places that do not are all of the kind that they are read as."""
    shown = {unit.shown for unit in units}
    if len(shown) < 2:
        return [next(iter(shown), kind)] * count
    parts = [math.prod(unit.tensors[PIXELS[kind]].shape[:-3]) for unit in units]
    each, rest = divmod(count, sum(parts))
    if rest:
        return [kind] * count
    return [unit.shown for unit, number in zip(units, parts, strict=True) for _ in range(number * each)]


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
    several = "" if count == 1 else f"{count} {'frames' if unit.shown == 'video' else 'tiles'} of "
    return f"{several}{pixels.shape[-1]}x{pixels.shape[-2]}"
