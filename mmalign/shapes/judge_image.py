"""An exact, graded judge of shapes pictures: which facts of the prompt hold, and how solid the shapes are.

It sees the picture and the prompt only. The ground is the median of the border; what differs from it falls
into connected objects; an object's colour is the palette entry whose line from the ground explains the pixels
best (so that soft edges do not vote for a wrong colour); its kind is the rendered shape of equal area and
centroid that overlaps it best. Computed with numpy and Pillow.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mmalign.shapes.render import SUPERSAMPLING, outline_points
from mmalign.shapes.scenes import (
    COLOURS,
    KINDS,
    SIZE_BOUND,
    Caption,
    Thing,
    parse_caption,
    relation_of,
)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

FOREGROUND = 75.0
"""A pixel whose RGB distance from the ground exceeds this belongs to an object."""
SMALLEST = 6
"""Objects of fewer pixels are debris: not counted."""
LEAST_IOU = 0.8
"""An object has a kind only if the rendered shape overlaps it at least this well."""
COLOUR_ERROR, PALEST = 60.0, 0.6
"""An object has a colour only if its own colour lies this near to the palette's (RGB distance), or to a mix
of it with the ground that keeps at least the share PALEST: thin lines nowhere reach their full colour."""
STYLE_WEIGHT = 0.5
"""The weight of the style preference (solid shapes) in `score`, beside 1 for faithfulness."""

_STRAIGHT_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
_ALL_STEPS = (*_STRAIGHT_STEPS, (1, 1), (1, -1), (-1, 1), (-1, -1))


@dataclass(frozen=True)
class Found:
    """One object seen in a picture; `kind` and `colour` are None where none fits well enough."""

    kind: str | None
    colour: str | None
    best_kind: str
    iou: float
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one picture.

    `strict`: every fact of the prompt holds. `faithfulness`: the share of its facts that hold (0..1). `iou`:
    the mean overlap of the objects with their best shape (0..1). `solidity`: the share of object pixels that
    lie inside an object, not on its rim (0..1; filled shapes are high, outlines low), the style preference.
    """

    strict: bool
    faithfulness: float
    iou: float
    solidity: float

    @property
    def score(self) -> float:
        """`faithfulness + STYLE_WEIGHT * solidity`: the whole preference that a picture is ranked by."""
        return self.faithfulness + STYLE_WEIGHT * self.solidity


def judge(image: Image.Image, prompt: str) -> Verdict:
    """Judge one picture against one caption; raises UserError for a prompt outside the caption language."""
    caption = parse_caption(prompt)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    found, solidity = look(pixels)
    facts = _facts(caption, found)
    iou = float(np.mean([item.iou for item in found])) if found else 0.0
    return Verdict(all(facts), float(np.mean(facts)), iou, solidity)


def look(pixels: Array) -> tuple[list[Found], float]:
    """Find the objects in an RGB picture [H, W, 3] with values 0..255, and measure their joint solidity."""
    ground = np.median(_border(pixels), axis=0)
    difference = pixels - ground
    mask = np.sqrt((difference**2).sum(-1)) > FOREGROUND
    objects = [part for part in components(mask, diagonal=True) if part.sum() >= SMALLEST]
    kept = np.logical_or.reduce(objects) if objects else np.zeros_like(mask)
    return [_identify(difference, part, mask, ground) for part in objects], _solidity(kept)


def components(mask: Mask, diagonal: bool) -> list[Mask]:
    """Connected parts of a mask [H, W], each as a mask; neighbours are 8 with `diagonal`, else 4."""
    left, parts = mask.copy(), []
    while left.any():
        first = np.unravel_index(int(left.argmax()), left.shape)
        part = _flooded(left, [(int(first[0]), int(first[1]))], diagonal)
        parts.append(part)
        left &= ~part
    return parts


def _flooded(mask: Mask, starts: list[tuple[int, int]], diagonal: bool) -> Mask:
    """Pixels of a mask that can be reached from the start pixels (row, column), themselves included."""
    free = set(zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True))
    open_ = [pixel for pixel in starts if pixel in free]
    free.difference_update(open_)
    reached = np.zeros_like(mask)
    while open_:
        row, column = open_.pop()
        reached[row, column] = True
        for dy, dx in _ALL_STEPS if diagonal else _STRAIGHT_STEPS:
            pixel = (row + dy, column + dx)
            if pixel in free:
                free.discard(pixel)
                open_.append(pixel)
    return reached


def _border(pixels: Array) -> Array:
    return np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])


def _solidity(mask: Mask) -> float:
    """Share of the foreground pixels whose four neighbours are foreground too; 0 for an empty picture."""
    if not mask.any():
        return 0.0
    return float(inside(mask).sum() / mask.sum())


def inside(mask: Mask) -> Mask:
    """Pixels of a mask whose four neighbours belong to it too; beyond the picture counts as outside."""
    padded = np.pad(mask, 1)
    kept: Mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return kept


def _identify(difference: Array, part: Mask, mask: Mask, ground: Array) -> Found:
    """Name one object: soft coverage with holes closed, then the best colour and the best kind."""
    near = part.copy()
    for _ in range(2):
        near = grown(near) & ~(mask & ~part)
    colour, full, error = _colour(difference[part], ground)
    coverage = np.clip((difference @ full) / (full @ full), 0.0, 1.0) * near
    silhouette = part | _holes(part)
    coverage = np.where(inside(silhouette), 1.0, coverage)
    area = coverage.sum()
    rows, columns = np.indices(coverage.shape)
    x = float((coverage * (columns + 0.5)).sum() / area)
    y = float((coverage * (rows + 0.5)).sum() / area)
    fits: dict[str, tuple[float, float]] = {}
    for kind in KINDS:
        radius = float(np.sqrt(area / _unit_area(kind)))
        template = _template(kind, x, y, radius, coverage.shape[0])
        fits[kind] = (
            float(np.minimum(template, coverage).sum() / np.maximum(template, coverage).sum()),
            radius,
        )
    best = max(fits, key=lambda kind: fits[kind][0])
    iou, radius = fits[best]
    return Found(
        best if iou > LEAST_IOU else None, colour if error < COLOUR_ERROR else None, best, iou, (x, y), radius
    )


def _colour(differences: Array, ground: Array) -> tuple[str, Array, float]:
    """Name, difference from the ground [3] and error of the palette colour that explains the pixels [P, 3].

    Each pixel is taken as a mix of ground and full colour; the residual is its distance from that line. The
    error is the distance of the object's own colour (the mean of its strongest pixels) from the nearest mix.
    """
    residuals = {}
    for name, rgb in COLOURS.items():
        line = np.asarray(rgb, dtype=np.float64) - ground
        share = np.clip((differences @ line) / (line @ line), 0.0, 1.15)
        residuals[name] = float((np.square(differences - share[:, None] * line)).sum())
    best = min(residuals, key=lambda name: residuals[name])
    palette = np.asarray(COLOURS[best], dtype=np.float64) - ground
    strength = differences @ palette
    core = differences[strength >= np.quantile(strength, 0.6)].mean(0)
    share = np.clip(core @ palette / (palette @ palette), PALEST, 1.15)
    return best, palette, float(np.linalg.norm(core - share * palette))


def grown(mask: Mask) -> Mask:
    """A mask with its eight neighbours on every side."""
    padded = np.pad(mask, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    wider: Mask = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    return wider


def _holes(part: Mask) -> Mask:
    """Pixels outside an object that cannot leave it by steps of four neighbours."""
    rows, columns = np.nonzero(part.any(1))[0], np.nonzero(part.any(0))[0]
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    around = np.pad(~part[box], 1, constant_values=True)
    outside = _flooded(around, [(0, 0)], diagonal=False)
    holes = np.zeros_like(part)
    holes[box] = (around & ~outside)[1:-1, 1:-1]
    return holes


@lru_cache(maxsize=len(KINDS))
def _unit_area(kind: str) -> float:
    """Area of a shape of nominal radius 1 (shoelace formula)."""
    points = outline_points(kind, 1.0)
    following = points[1:] + points[:1]
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(points, following, strict=True))) / 2


def _template(kind: str, x: float, y: float, radius: float, side: int) -> Array:
    """Soft coverage [side, side] of a filled shape around (x, y)."""
    canvas = Image.new("L", (SUPERSAMPLING * side,) * 2, 0)
    corners = [
        ((x + px) * SUPERSAMPLING - 0.5, (y + py) * SUPERSAMPLING - 0.5)
        for px, py in outline_points(kind, radius)
    ]
    ImageDraw.Draw(canvas).polygon(corners, fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float64) / 255


def _facts(caption: Caption, found: list[Found]) -> list[bool]:
    """Truth of every fact of the caption: the number; each thing's colour, kind and size; the relation.

    Things are matched to objects so that the most facts hold; what has no object is false.
    """
    best: list[bool] = []
    for order in _orders(len(caption.things), len(found)):
        matched = [found[i] if i is not None else None for i in order]
        facts = [len(found) == len(caption.things)]
        for thing, item in zip(caption.things, matched, strict=True):
            facts += _thing_facts(thing, item)
        if caption.relation is not None:
            first, second = matched
            facts.append(
                first is not None
                and second is not None
                and relation_of(first.centre, second.centre) == caption.relation
            )
        if sum(facts) > sum(best) or not best:
            best = facts
    return best


def _thing_facts(thing: Thing, item: Found | None) -> list[bool]:
    facts = [item is not None and item.colour == thing.colour, item is not None and item.kind == thing.kind]
    if thing.size is not None:
        size = None if item is None else "large" if item.radius > SIZE_BOUND else "small"
        facts.append(size == thing.size)
    return facts


def _orders(things: int, objects: int) -> list[tuple[int | None, ...]]:
    """Every way to give each thing an object of its own, or None where they run out; six objects at most."""
    places: list[int | None] = list(range(min(objects, 6)))
    places += [None] * max(0, things - len(places))
    return list(permutations(places, things))
