"""Reading pictures and clips of described scenes back into what they show, exactly, from the pixels alone.

The ground is the median of the border, which no object reaches. Pixels near a palette colour fall into
connected patches of one colour; a patch is the kind and size whose drawing around its centre explains it
best, or two objects of one colour that touch. In a clip the objects of the frames are joined by what they
are, since no two are alike: the first frame of each tells its order and the way it goes its motion.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mmalign.clips import Clip
from mmalign.shapes.judge_image import Array, Mask, components, grown, inside
from mmalign.shapes.render import SUPERSAMPLING, outline_points
from mmalign.shapes.sights import COLOURS, KINDS, PICTURE, RADII, Thing
from mmalign.types import UserError

NEAR = 45.0
"""A pixel this near to a palette colour (RGB distance) shows it; the tint accounts for 14 of it at most."""
SMALLEST = 14
"""Patches of fewer pixels are edges where two objects touch."""
LEAST_IOU = 0.72
"""A patch that no single drawing overlaps this well is tried as two objects."""
STEP = 2.0
"""An object that goes less far from its first frame to its last stays still (pixels)."""
GOOD_IOU = 0.88
"""A drawing that overlaps this well is right: places beside the centre need not be tried."""
_SHIFTS = (-0.5, 0.0, 0.5)

Point = tuple[float, float]


@dataclass(frozen=True)
class Seen:
    """One object seen in a picture: what it is, its size, its centre in pixels, its fit (IoU)."""

    thing: Thing
    size: str
    centre: Point
    iou: float


@dataclass(frozen=True)
class Moved:
    """One object seen in a clip: what it is, the first frame that shows it, and its motion."""

    thing: Thing
    onset: int
    motion: str


def read_picture(image: Image.Image) -> tuple[Seen, ...]:
    """The objects of a picture of 48 x 48 pixels from left to right; UserError for another size."""
    if image.size != (PICTURE, PICTURE):
        raise UserError(
            f"a picture of {image.width} x {image.height} pixels is not of this world; give one of "
            f"{PICTURE} x {PICTURE}"
        )
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    seen: list[Seen] = []
    for colour, rgb in COLOURS.items():
        mask = np.sqrt(((pixels - np.asarray(rgb, dtype=np.float64)) ** 2).sum(-1)) < NEAR
        for patch in components(mask, diagonal=False):
            if patch.sum() >= SMALLEST:
                seen += _identify(pixels, patch, colour)
    return tuple(sorted(seen, key=lambda one: one.centre[0]))


def read_clip(clip: Clip) -> tuple[Moved, ...]:
    """The objects of a clip, by first frame and then from left to right as first seen."""
    tracks: dict[Thing, list[tuple[int, Point]]] = {}
    for number, frame in enumerate(clip.frames):
        picture = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
        for one in read_picture(picture):
            tracks.setdefault(one.thing, []).append((number, one.centre))
    return tuple(Moved(thing, track[0][0], _motion(track)) for thing, track in tracks.items())


def _motion(track: list[tuple[int, Point]]) -> str:
    (_, first), (_, last) = track[0], track[-1]
    dx, dy = last[0] - first[0], last[1] - first[1]
    if max(abs(dx), abs(dy)) < STEP:
        return "still"
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "up" if dy < 0 else "down"


def _identify(pixels: Array, patch: Mask, colour: str) -> list[Seen]:
    """Name the object of a patch, or the two that it holds where one alone does not explain it."""
    single = _fit(pixels, patch, colour)
    if single.iou >= LEAST_IOU:
        return [single]
    halves = [_fit(pixels, half, colour) for half in _halved(patch)]
    return halves if min(half.iou for half in halves) > single.iou else [single]


def _fit(pixels: Array, patch: Mask, colour: str) -> Seen:
    """The best of all kinds and sizes, drawn around the centre of the patch; beside it if none fits well."""
    cover = _coverage(pixels, patch)
    rows, columns = np.indices(cover.shape)
    area = cover.sum()
    centre = float((cover * (columns + 0.5)).sum() / area), float((cover * (rows + 0.5)).sum() / area)
    fits = [_overlap(cover, kind, size, centre) for kind in KINDS for size in RADII]
    if max(iou for iou, _, _ in fits) < GOOD_IOU:
        near = [(centre[0] + dx, centre[1] + dy) for dx in _SHIFTS for dy in _SHIFTS]
        fits = [_overlap(cover, kind, size, place) for kind in KINDS for size in RADII for place in near]
    iou, kind, size = max(fits)
    return Seen(Thing(kind, colour), size, centre, iou)


def _overlap(cover: Array, kind: str, size: str, centre: Point) -> tuple[float, str, str]:
    """Intersection over union of a coverage [48, 48] and a drawing, with what was drawn."""
    x, y = (round(place * SUPERSAMPLING) for place in centre)
    drawn = _drawing(kind, RADII[size], x, y)
    return float(np.minimum(drawn, cover).sum() / np.maximum(drawn, cover).sum()), kind, size


def _coverage(pixels: Array, patch: Mask) -> Array:
    """How far each pixel [H, W] is of the patch's colour rather than the ground, on the patch and its rim."""
    ground = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)
    full = np.median(pixels[patch], axis=0) - ground
    difference = pixels - ground
    share = np.clip((difference @ full) / (full @ full), 0.0, 1.0)
    rest = np.sqrt(((difference - share[..., None] * full) ** 2).sum(-1))
    rim = grown(patch) & (rest < NEAR)
    return np.where(inside(patch), 1.0, share * (patch | rim))


def _halved(patch: Mask) -> list[Mask]:
    """A patch cut in two by the means of its two halves along its longest axis, moved until they stay."""
    places = np.argwhere(patch).astype(np.float64)
    spread = places - places.mean(0)
    axis = np.linalg.svd(spread, full_matrices=False)[2][0]
    upper: NDArray[np.bool_] = spread @ axis > 0
    for _ in range(10):
        means = np.stack([places[~upper].mean(0), places[upper].mean(0)])
        nearer = np.argmin(((places[:, None] - means) ** 2).sum(-1), axis=1) == 1
        if (nearer == upper).all() or nearer.all() or not nearer.any():
            break
        upper = nearer
    halves = []
    for side in (~upper, upper):
        half = np.zeros_like(patch)
        half[tuple(places[side].astype(int).T)] = True
        halves.append(half)
    return halves


@lru_cache(maxsize=4096)
def _drawing(kind: str, radius: float, x: int, y: int) -> Array:
    """Soft coverage [48, 48] of a shape around (x, y), given in quarters of a pixel."""
    canvas = Image.new("L", (SUPERSAMPLING * PICTURE,) * 2, 0)
    corners = [
        (x + px * SUPERSAMPLING - 0.5, y + py * SUPERSAMPLING - 0.5)
        for px, py in outline_points(kind, radius)
    ]
    ImageDraw.Draw(canvas).polygon(corners, fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float64) / 255
