"""Probes: worked numbers, both readings of a picture, finite differences, and refusals."""

import numpy as np
import pytest
import torch
from PIL import Image
from rewards.tiny_clip import picture, pixels_of, said, shown

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.rewards._probes import Probe
from mmalign.rewards.brightness import Brightness
from mmalign.rewards.saturation import Saturation
from mmalign.rewards.sharpness import Sharpness
from mmalign.types import ManyJudge, Part, PixelReward, UserError

PROBES = [Brightness(), Saturation(), Sharpness()]
NAMES = ["brightness", "saturation", "sharpness"]


def plain(color: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (6, 5), color)


def score(probe: Probe, image: Image.Image) -> float:
    return probe.score(said("x"), shown(image))["score"]


@pytest.mark.parametrize(
    ("color", "bright", "saturated"),
    [
        ((255, 0, 0), 0.2126, 1.0),
        ((0, 255, 0), 0.7152, 1.0),
        ((0, 0, 255), 0.0722, 1.0),
        ((255, 255, 255), 1.0, 0.0),
        ((0, 0, 0), 0.0, 0.0),
        ((200, 100, 50), (0.2126 * 200 + 0.7152 * 100 + 0.0722 * 50) / 255, 0.75),
        ((1, 0, 0), 0.2126 / 255, 1.0),
    ],
)
def test_colours(color: tuple[int, int, int], bright: float, saturated: float) -> None:
    assert score(Brightness(), plain(color)) == pytest.approx(bright, abs=1e-6)
    assert score(Saturation(), plain(color)) == pytest.approx(saturated, abs=1e-6)
    assert score(Sharpness(), plain(color)) == pytest.approx(0, abs=1e-9)


def test_sharpness_of_one_dot_and_of_a_checkerboard() -> None:
    """5 x 5 with a white dot in the middle: inner values -4, four times 1, four times 0: variance 20 / 9."""
    dot = np.zeros((5, 5, 3), np.uint8)
    dot[2, 2] = 255
    assert score(Sharpness(), Image.fromarray(dot)) == pytest.approx(20 / 9, abs=1e-5)
    board = np.indices((6, 6)).sum(0) % 2 * 255
    board = np.repeat(board[:, :, None], 3, 2).astype(np.uint8)  # inner values +4 and -4, as many of each
    assert score(Sharpness(), Image.fromarray(board)) == pytest.approx(16, abs=1e-4)


@pytest.mark.parametrize("probe", PROBES, ids=NAMES)
def test_both_readings_agree_and_order_does_not_matter(probe: Probe) -> None:
    images = [picture(i, size) for i, size in enumerate([(20, 20), (31, 17), (8, 40)])]
    listed = [s["score"] for s in probe.score_many([said("")] * 3, [shown(i) for i in images])]
    assert len(set(listed)) == 3
    assert listed == [score(probe, image) for image in images]
    for image, value in zip(images, listed, strict=True):
        assert probe.reward(pixels_of(image), [""]).item() == pytest.approx(value, abs=1e-6)
    assert isinstance(probe, ManyJudge) and isinstance(probe, PixelReward)


@pytest.mark.parametrize("probe", PROBES, ids=NAMES)
def test_gradient_is_the_finite_difference(probe: Probe) -> None:
    torch.manual_seed(0)
    pixels = (torch.rand(2, 3, 5, 4, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    towards = torch.randn_like(pixels)
    (gradient,) = torch.autograd.grad(probe.measure(pixels).sum(), pixels)
    assert gradient.abs().max() > 0
    step = 1e-6
    above, below = (probe.measure(pixels + sign * step * towards).sum() for sign in (1, -1))
    expected = ((above - below) / (2 * step)).item()
    assert (gradient * towards).sum().item() == pytest.approx(expected, rel=1e-5)


def test_each_probe_goes_up_in_its_own_direction() -> None:
    """A step along the gradient raises the probe; pictures of a batch do not touch each other."""
    pixels = torch.cat([pixels_of(picture(i)) for i in range(2)]).clamp(0.2, 0.8).requires_grad_()
    for probe in PROBES:
        before = probe.reward(pixels, ["", ""])
        (gradient,) = torch.autograd.grad(before[0], pixels)
        assert gradient[0].abs().max() > 0 and gradient[1].abs().max() == 0
        stepped = pixels.detach() + 1e-3 * gradient / gradient.abs().max()
        assert probe.reward(stepped, ["", ""])[0] > before[0]


def test_autocast_around_them_changes_nothing() -> None:
    pixels = pixels_of(picture(0, (40, 30)))
    for probe in PROBES:
        with torch.autocast("cpu", torch.bfloat16):
            found = probe.reward(pixels, [""])
        assert torch.equal(found, probe.reward(pixels, [""]))


def test_what_no_probe_reads() -> None:
    with pytest.raises(
        UserError, match="^brightness: response 2: reads pictures and clips, got a response of kind"
    ):
        Brightness().score_many([said("")] * 2, [shown(plain((1, 2, 3))), Part("text", "no")])
    with pytest.raises(UserError, match="^brightness: response 1: reads decoded pictures, got str$"):
        Brightness().score(said(""), Part("image", "a.png"))
    with pytest.raises(UserError, match="^sharpness: needs pictures of 3 x 3 pixels or more, got 2 x 9$"):
        Sharpness().score(said(""), shown(Image.new("RGB", (2, 9))))
    for pixels, captions, message in [
        (torch.zeros(1, 4, 8, 8), [""], r"must be \[B, 3, H, W\], got \[1, 4, 8, 8\]"),
        (torch.zeros(2, 3, 8, 8), [""], "one caption per picture: got 1 for 2"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [""], "must be floating point"),
        (torch.zeros(1, 3, 2, 8), [""], "at least 3 x 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            Sharpness().reward(pixels, captions)


def test_names_build_them_from_a_section() -> None:
    for name, probe in zip(NAMES, PROBES, strict=True):
        assert build_named(KINDS["judge"], {"name": name}, "judge", False) == probe
        with pytest.raises(UserError, match="unknown key"):
            build_named(KINDS["judge"], {"name": name, "scale": 2}, "judge", False)
