"""Sizes for the pictures of a sample: which buckets there are, which one is taken, what a picture keeps."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from mmalign.adapters._buckets import LONGEST, Frame, bucket_sizes, sample_bucket
from mmalign.adapters._pictures import fitted

SDXL = bucket_sizes(1024, 64)


def test_buckets_of_a_megapixel_are_the_known_ones() -> None:
    """Each is in the list that SDXL was trained with (arXiv 2307.01952, appendix I)."""
    assert SDXL[:7] == (
        (1024, 1024),
        (1088, 960), (960, 1088),
        (1152, 896), (896, 1152),
        (1216, 832), (832, 1216),
    )  # fmt: skip
    assert SDXL[7:] == ((1344, 768), (768, 1344))


@pytest.mark.parametrize(("side", "step"), [(32, 2), (64, 16), (512, 64), (1024, 16)])
def test_buckets_fit_their_area_step_and_ratio(side: int, step: int) -> None:
    sizes = bucket_sizes(side, step)
    assert sizes[0] == (side, side) and len(set(sizes)) == len(sizes)
    for width, height in sizes:
        assert width % step == height % step == 0
        assert width * height <= side * side < (max(width, height) + step) * min(width, height)
        assert max(width, height) <= LONGEST * min(width, height)
        assert (height, width) in sizes


def test_the_chosen_sides_ratio_decides() -> None:
    lying, standing, even = (1600, 1200), (600, 900), (700, 700)
    assert sample_bucket({"chosen": [lying], "rejected": [standing]}, SDXL) == (1152, 896)
    assert sample_bucket({"rejected": [standing], "chosen": [lying]}, SDXL) == (1152, 896)
    assert sample_bucket({"chosen": [standing, even], "rejected": [lying]}, SDXL) == (832, 1216)
    assert sample_bucket({"completion": [even]}, SDXL) == (1024, 1024)
    assert sample_bucket({"chosen": [], "rejected": [standing]}, SDXL) == (832, 1216)
    assert sample_bucket({"chosen": [lying]}, [(512, 512)]) == (512, 512)


def test_pictures_longer_than_every_bucket_take_the_longest() -> None:
    assert sample_bucket({"chosen": [(3000, 500)]}, SDXL) == (1344, 768)
    assert sample_bucket({"chosen": [(500, 3000)]}, SDXL) == (768, 1344)


def test_the_nearest_ratio_is_taken_for_every_size() -> None:
    for width in range(300, 1500, 37):
        taken = sample_bucket({"chosen": [(width, 700)]}, SDXL)
        gap = {size: abs(math.log(size[0] / size[1]) - math.log(width / 700)) for size in SDXL}
        assert gap[taken] == pytest.approx(min(gap.values()), abs=1e-12)


def test_a_frame_covers_without_squashing() -> None:
    frame = Frame.of((1600, 1200), (1152, 896))
    assert frame == Frame((1600, 1200), (1195, 896), 21, 0, (1152, 896))
    assert frame.time_ids().tolist() == [1200, 1600, 0, 21, 896, 1152]
    for width in range(8, 80, 3):
        one = Frame.of((width, 31), (24, 40))
        assert one.resized[0] >= 24 and one.resized[1] >= 40 and 0 in (one.left, one.top)
        assert one.resized[0] / one.resized[1] == pytest.approx(width / 31, rel=0.05)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_a_frame_keeps_the_centre() -> None:
    stripes = np.zeros((40, 120, 3), dtype=np.uint8)
    stripes[:, 30:90] = (255, 0, 0)
    kept = fitted(Image.fromarray(stripes), Frame.of((120, 40), (40, 20)))
    assert kept.shape == (3, 20, 40)
    assert bool((kept[0, :, 6:-6] > 240).all())  # 60 of 120 resize to 30 of 60, of which the middle 40 stay
    assert bool((kept[0, :, :4] < 15).all()) and bool((kept[0, :, -4:] < 15).all())


def test_flipping_mirrors_the_picture_in_the_same_frame() -> None:
    picture = noise(24, 16)
    frame = Frame.of((24, 16), (24, 16))
    assert torch.equal(fitted(picture, frame, flip=True), fitted(picture, frame).flip(-1))
    odd = Frame.of((25, 16), (16, 16))  # 9 columns too many: 4 go left and 5 right, of the mirrored picture
    columns = np.array(noise(25, 16))[:, ::-1][:, 4:20]
    expected = torch.from_numpy(columns.copy()).permute(2, 0, 1)
    assert torch.equal(fitted(noise(25, 16), odd, flip=True), expected)
