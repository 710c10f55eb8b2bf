"""Pictures and clips on their way through a model: cut apart, told apart, and encoded once each.

A `Unit` is the smallest piece of media that a vision tower can encode alone: one picture or one clip, or all
media of a row where a family lays them out in a way that cannot be cut. Every family's forward asks the model
for its `get_image_features` / `get_video_features`; for the time of one forward we answer from features that
were computed once per distinct unit.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmalign.adapters._vision_parts import projector_of, tower_layers
from mmalign.types import UserError

MediaKind = Literal["image", "video"]
KINDS: tuple[MediaKind, ...] = ("image", "video")
METHOD: Mapping[MediaKind, str] = {"image": "get_image_features", "video": "get_video_features"}
PIXELS: Mapping[MediaKind, str] = {"image": "pixel_values", "video": "pixel_values_videos"}
GROUP = 16  # units of one call of the tower, at most
VALUES = 32 << 20  # values in one call, unless one unit has more: clips are far larger than pictures
TOWER = "tower"  # name of a unit's stored output of the tower


@dataclass(frozen=True)
class Unit:
    """What the processor made of one picture or clip: the tensors the tower reads, and their hash. `clip`: a
    clip whose frames are handed over as pictures, which its `kind` is then."""

    kind: MediaKind
    tensors: Mapping[str, Tensor]
    digest: bytes
    clip: bool = False

    @property
    def shown(self) -> MediaKind:
        """What the row holds, however it is handed over."""
        return "video" if self.clip else self.kind

    @classmethod
    def of(cls, kind: MediaKind, tensors: Mapping[str, Tensor]) -> Unit:
        """The unit with the hash of its content (16 bytes)."""
        digest = hashlib.blake2b(kind.encode(), digest_size=16)
        for name, value in sorted(tensors.items()):
            digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return cls(kind, tensors, digest.digest())


# ---------------------------------------------------------------- one row's tensors -> units


def cut(kind: MediaKind, tensors: Mapping[str, Tensor], count: int, tiles: Sequence[int] = ()) -> list[Unit]:
    """The tensors of a row's `count` pictures (clips) as units, one each where the layout can be cut.

    Layouts: flattened patches with a `*_grid_thw` of shape [count, 3] (Qwen-VL); one row of tiles
    [1, tiles, ...] with known numbers of tiles (Idefics, SmolVLM), or all tiles in one leading dimension
    (InternVL); a leading dimension of pictures (all others). What belongs to the whole row, such as its
    number of pictures, goes with every unit.
    """
    if count == 1:
        return [Unit.of(kind, tensors)]
    grid = next((name for name in tensors if name.endswith("_grid_thw")), None)
    if grid is not None:
        patches = [int(n) for n in tensors[grid].prod(-1)]
        parts = {name: value.split(patches if name != grid else 1) for name, value in tensors.items()}
    elif tiles and all(value.shape[:2] == (1, sum(tiles)) for value in tensors.values()):
        parts = {name: value.split(list(tiles), dim=1) for name, value in tensors.items()}
    elif tiles and all(len(value) == sum(tiles) for value in tensors.values()):
        parts = {name: value.split(list(tiles)) for name, value in tensors.items()}
    elif tensors[PIXELS[kind]].shape[0] == count:
        # a count of the row's pictures (LLaVA-OneVision) only tells "alone" from "with others"
        parts = {
            name: value.split(1) if value.shape[0] == count else (value.clamp(max=2),) * count
            for name, value in tensors.items()
        }
    else:
        return [Unit.of(kind, tensors)]
    return [Unit.of(kind, {name: value[i] for name, value in parts.items()}) for i in range(count)]


def together(units: Sequence[Unit]) -> dict[str, Tensor]:
    """The pixels of a row's units of one kind as the processor gave them: `cut` undone."""
    names = [name for name in (units[0].tensors if units else ()) if name.startswith("pixel_")]
    # a row of tiles is the one layout that also has a mask
    along = 1 if "pixel_attention_mask" in names else 0
    return {name: torch.cat([unit.tensors[name] for unit in units], dim=along) for name in names}


# ---------------------------------------------------------------- units -> features


def encode_units(
    core: nn.Module, units: Sequence[Unit], device: torch.device, together: int = GROUP
) -> list[Tensor]:
    """Features of every unit, [tokens, H] or [tiles, tokens, H] as the family gives them. Where deeper
    layers of the language model take features too (Qwen3-VL), those follow: [tokens, (1 + layers) * H].

    Units of equal shapes go through the tower `together` at a time, fewer if they are large. Gradients flow
    where weights take them.
    """
    found: list[Tensor | None] = [None] * len(units)
    groups: dict[Any, list[int]] = {}
    for place, unit in enumerate(units):
        groups.setdefault(_shape_key(unit), []).append(place)
    for members in groups.values():
        size = sum(value.numel() for value in units[members[0]].tensors.values())
        count = max(1, min(together, VALUES // size))
        for begin in range(0, len(members), count):
            part = members[begin : begin + count]
            for place, features in zip(part, _run(core, [units[i] for i in part], device), strict=True):
                found[place] = features
    return [features for features in found if features is not None]


def _shape_key(unit: Unit) -> Any:
    # counts of pictures in a row (batch_num_images) have no place of their own per unit: such units go alone
    alone = any(value.ndim < 2 for value in unit.tensors.values())
    shapes = tuple(sorted((name, tuple(value.shape)) for name, value in unit.tensors.items()))
    return unit.kind, shapes, unit.digest if alone else b""


def _run(core: nn.Module, units: Sequence[Unit], device: torch.device) -> list[Tensor]:
    joined = {name: torch.cat([unit.tensors[name] for unit in units]).to(device) for name in units[0].tensors}
    method = getattr(core, METHOD[units[0].kind])
    pixels = joined.pop(PIXELS[units[0].kind])  # the parameter's name is not the same in every version
    with _replayed(core, joined.pop(TOWER, None)):
        out = method(pixels, **joined, return_dict=True)
    given, deep = out.pooler_output, out.get("deepstack_features")
    if deep is not None:
        lengths = [len(one) for one in given]
        layers = [layer.split(lengths) if isinstance(layer, Tensor) else layer for layer in deep]
        given = [torch.cat(widths, dim=-1) for widths in zip(given, *layers, strict=True)]
    if isinstance(given, (list, tuple)):
        if len(units) == 1:
            return [torch.cat(list(given))]
        assert len(given) == len(units), f"{len(given)} features for {len(units)} pictures"
        return list(given)
    assert isinstance(given, Tensor)
    if len(units) == 1:
        return [given]
    return list(given.chunk(len(units)))


def run_tower(core: nn.Module, unit: Unit, device: torch.device) -> Tensor:
    """What the projector reads of a unit; for a frozen tower below a projector that trains."""
    caught: list[Tensor] = []
    hook = projector_of(core).register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    try:
        _run(core, [unit], device)
    finally:
        hook.remove()
    (found,) = caught
    return found


@contextmanager
def _replayed(core: nn.Module, tower: Tensor | None) -> Iterator[None]:
    """Inside the block the tower's layers pass their input on, and the projector reads `tower` instead of
    what comes out of them."""
    if tower is None:
        yield
        return
    layers = tower_layers(core)
    hook = projector_of(core).register_forward_pre_hook(lambda _, given: (tower, *given[1:]))
    for layer in layers:
        object.__setattr__(layer, "forward", lambda hidden, *_, **__: hidden)
    try:
        yield
    finally:
        hook.remove()
        for layer in layers:
            object.__delattr__(layer, "forward")


def joined_features(features: Sequence[Tensor]) -> Any:
    """The features of many units in the form in which `encode_units` found those of one: what a family's
    forward expects from its own feature method."""
    if features[0].ndim == 2:
        return tuple(features)
    if len({f.shape[1:] for f in features}) == 1:
        return torch.cat(list(features))
    return torch.cat([f.reshape(1, -1, f.shape[-1]) for f in features], dim=1)


def fitted(
    core: nn.Module, ids: Tensor, tokens: Mapping[MediaKind, int], features: Mapping[MediaKind, list[Tensor]]
) -> dict[MediaKind, list[Tensor]]:
    """The features as the forward wants them for the placeholders in `ids`.

    Raises UserError if there are more or fewer than places. The model itself does not notice this in every
    version: what is over would be read as text.
    """
    found = dict(features)
    for kind in (kind for kind in KINDS if features.get(kind)):
        listed = features[kind]
        places = int((ids == tokens[kind]).sum())
        given = sum(one.shape[:-1].numel() for one in listed)
        line_break = dict(core.named_parameters(recurse=False)).get("image_newline")
        if kind == "video" and line_break is not None and places == given + len(listed):
            # older releases put the line break behind a clip in the forward, behind all clips of one length
            found[kind] = [_with_breaks(listed, line_break)]
        elif places != given:
            raise UserError(
                f"{places} places for {kind} features in the text, but {given} features; the processor and "
                "the model of this folder do not belong together"
            )
    return found


def _with_breaks(features: Sequence[Tensor], line_break: Tensor) -> Tensor:
    """Clips of any lengths as one, [1, tokens, H], a line break after each but the last."""
    pieces = [
        piece for one in features for piece in (one.reshape(1, -1, one.shape[-1]), line_break[None, None])
    ]
    return torch.cat([piece.to(features[0]) for piece in pieces[:-1]], dim=1)


@contextmanager
def answering(core: nn.Module, features: Mapping[MediaKind, Sequence[Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Inside the block the model's feature methods answer with the given features, in row order.

    Yields stand-ins for the pixels, without which a forward would not ask. Raises UserError if the block ends
    and the model has not asked: it would have read the placeholders as text.
    """
    asked: set[MediaKind] = set()
    # releases that take features from outside want those for deeper layers picture by picture, too
    splits = "mm_encoder_outputs" in inspect.signature(core.forward).parameters
    width: int = core.get_input_embeddings().weight.shape[1]  # type: ignore[operator]

    def answer(kind: MediaKind, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)  # `generate` reads the signature to see what to hand over
        def answered(*_: Any, **__: Any) -> Any:
            asked.add(kind)
            return _answer(features[kind], width, splits)

        return answered

    kinds = [kind for kind in KINDS if features.get(kind)]
    for kind in kinds:
        object.__setattr__(core, METHOD[kind], answer(kind, getattr(core, METHOD[kind])))
    try:
        # not empty: LLaVA-NeXT takes no pixels for no picture
        yield {pixel_name(core, PIXELS[kind]): torch.empty(1) for kind in kinds}
    finally:
        for kind in kinds:
            object.__delattr__(core, METHOD[kind])
    for kind in kinds:
        if kind not in asked:
            raise UserError(
                f"{type(core).__name__}: its forward does not call {METHOD[kind]}, so that its {kind}s would "
                "go unseen; this family is not supported"
            )


def pixel_name(model: nn.Module, name: str) -> str:
    """The parameter of the model's forward that takes these pixels: Video-LLaVA had names of its own."""
    old = f"{name}_images"
    taken = inspect.signature(model.forward).parameters
    return old if old in taken and (name not in taken) else name


def _answer(features: Sequence[Tensor], width: int, splits: bool) -> Any:
    """What a feature method returns for these features; beyond `width` they are for deeper layers."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    layers = features[0].shape[-1] // width
    if layers <= 1:
        return BaseModelOutputWithPooling(pooler_output=joined_features(features))
    parts = [tuple(part) for part in zip(*(f.chunk(layers, dim=-1) for f in features), strict=True)]
    out: Any = BaseModelOutputWithPooling(pooler_output=parts[0])
    out.deepstack_features = parts[1:] if splits else [torch.cat(part) for part in parts[1:]]
    return out
