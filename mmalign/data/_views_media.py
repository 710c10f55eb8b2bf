"""Changes of the pictures and clips in a prompt, made on decoded media.

Letters: T frames of H x W pixels; a picture is one frame. Pixels are uint8 RGB [T, 3, H, W]. A change of
pixels or of order keeps that shape, so that a model spends as many tokens on the result as on the original.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from mmalign.clips import Clip
from mmalign.types import Example, Message, Part

Examples = tuple[Example, ...]
Pixels = Callable[[Tensor, Generator], Tensor]  # one medium's pixels -> the changed ones

_AREA = (0.01, 0.2)  # share of the picture that a crop keeps
_ASPECT = (3 / 4, 4 / 3)  # width / height of a crop
_NOISE_STEP = 500  # of the schedule below
_MEAN_COLOUR = (123, 117, 104)  # 255 times CLIP's means


def crop(frames: Tensor, generator: Generator) -> Tensor:
    """1 to 20 % of the area, aspect 3/4 to 4/3, blown up to the old size; one box for all frames (mDPO, arXiv
    2406.11839: its visual negative). A box longer than a strip-like picture is cut to it."""
    height, width = frames.shape[-2:]
    area, aspect, across, down = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    wanted = height * width * (_AREA[0] + area * (_AREA[1] - _AREA[0]))
    ratio = math.exp(math.log(_ASPECT[0]) + aspect * math.log(_ASPECT[1] / _ASPECT[0]))
    w = min(width, max(1, round(math.sqrt(wanted * ratio))))
    h = min(height, max(1, round(math.sqrt(wanted / ratio))))
    left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
    boxes = frames[:, :, top : top + h, left : left + w]
    return torch.stack([_resized(box, height, width) for box in boxes])


def _resized(frame: Tensor, height: int, width: int) -> Tensor:
    smooth = torch.nn.functional.interpolate(
        frame[None].float(), size=(height, width), mode="bilinear", align_corners=False
    )
    return smooth[0].round().clamp(0, 255).to(torch.uint8)


def noise_level(step: int) -> tuple[float, float]:
    """Share of signal and of noise, sqrt(a) and sqrt(1 - a), after `step` + 1 of 1000 steps of diffusion
    whose variances rise along a sigmoid from 1e-5 to 5e-3 (POVID, arXiv 2402.11411)."""
    variances = torch.sigmoid(torch.linspace(-6, 6, 1000, dtype=torch.float64)) * (0.005 - 1e-5) + 1e-5
    kept = float(torch.cumprod(1 - variances, 0)[step])
    return math.sqrt(kept), math.sqrt(1 - kept)


def noise(frames: Tensor, generator: Generator) -> Tensor:
    """Gaussian noise of step 500 on values in [0, 1], clamped: values that leave the range do not wrap."""
    signal, sigma = noise_level(_NOISE_STEP)
    changed = torch.empty_like(frames)
    for plane, out in zip(frames.flatten(0, 1), changed.flatten(0, 1), strict=True):  # large ones fit memory
        mixed = signal * (plane / 255.0) + sigma * torch.randn(plane.shape, generator=generator)
        out.copy_((mixed.clamp(0, 1) * 255).round())
    return changed


def black(frames: Tensor, generator: Generator) -> Tensor:
    """Every pixel black."""
    return torch.zeros_like(frames)


def gray(frames: Tensor, generator: Generator) -> Tensor:
    """Every pixel of the colour that processors with CLIP's means (CLIP's own, those of LLaVA-1.5 and the
    Qwen-VL models) turn into zeros, up to the rounding to 8 bits: nothing is normalised here, the mean colour
    is given. With means of one half it becomes -0.2 to 0."""
    mean = torch.tensor(_MEAN_COLOUR, dtype=torch.uint8)
    return mean[None, :, None, None].expand(frames.shape).clone()


def reversed_order(count: int, generator: Generator) -> Tensor:
    """The last frame first, [T] long."""
    return torch.arange(count - 1, -1, -1)


def shuffled_order(count: int, generator: Generator) -> Tensor:
    """A random order that is not the first one, [T] long."""
    order = torch.randperm(count, generator=generator)
    return order.roll(1) if torch.equal(order, torch.arange(count)) else order


def dropped_order(count: int, generator: Generator) -> Tensor:
    """Half of the frames, one after another from a random place, gone; the nearest frame that is left stands
    in for each, the earlier of two, [T] long."""
    gone = count // 2
    start = int(torch.randint(count - gone + 1, (), generator=generator))
    kept = [place for place in range(count) if not start <= place < start + gone]
    return torch.tensor([min(kept, key=lambda other: abs(place - other)) for place in range(count)])


# ---------------------------------------------------------------- on the media of a prompt


def with_pixels(examples: Examples, change: Pixels, generator: Generator) -> Examples:
    """Every picture and clip of the prompts changed, in reading order."""

    def one(part: Part) -> Part:
        changed = change(_pixels(part), generator)
        if isinstance(part.data, Clip):
            return Part(part.kind, replace(part.data, frames=changed))
        return Part(part.kind, Image.fromarray(changed[0].permute(1, 2, 0).numpy()))

    return _mapped(examples, one)


def _pixels(part: Part) -> Tensor:
    if isinstance(part.data, Clip):
        return part.data.frames
    return torch.from_numpy(np.array(part.data)).permute(2, 0, 1)[None]


def with_order(
    examples: Examples, order_of: Callable[[int, Generator], Tensor], generator: Generator
) -> Examples:
    """Every clip with its frames in another order, or some of them twice. Places and time stamps stay as they
    were: they are what the model is told, and moving them along would undo the change or give it away."""

    def one(part: Part) -> Part:
        if not isinstance(part.data, Clip):
            return part
        order = order_of(len(part.data.frames), generator)
        return Part(part.kind, replace(part.data, frames=part.data.frames[order]))

    return _mapped(examples, one)


def with_media_of(examples: Examples, partner: Examples) -> Examples:
    """The partner's pictures in place of the pictures, its clips in place of the clips, in order; where it
    has fewer, they are used again from the first, and where it has more, the rest is left out."""
    changed: Examples = ()
    for example in examples:
        given = {
            kind: itertools.cycle([part for part in media(partner) if part.kind == kind])
            for kind in ("image", "video")
        }
        changed += _mapped((example,), lambda part, given=given: next(given[part.kind]))  # type: ignore[misc]
    return changed


def with_mean_of(examples: Examples, partners: Examples) -> Examples:
    """In the place of every picture the mean over the partners of the pictures that `with_media_of` each of
    them would put there, in the row's own size: a picture of nothing in particular with the colours and the
    layout that pictures have. Each is stretched to that size before values in [0, 1] are averaged. Of clips
    every frame is a mean: of those frames of the others that stand at the same share of their length."""
    given = [media(with_media_of(examples, (partner,))) for partner in partners]
    others = zip(*given, strict=True)

    def mean(frames: Tensor, generator: Generator) -> Tensor:
        total = torch.zeros(frames.shape)
        for other in map(_pixels, next(others)):
            places = torch.arange(len(frames)) * len(other) // len(frames)
            total += _stretched(other[places], *frames.shape[-2:])
        return (255 * total / len(partners)).round().clamp(0, 255).to(torch.uint8)

    return with_pixels(examples, mean, Generator())


def _stretched(frames: Tensor, height: int, width: int) -> Tensor:
    """uint8 -> values in [0, 1] of another size, without the patterns of left-out pixels."""
    values = frames.float() / 255
    if frames.shape[-2:] == (height, width):
        return values
    return torch.nn.functional.interpolate(
        values, size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )


def without_media(examples: Examples) -> Examples:
    """The prompts' texts alone; a turn that held only media stays, as an empty text."""

    def turn(message: Message) -> Message:
        texts = tuple(part for part in message.parts if part.kind == "text")
        return Message(message.speaker, texts or (Part("text", ""),))

    return tuple(replace(example, prompt=tuple(map(turn, example.prompt))) for example in examples)


def media(examples: Examples) -> Iterator[Part]:
    """Pictures and videos of the prompts, in reading order."""
    for example in examples:
        for turn in example.prompt:
            yield from (part for part in turn.parts if part.kind != "text")


def _mapped(examples: Examples, one: Callable[[Part], Part]) -> Examples:
    def turn(message: Message) -> Message:
        return Message(message.speaker, tuple(p if p.kind == "text" else one(p) for p in message.parts))

    return tuple(replace(example, prompt=tuple(map(turn, example.prompt))) for example in examples)
