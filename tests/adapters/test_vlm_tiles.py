"""Bounds on the tiles of a picture, in every family that cuts pictures."""

from pathlib import Path

import pytest
import torch
from clip_vlm import save_clip_vlm
from contract import Case, by_row
from more_vlm import MORE, save_more
from test_video_lm import upstream
from tiny_vlm import FAMILIES, build_vlm, picture, save_vlm, vlm_pair

from mmalign.types import UserError

WIDE = picture(1, (96, 48))
TILED = ("internvl", "smolvlm", "idefics3", "llava_next", "llava_onevision")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for family in (*TILED, "llava"):
        folder = tmp_path_factory.mktemp(family)
        save = save_vlm if family in FAMILIES else save_more if family in MORE else save_clip_vlm
        found[family] = save(family, folder)
    return found


@pytest.mark.parametrize("family", TILED)
def test_fewer_tiles_take_fewer_places(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    sample = vlm_pair("x", (WIDE,))
    free, few = build_vlm(folders[family]), build_vlm(folders[family], max_tiles=2)
    big = picture(1, (96, 96))
    long, short = (
        own.media_tokens([vlm_pair("x", (big,)).examples["chosen"][0].prompt])[0] for own in (free, few)
    )
    assert short[0] < long[0]
    assert free.fingerprint() != few.fingerprint()
    case = Case(few, (sample,))
    with torch.no_grad():
        ours = by_row(*case.score())
    assert few.self_check(few.policy, case.batch(), {}) <= 2e-6
    few.save(few.policy, tmp_path, None)  # what is saved keeps the bound
    mine = ours["x", "chosen", 0]
    theirs = upstream(tmp_path, sample, "chosen")[-len(mine) :]
    assert float((mine - theirs).abs().max()) <= 2e-6


@pytest.mark.parametrize("family", TILED)
def test_a_bound_above_the_checkpoints_own_changes_nothing(folders: dict[str, Path], family: str) -> None:
    prompt = vlm_pair("x", (picture(1, (300, 100)),)).examples["chosen"][0].prompt
    free, many = (build_vlm(folders[family], max_tiles=most) for most in (None, 100))
    assert many.media_tokens([prompt]) == free.media_tokens([prompt])


def test_what_cannot_be_bounded_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="cuts no pictures into tiles"):
        build_vlm(folders["llava"], max_tiles=2)
    with pytest.raises(UserError, match="max_tiles: 1 is below the 2"):
        build_vlm(folders["llava_next"], max_tiles=1)
    with pytest.raises(ValueError, match="max_tiles: must be 1 or more"):
        build_vlm(folders["llava"], max_tiles=0)
