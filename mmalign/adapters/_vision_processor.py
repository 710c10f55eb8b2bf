"""The processor of a model that looks, called on one text with its media, and what it is asked beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmalign.adapters._vision_media import KINDS, METHOD, PIXELS, MediaKind, Unit, cut
from mmalign.adapters._vision_parts import core_of
from mmalign.types import Clip, Part, UserError

_OLD_PIXELS = "pixel_values_images"  # Video-LLaVA's name for pixel_values
_CLOSE = 0.01  # seconds that a frame's time may be off its place at the mean rate, in a steady source


class Memo:
    """The processor, its picture and clip halves called once for the same list of media of a sample.

    Both sides of a pair mostly share their pictures; resizing them is the costly part of preparing a row.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._units: dict[tuple[MediaKind, tuple[int, ...]], tuple[Unit, ...]] = {}
        self._halves = {
            kind: _Once(half)
            for kind in KINDS
            if (half := getattr(processor, f"{kind}_processor", None)) is not None
        }

    def tower_inputs(self, kind: MediaKind) -> frozenset[str]:
        """Names of the outputs that the vision tower reads for this kind of media."""
        return frozenset(self._halves[kind].half.model_input_names) if kind in self._halves else frozenset()

    def tiles(self, media: Sequence[Any]) -> list[int]:
        """Tiles of every picture, where the processor says how it cut them; else empty. A clip whose frames
        are handed over as pictures has one for each frame."""
        images = [one for one in media if not isinstance(one, Clip)]
        out: Mapping[str, Any] = (self._halves["image"].last if images else None) or {}
        if "rows" in out:
            found = zip(out["rows"][0], out["cols"][0], strict=True)
            return [int(rows) * int(columns) + 1 for rows, columns in found]  # a whole one is 0 by 0
        if images and "num_patches" not in out:
            return []
        cuts = iter(out.get("num_patches", ()))
        return [len(one.frames) if isinstance(one, Clip) else int(next(cuts)) for one in media]

    def units(self, kind: MediaKind, media: Sequence[Any], outputs: Mapping[str, Tensor]) -> tuple[Unit, ...]:
        """The media of a list as units, the very same ones for every text that they stand in."""
        key = kind, tuple(id(value) for value in media)
        if key not in self._units:
            read = {name: value for name, value in outputs.items() if name in self.tower_inputs(kind)}
            tiles = self.tiles(media) if kind == "image" else []
            units = cut(kind, read, len(media), tiles)
            if kind == "image" and any(isinstance(one, Clip) for one in media):
                clips = [isinstance(one, Clip) for one in media]
                own = clips if len(units) == len(media) else [all(clips)] * len(units)
                units = [replace(unit, clip=clip) for unit, clip in zip(units, own, strict=True)]
            self._units[key] = tuple(units)
        return self._units[key]

    def __call__(
        self, text: str, media: Sequence[Part], where: str, suffix: str | None = None
    ) -> Mapping[str, Tensor]:
        """All outputs of the processor for one text. Raises UserError with the processor's reason."""
        images = [part.data for part in media if part.kind == "image"]
        clips: list[Clip] = [part.data for part in media if part.kind == "video"]
        if images and clips and self._halves["video"].half.model_input_names[0] == PIXELS["image"]:
            raise UserError(
                f"{where}: has pictures and clips; this model takes either (its processor has one place for "
                "both); leave one out"
            )
        # some templates write it, others leave it to the tokenizer
        start = self._processor.tokenizer.bos_token
        given: dict[str, Any] = {"text": [text], "return_tensors": "pt"}
        given["add_special_tokens"] = not (start and text.startswith(start))
        if suffix is not None:
            given["suffix"] = [suffix]
        if images:
            given["images"] = [images]
        if clips:
            given["videos"] = [[clip.frames for clip in clips]]
            given["do_sample_frames"] = False
            given["video_metadata"] = [[_metadata(clip) for clip in clips]]
        before = {kind: getattr(self._processor, f"{kind}_processor") for kind in self._halves}
        for kind, half in self._halves.items():
            half.media = tuple(id(value) for value in (images if kind == "image" else clips))
            object.__setattr__(self._processor, f"{kind}_processor", half)
        try:
            out = self._processor(**given)
        except (ValueError, TypeError, RuntimeError, StopIteration, IndexError, ZeroDivisionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{where}: the model's processor refuses its media ({_sizes(images, clips)}): "
                f"{reason[:200]}; try other sizes, see the model's own description"
            ) from error
        finally:
            for kind, half in before.items():
                object.__setattr__(self._processor, f"{kind}_processor", half)
        found = {name: torch.as_tensor(value) for name, value in out.items()}
        if _OLD_PIXELS in found:
            found[PIXELS["image"]] = found.pop(_OLD_PIXELS)
        return found


def _sizes(images: Sequence[Any], clips: Sequence[Clip]) -> str:
    """Media with their sizes, for messages."""
    pictures = [f"picture {one.width}x{one.height}" for one in images]
    videos = [f"clip of {len(c.frames)} frames {c.frames.shape[3]}x{c.frames.shape[2]}" for c in clips]
    return ", ".join([*pictures, *videos]) or "none"


class _Once:
    """A picture or clip processor that remembers what it made of a list of media."""

    def __init__(self, half: Any) -> None:
        self.half = half
        self.media: tuple[int, ...] = ()
        self.last: Any = None
        self._made: dict[Any, Any] = {}

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.media not in self._made:
            self._made[self.media] = self.half(*args, **options)
        self.last = self._made[self.media]
        return type(self.last)(dict(self.last))  # a processor may take keys out of what it is given

    def __getattr__(self, name: str) -> Any:
        return getattr(self.half, name)


def _metadata(clip: Clip) -> Any:
    from transformers.video_utils import VideoMetadata

    height, width = clip.frames.shape[-2:]
    places = _told_places(clip)
    return VideoMetadata(
        total_num_frames=_told_total(clip, places),
        fps=clip.rate,
        width=int(width),
        height=int(height),
        duration=clip.total / clip.rate,
        video_backend=clip.reader,
        frames_indices=places,
    )


def _told_places(clip: Clip) -> list[float]:
    """Places of the frames, which some models are told times by, place / rate. Where the rate varies, places
    that give the true times."""
    steady = all(
        abs(place / clip.rate - second) <= _CLOSE
        for place, second in zip(clip.indices, clip.seconds, strict=True)
    )
    return list(clip.indices) if steady else [second * clip.rate for second in clip.seconds]


def _told_total(clip: Clip, places: Sequence[float]) -> float:
    """Frames among which those of the clip were chosen, by whose ratio other models are told its pace: all of
    the source where the frames are spread over it, and else the part that they cover."""
    if len(places) == 1:
        return clip.total
    step = (places[-1] - places[0]) / (len(places) - 1)
    spread = places[0] < step and places[-1] + step >= clip.total
    return clip.total if spread else len(places) * step


def markers_of(
    processor: Any, model: Any, media: frozenset[str]
) -> tuple[dict[MediaKind, str], dict[MediaKind, int]]:
    """The placeholder a chat template writes for every kind of media the processor knows, and the id that its
    features replace: in Gemma 3 that of another token, which the processor puts behind the placeholder. Clips
    have none where the model reads their frames as pictures."""
    core = core_of(model)
    markers: dict[MediaKind, str] = {}
    ids: dict[MediaKind, int] = {}
    for kind in (kind for kind in KINDS if kind in media):
        token = getattr(processor, f"{kind}_token", None)
        if token is not None and getattr(processor, f"{kind}_processor", None) is not None:
            markers[kind] = str(getattr(token, "content", token))
            own = getattr(model.config, f"{kind}_token_id", None)
            if hasattr(core, METHOD[kind]):  # else frames are handed over as pictures
                id_ = processor.tokenizer.convert_tokens_to_ids(markers[kind]) if own is None else own
                ids[kind] = int(id_)
    return markers, ids
