"""Draw scenes with Pillow: at four times the size, then reduced by averaging, so that edges are soft."""

import math

from PIL import Image, ImageDraw

from mmalign.shapes.scenes import PICTURE, Scene, Shape

SUPERSAMPLING = 4
STROKE, STROKE_SHARE = 2.0, 0.25
"""An outline is 2 pixels wide, or a quarter of the radius where that is more."""
_SMALLEST_HOLE = 0.5
"""The hole of an outline is at least this share of the shape: small stars get thinner lines, or it closes."""
_SQUARE, _TRIANGLE, _STAR, _STAR_WAIST = 0.9, 1.25, 1.2, 0.5
_CROSS, _CROSS_HALF = 1.1, 0.38

Point = tuple[float, float]


def outline_points(kind: str, radius: float) -> list[Point]:
    """Corners of a shape around its centroid (0, 0), for a nominal radius; a circle is a fine polygon."""
    if kind == "circle":
        return _ring(radius, 48, 0.0)
    if kind == "square":
        half = _SQUARE * radius
        return [(-half, -half), (half, -half), (half, half), (-half, half)]
    if kind == "triangle":
        return _ring(_TRIANGLE * radius, 3, -math.pi / 2)
    if kind == "cross":
        arm, half = _CROSS * radius, _CROSS_HALF * radius
        quarter = [(half, -arm), (half, -half), (arm, -half)]
        turns = ((1, 0), (0, 1), (-1, 0), (0, -1))
        return [(x * c - y * s, x * s + y * c) for c, s in turns for x, y in quarter]
    assert kind == "star", kind
    tips = _ring(_STAR * radius, 5, -math.pi / 2)
    waists = _ring(_STAR * _STAR_WAIST * radius, 5, -math.pi / 2 + math.pi / 5)
    return [point for both in zip(tips, waists, strict=True) for point in both]


def inner_distance(kind: str, radius: float) -> float:
    """Distance from the centroid to the nearest edge line (pixels): how far an outline may grow inwards."""
    points = outline_points(kind, radius)
    (x1, y1), (x2, y2) = points[0], points[1]
    return abs(x1 * y2 - x2 * y1) / math.hypot(x2 - x1, y2 - y1)


def render(scene: Scene, picture: int = PICTURE) -> Image.Image:
    """Draw a scene as an RGB picture of `picture` x `picture` pixels; the scene itself is laid out for 32."""
    scale = SUPERSAMPLING * picture / PICTURE
    side = SUPERSAMPLING * picture
    image = Image.new("RGB", (side, side), scene.ground)
    draw = ImageDraw.Draw(image)
    for shape in scene.objects:
        draw.polygon(_placed(shape, 1.0, scale), fill=shape.rgb)
        if not shape.filled:
            stroke = max(STROKE, STROKE_SHARE * shape.radius)
            hole = max(1 - stroke / inner_distance(shape.kind, shape.radius), _SMALLEST_HOLE)
            draw.polygon(_placed(shape, hole, scale), fill=scene.ground)
    return image.reduce(SUPERSAMPLING)


def _placed(shape: Shape, shrink: float, scale: float) -> list[Point]:
    """Corners in canvas pixels; Pillow counts pixel centres, hence the half."""
    x, y = shape.centre
    points = outline_points(shape.kind, shape.radius)
    return [((x + shrink * px) * scale - 0.5, (y + shrink * py) * scale - 0.5) for px, py in points]


def _ring(radius: float, corners: int, start: float) -> list[Point]:
    step = 2 * math.pi / corners
    return [
        (radius * math.cos(start + i * step), radius * math.sin(start + i * step)) for i in range(corners)
    ]
