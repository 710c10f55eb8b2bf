"""What a latent-diffusion adapter reads: pictures or clips under captions, prepared and encoded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmalign.adapters._autoencoder import Latents
from mmalign.adapters._buckets import Frame, Size, bucket_sizes, sample_bucket
from mmalign.adapters._captions import Captions
from mmalign.adapters._clip_pixels import clip_of, clip_pixels
from mmalign.adapters._long_captions import LongCaptions
from mmalign.adapters._pictures import fitted, picture_of
from mmalign.adapters._pipeline import Parts, fitting_resolution
from mmalign.adapters._pipeline_saving import fingerprint_of
from mmalign.adapters._segments import num_segments
from mmalign.adapters._transfer import sent
from mmalign.adapters._transitions import PATH
from mmalign.adapters._user_files import add_users
from mmalign.adapters._users import INDEX, users_of
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import Batch, Clip, Example, Frames, PreferenceSample, Prepared, Row, RowView, UserError

_OF_MEDIA = ("time_ids", "scale")  # of a Condition: what is a picture's or clip's own, not its caption's
_OWN = (*_OF_MEDIA, "segments", INDEX)  # all that `prepare` gives of a medium and `encode` passes on
_READ_HERE = ("segments", "path_guidance")  # their numbers shape the work of the host
PROMPT = "prompt"  # the role of a caption whose medium is yet to be
_PREPARATION = "square-lanczos-1"  # change it when prepare or encode give other tensors for the same row


class DenoiserRows:
    """Rows of one picture or clip each, over the frozen autoencoder and text encoders of a pipeline."""

    def __init__(self, config: Diffusion, parts: Parts, device: torch.device) -> None:
        """Move the frozen parts to `device`. Raises UserError if sizes do not fit the autoencoder."""
        self.device = device
        self._config, self._parts, self._family = config, parts, parts.family
        for encoder in parts.encoders:
            encoder.to(device)
        if config.user is not None:
            if not parts.family.users:
                name = parts.family.pipeline.__name__
                raise UserError(f"model.user: a {name} cannot be told of users; Stable Diffusion and XL can")
            add_users(parts.denoiser, config.user, "model.user")
        self._latents = Latents(parts.family, parts.pipeline, device)
        self.resolution = fitting_resolution(parts, config.resolution, self._latents.factor)
        self.frames = _frames(config, parts, self._latents.frame_factor)
        read = LongCaptions if config.long_captions == "segments" else Captions
        self._captions: Captions = read(parts.family, parts.pipeline, parts.zeros_for_empty)
        # on the device once and for all: copied for every batch, the host would wait for the device
        self._empty = {f"empty_{name}": value.to(device) for name, value in self._captions.empty.items()}
        distribution = self._family.autoencoder.distribution
        plain = ("mean", "logvar") if distribution else ("mean",)
        mirrored = tuple(f"flipped_{name}" for name in plain) if config.flip else ()
        self._moments = (*plain, *mirrored)
        step = self._latents.factor * self._family.multiple
        coarse = step * max(1, self.resolution // (8 * step))  # an eighth of the side, where that fits
        sizes = bucket_sizes(self.resolution, step if self.resolution % coarse else coarse)
        most = self._family.largest(parts.denoiser)
        self._buckets = tuple(s for s in sizes if most is None or max(s) <= most * self._latents.factor)
        self._written = tuple(name for name in self._family.conditions if name not in _OF_MEDIA)
        self._fingerprint: str | None = None
        if config.segments is not None and config.segments > (self._latent_frames or 0):
            told = self._latent_frames or "no"
            raise UserError(f"model.segments: {config.segments} of a clip with {told} latent frames")

    @property
    def _latent_frames(self) -> int | None:
        """Latent frames of a clip; None for pictures."""
        if self.num_frames is None:
            return None
        return self._latents.shape(self.resolution, self.resolution, self.num_frames)[1]

    @property
    def num_frames(self) -> int | None:
        """Frames of a clip; None for pictures."""
        return None if self.frames is None else self.frames.count

    @property
    def clip_rate(self) -> float:
        """Frames per second of sampled clips: those that clips are cut at, or else the family's own."""
        pace = None if self.frames is None else self.frames.pace
        return pace or self._family.frame_rate

    def check(self, sample: PreferenceSample, roles: Sequence[str]) -> tuple[str, ...]:
        """What is shortened or enlarged in the sample: captions longer than a text encoder takes lose their
        end, as is usual for these families. Raises UserError unless every response of the roles is one
        picture, or one clip of the right length, under one caption."""
        found = []
        self._num_segments(sample)
        if self._user_index(sample) == -1:
            found.append("rows of no known user, scored in the neutral mode")
        for role in roles:
            for slot, example in enumerate(sample.examples.get(role, ())):
                caption, medium = self._read(sample, role, slot, example)
                cut = "captions cut to fit"
                if cut not in found and self._captions.too_long(caption):  # of rows, whose sides share it
                    found.append(cut)
                if medium is None:
                    continue
                size = medium.frames.shape[-2:] if self._family.video else medium.size
                if min(size) < self.resolution:
                    found.append("clips enlarged" if self._family.video else "pictures enlarged")
        return tuple(found)

    def _read(self, sample: PreferenceSample, role: str, slot: int, example: Example) -> tuple[str, Any]:
        where = f"{sample.origin or sample.id}: {role}"
        if len(sample.examples[role]) > 1:
            where += f"[{slot}]"
        caption = self._captions.read(example.prompt, where)
        if role == PROMPT:
            return caption, None
        if self.num_frames is None:
            return caption, picture_of(example.response, where)
        return caption, clip_of(example.response, self.num_frames, where)

    def _num_segments(self, sample: PreferenceSample) -> int | None:
        where = sample.origin or sample.id
        return num_segments(sample.labels, self._config.segments, self._latent_frames, where)

    def prepare(self, sample: PreferenceSample, roles: Sequence[str]) -> Prepared:
        """Rows with `pixels` uint8 [3, R, R], or [F, 3, R, R] of a clip, `caption` str and, where the
        denoiser is told of them, sizes `time_ids` or the `scale` of time and space, float32, of this very
        picture or clip."""
        read = [
            (role, slot, *self._read(sample, role, slot, example))
            for role in roles
            for slot, example in enumerate(sample.examples.get(role, ()))
        ]
        size = self._size_of(sample)
        told = {"segments": self._num_segments(sample), INDEX: self._user_index(sample)}
        own = {name: number for name, number in told.items() if number is not None}
        return Prepared(sample.id, tuple(self._prepared_row(*one, size, own) for one in read))

    def _user_index(self, sample: PreferenceSample) -> int | None:
        """Place of the sample's user in the table, -1 for one without a vector; None for a model without."""
        if (table := users_of(self._parts.denoiser)) is None:
            return None
        user = sample.labels.get("user")
        return table.names.index(str(user)) if user is not None and str(user) in table.names else -1

    def _size_of(self, sample: PreferenceSample) -> Size:
        """Width and height that all media of a sample are brought to, whichever roles are asked for."""
        if self._config.buckets == "square":
            return (self.resolution, self.resolution)
        sizes = {
            role: [_size(part.data) for one in examples for part in one.response if _decoded(part.data)]
            for role, examples in sample.examples.items()
        }
        return sample_bucket({role: listed for role, listed in sizes.items() if listed}, self._buckets)

    def _prepared_row(
        self, role: str, slot: int, caption: str, medium: Any, size: Size, own: Mapping[str, int]
    ) -> Row:
        said = hashlib.blake2b(caption.encode("utf-8", "surrogatepass"), digest_size=16)
        written = {f"said-{said.hexdigest()}": self._written}
        if medium is None:
            return Row(role, slot, {"caption": caption}, f"prompt-{said.hexdigest()}", written)
        frame = Frame.of(_size(medium), size)
        pixels = clip_pixels(medium, frame) if self._family.video else fitted(medium, frame)
        data: dict[str, Any] = {"pixels": pixels, "caption": caption}
        seen = hashlib.blake2b(pixels.numpy().tobytes(), digest_size=16)
        seen.update(f"\x1f{_PREPARATION}\x1f{tuple(pixels.shape)}".encode())
        whole = hashlib.blake2b(seen.digest() + said.digest(), digest_size=16)
        if self._family.sizes is not None:
            data["time_ids"] = self._family.sizes(frame.time_ids().tolist())
            whole.update(f"{data['time_ids'].tolist()}".encode())
        if self._family.clip_scale is not None:
            data["scale"] = self._family.clip_scale(self._parts.pipeline, medium.sampled_rate)
            whole.update(f"{data['scale'].tolist()}".encode())
        for name, number in own.items():
            data[name] = torch.tensor(number)
            whole.update(f"/{name}{number}".encode())
        shares = {f"seen-{seen.hexdigest()}": self._moments, **written}
        return Row(role, slot, data, whole.hexdigest(), shares)

    def describe(self, row: Row) -> RowView:
        """The caption as the text encoders read it, and the picture, or the frames of the clip."""
        text, count = self._captions.words(row.data["caption"])
        if "pixels" not in row.data:
            return RowView({"caption": count}, self._captions.width, text)
        pixels: Tensor = row.data["pixels"]
        size = f"{pixels.shape[-1]}x{pixels.shape[-2]}"
        frames = (pixels,) if pixels.ndim == 3 else tuple(pixels)
        medium = f"picture: {size}" if pixels.ndim == 3 else f"clip: {len(pixels)} frames of {size}"
        return RowView({"caption": count}, self._captions.width, text, media=(medium,), pictures=frames)

    def encode(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        """Rows with `mean` and `logvar` [C, h, w], or [C, f, h, w] of a clip, and the family's condition, all
        on the CPU. Every distinct picture or clip and every distinct caption runs once."""
        rows = [row for sample in prepared for row in sample.rows]
        texts = self._captions.conditions([row.data["caption"] for row in rows])
        media = [row.data["pixels"] for row in rows if "pixels" in row.data]
        found = iter(self._encode_media(media))
        moments = [next(found) if "pixels" in row.data else {} for row in rows]
        names = [f"{sample.sample_id}: {row.role}" for sample in prepared for row in sample.rows]
        for place, found_one in enumerate(moments):
            if not all(bool(torch.isfinite(value).all()) for value in found_one.values()):
                raise UserError(
                    f"{names[place]}: the autoencoder's latents are not finite; mend the weights in "
                    f"{self._parts.folder}/vae (some overflow when they were saved in half precision)"
                )
        done = []
        for place, (row, text) in enumerate(zip(rows, texts, strict=True)):
            own = {name: row.data[name] for name in _OWN if name in row.data}
            done.append(replace(row, data={**moments[place], **text, **own}))
        remaining = iter(done)
        return [replace(sample, rows=tuple(islice(remaining, len(sample.rows)))) for sample in prepared]

    def _encode_media(self, media: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Moments of pictures or clips of any sizes, and of their mirror images where these are wanted."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for place, pixels in enumerate(media):
            by_shape.setdefault(tuple(pixels.shape), []).append(place)
        moments: list[dict[str, Tensor]] = [{} for _ in media]
        for places in by_shape.values():
            for place, found in zip(places, self._latents.encode([media[i] for i in places]), strict=True):
                moments[place] |= found
            if self._config.flip:
                mirrored = self._latents.encode([media[i].flip(-1) for i in places])
                for place, found in zip(places, mirrored, strict=True):
                    moments[place] |= {f"flipped_{name}": value for name, value in found.items()}
        return moments

    def fingerprint(self) -> str:
        """Hash of the frozen encoders, the tokenizers and how pictures and captions are prepared."""
        if self._fingerprint is None:
            frames = "" if self.frames is None else f"/{self.frames.fingerprint()}"
            sizes = self._buckets if self._config.buckets == "aspect" else self.resolution
            mirrored = "/flip" if self._config.flip else ""
            # the number of segments stands in rows, and an index entry does not name its rows' settings
            parted = "" if self._config.segments is None else f"/segments{self._config.segments}"
            said = "" if self._config.long_captions == "cut" else "/by sentence"
            settings = f"{_PREPARATION}/{sizes}/{self._captions.lengths}{frames}{mirrored}{parted}{said}"
            if (table := users_of(self._parts.denoiser)) is not None:  # rows hold places in it
                settings += f"/users {table.names}"
            text = f"{fingerprint_of(self._parts)}/{settings}"
            self._fingerprint = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return self._fingerprint

    def shape_of(self, sample: Prepared) -> tuple[int, ...]:
        """Samples of one shape can be collated together: the pixels', the latents' or
        the path's of its first row."""
        data = sample.rows[0].data
        if sample.rows[0].role == PROMPT:
            return ()
        first = next(data[name] for name in ("mean", "path", "pixels") if name in data)
        return tuple(first.shape)

    def collate(self, encoded: Sequence[Prepared], roles: Sequence[str]) -> Batch:
        """Encoded rows of `roles`, sample by sample, as one batch on the device; `segments` and
        `path_guidance` [N] stay on the CPU, where reading a number waits for nothing."""
        picked = [
            (index, row)
            for index, sample in enumerate(encoded)
            for role in roles
            for row in sample.rows
            if row.role == role
        ]
        if not picked:
            raise ValueError(f"no rows of the roles {', '.join(roles)} in these samples")
        names = [n for n in (*self._moments, *self._family.conditions, *PATH) if n in picked[0][1].data]
        names += [name for name in ("segments", INDEX) if all(name in row.data for _, row in picked)]
        inputs = {}
        for name in names:
            values = torch.stack([row.data[name] for _, row in picked])
            inputs[name] = values if name in _READ_HERE else sent(values, self.device)
        inputs |= self._empty
        return Batch(
            inputs=inputs,
            roles=tuple(roles),
            row_role=torch.tensor([roles.index(row.role) for _, row in picked]),
            row_sample=torch.tensor([index for index, _ in picked]),
            row_slot=torch.tensor([row.slot for _, row in picked]),
            sample_ids=tuple(sample.sample_id for sample in encoded),
        )


def _decoded(medium: Any) -> bool:
    return isinstance(medium, Clip | Image.Image)


def _size(medium: Any) -> Size:
    """Width and height of a picture or of a clip's frames."""
    if isinstance(medium, Clip):
        return (int(medium.frames.shape[-1]), int(medium.frames.shape[-2]))
    width, height = medium.size
    return (width, height)


def _frames(config: Diffusion, parts: Parts, factor: int) -> Frames | None:
    """How clips are cut; None for pictures. Raises UserError where the model cannot take that many frames."""
    name = parts.family.pipeline.__name__
    if not parts.family.video:
        if config.frames is not None:
            raise UserError(f"model.frames: a {name} makes pictures, not clips; remove it")
        return None
    family = parts.family
    frames = config.frames or Frames("leading", family.num_frames, family.frame_rate)
    hook = parts.family.autoencoder.frame_step
    step = factor if hook is None else hook(parts.pipeline)
    if (frames.count - 1) % step:
        raise UserError(
            f"model.frames.count: must be a multiple of {step} plus 1 for a {name}, got {frames.count}"
        )
    most = parts.family.most_frames(parts.pipeline)
    if most is not None and frames.count > most:
        raise UserError(f"model.frames.count: {parts.folder} takes at most {most}, got {frames.count}")
    return frames
