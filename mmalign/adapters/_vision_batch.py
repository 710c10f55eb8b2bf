"""Rows of a model that looks as named tensors, and their layout in a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmalign.adapters._sequences import layout
from mmalign.adapters._vision_media import KINDS, Unit
from mmalign.adapters._vision_rows import Seen
from mmalign.types import Row


def row_data(seen: Seen) -> dict[str, Tensor]:
    """What the model sees as named tensors, see `VisionLM`."""
    data = {"ids": torch.tensor(seen.ids, dtype=torch.long), "start": torch.tensor([seen.start])}
    data |= {f"token.{name}": value for name, value in seen.per_token.items()}
    data |= {f"row.{name}": value for name, value in seen.others.items()}
    for place, unit in enumerate(seen.units):
        base = f"{unit.kind}.{place}"
        data[f"{base}.digest"] = torch.frombuffer(bytearray(unit.digest), dtype=torch.uint8)
        for name, value in unit.tensors.items():  # files of the cache allow no shared memory
            data[f"{base}.{name}"] = value if name.startswith("pixel_") else value.clone()
    if any(unit.clip for unit in seen.units):
        data["clips"] = torch.tensor([unit.clip for unit in seen.units])
    return data


def units_of(row: Row) -> list[Unit]:
    """The media of a row in order, each with its tensors (or its features)."""
    found: list[tuple[int, Unit]] = []
    for name in row.data:
        kind, _, rest = name.partition(".")
        if kind in KINDS and rest.endswith(".digest"):
            base = name.removesuffix("digest")
            tensors = {
                n.removeprefix(base): v for n, v in row.data.items() if n.startswith(base) and n != name
            }
            place = int(rest.partition(".")[0])
            found.append((place, Unit(kind, tensors, row.data[name].numpy().tobytes())))
    # a cache gives names in an order of its own
    units = [unit for _, unit in sorted(found, key=lambda entry: entry[0])]
    clips = row.data["clips"].tolist() if "clips" in row.data else [False] * len(units)
    return [replace(unit, clip=clip) for unit, clip in zip(units, clips, strict=True)]


def with_media(row: Row, kept: Mapping[bytes, Mapping[str, Tensor]]) -> Row:
    """The row with other tensors for its media, by their digests."""
    units = units_of(row)
    data = {n: v for n, v in row.data.items() if n.partition(".")[0] not in KINDS}
    seen: set[bytes] = set()
    for place, unit in enumerate(units):
        data[f"{unit.kind}.{place}.digest"] = torch.frombuffer(bytearray(unit.digest), dtype=torch.uint8)
        for name, value in kept[unit.digest].items():
            # files of the cache allow no shared memory, and a picture may stand in a row twice
            data[f"{unit.kind}.{place}.{name}"] = value.clone() if unit.digest in seen else value
        seen.add(unit.digest)
    return replace(row, data=data)


def row_key(data: Mapping[str, Tensor]) -> str:
    """The content of a row: its text tensors and the digests of its media."""
    digest = hashlib.sha256()
    for name, value in sorted(data.items()):
        if name.partition(".")[0] in KINDS and not name.endswith(".digest"):
            continue
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def batch_inputs(rows: Sequence[Row], pad_id: int, device: torch.device) -> dict[str, Any]:
    """`Batch.inputs` of rows in the given order, see `VisionLM.collate`."""
    texts = [(row.data["ids"], int(row.data["start"])) for row in rows]
    inputs: dict[str, Any] = {k: v.to(device) for k, v in layout(texts, pad_id).items()}
    width = inputs["input_ids"].shape[1]
    mask = torch.arange(width, device=device) < inputs["length"][:, None]
    forward = {"attention_mask": mask.long()}
    names = dict.fromkeys(name for row in rows for name in row.data)
    for name in (n for n in names if n.startswith("token.")):
        padded = torch.zeros(len(rows), width, dtype=torch.long)
        for place, row in enumerate(rows):
            if name in row.data:
                padded[place, : len(row.data[name])] = row.data[name]
        forward[name.removeprefix("token.")] = padded.to(device)
    for name in (n for n in names if n.startswith("row.")):
        joined = torch.cat([row.data[name] for row in rows if name in row.data])
        forward[name.removeprefix("row.")] = joined.to(device)
    return inputs | {"forward": forward} | _media_inputs(rows, device)


def _media_inputs(rows: Sequence[Row], device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in KINDS:
        distinct: dict[bytes, int] = {}
        kept: list[Any] = []
        order: list[int] = []
        for row in rows:
            for unit in units_of(row):
                if unit.kind != kind:
                    continue
                if unit.digest not in distinct:
                    distinct[unit.digest] = len(kept)
                    features = unit.tensors.get("features")
                    kept.append(unit if features is None else features.to(device))
                order.append(distinct[unit.digest])
        if order:
            found[f"{kind}.distinct"], found[f"{kind}.order"] = kept, order
    return found


def prompt_inputs(seen: Sequence[Seen], pad_id: int, device: torch.device) -> dict[str, Any]:
    """Inputs of prompts as `batch_inputs` lays them out, but with padding on the left."""
    rows = [Row("prompt", 0, row_data(one)) for one in seen]
    inputs = batch_inputs(rows, pad_id, device)
    width = inputs["input_ids"].shape[1]
    shift = [width - len(one.ids) for one in seen]

    def left(value: Tensor) -> Tensor:
        return torch.stack([row.roll(s) for row, s in zip(value, shift, strict=True)])

    inputs["input_ids"] = left(inputs["input_ids"])
    inputs["forward"] = {
        name: left(value) if value.shape == (len(rows), width) else value
        for name, value in inputs["forward"].items()
    }
    return inputs
