"""Every family that reads clips against the public classes, and what each of them leaves unsaid."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_vlm import CLIPS, save_clip_vlm
from contract import Case, by_row, check_batching_does_not_matter, check_shapes, gap
from more_vlm import MORE, save_more
from test_video_lm import mixed, upstream
from tiny_vlm import build_vlm, clip, looking, mixed_pairs, picture, save_vlm, vlm_pair
from transformers import AutoModelForImageTextToText

from mmalign.adapters._text_sampling import Sampling
from mmalign.adapters._vision_batch import units_of
from mmalign.adapters._vision_lm import VisionLM
from mmalign.config import Lora
from mmalign.training import lora
from mmalign.types import Clip, PreferenceSample, UserError

READ = ("qwen2_vl", "qwen3_vl", "llava_next_video", "video_llava", "smolvlm", "internvl")


def save(family: str, folder: Path) -> Path:
    if family in CLIPS:
        return save_clip_vlm(family, folder)
    return save_more(family, folder) if family in MORE else save_vlm(family, folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    names = (*READ, "idefics3")
    return {family: save(family, tmp_path_factory.mktemp(family)) for family in names}


def samples(family: str) -> tuple[PreferenceSample, ...]:
    """Rows that the family takes: SmolVLM has one place for pictures and clips."""
    rows = mixed()
    return tuple(row for row in rows if row.id != "both") if family == "smolvlm" else rows


def against_upstream(own: VisionLM, folder: Path, rows: tuple[PreferenceSample, ...]) -> None:
    case = Case(own, rows)
    check_shapes(case)
    check_batching_does_not_matter(case, 2e-6)
    with torch.no_grad():
        ours, apart = by_row(*case.score()), {}
        for role in case.roles:
            apart |= by_row(*replace(case, roles=(role,)).score())
    assert gap(ours, apart) <= 2e-6
    for sample in rows:
        for role in case.roles:
            mine = ours[sample.id, role, 0]
            theirs = upstream(folder, sample, role)[-len(mine) :]
            assert float((mine - theirs).abs().max()) <= 2e-6, (sample.id, role)
    assert own.self_check(own.policy, case.batch(), {}) <= 2e-6


@pytest.mark.parametrize("family", READ)
def test_clips_score_as_the_public_classes_do(folders: dict[str, Path], family: str) -> None:
    own = build_vlm(folders[family], video=True)
    against_upstream(own, folders[family], samples(family))


def test_pictures_of_idefics3(folders: dict[str, Path]) -> None:
    against_upstream(build_vlm(folders["idefics3"]), folders["idefics3"], mixed_pairs())


@pytest.mark.parametrize("family", READ)
def test_another_clip_changes_the_scores(folders: dict[str, Path], family: str) -> None:
    own = build_vlm(folders[family], video=True)
    a = clip(1)
    black = replace(a, frames=torch.zeros_like(a.frames))
    last = torch.cat([a.frames[:-1], clip(2).frames[-1:]])
    with torch.no_grad():
        scores = [
            by_row(*Case(own, (vlm_pair("x", (c,)),)).score()) for c in (a, black, replace(a, frames=last))
        ]
    assert gap(scores[0], scores[1]) > 1e-3
    assert gap(scores[0], scores[2]) > 1e-3  # down to the last frame


@pytest.mark.parametrize("family", (*READ, "idefics3"))
def test_answers_do_not_depend_on_the_batch(folders: dict[str, Path], family: str) -> None:
    video = family != "idefics3"
    own = build_vlm(folders[family], video=video, generation=Sampling(max_new_tokens=6))
    prompts = [sample.examples["chosen"][0].prompt for sample in rows_of(family)]
    together = own.generate(own.policy, prompts, range(len(prompts)))
    alone = [own.generate(own.policy, [p], [s])[0] for s, p in enumerate(prompts)]
    assert [p.data for p in together] == [p.data for p in alone]


@pytest.fixture(scope="module")
def frozen(folders: dict[str, Path]) -> Callable[[str], Any]:
    """Scores of a family's rows by a model of which nothing was kept before."""

    @functools.cache
    def scores(family: str) -> Any:
        own = build_vlm(folders[family], video=family != "idefics3")
        with torch.no_grad():
            return by_row(*Case(own, rows_of(family)).score())

    return scores


def rows_of(family: str) -> tuple[PreferenceSample, ...]:
    return mixed_pairs() if family == "idefics3" else samples(family)


@pytest.mark.parametrize("trains", [("language",), ("projector",), ("language", "projector", "vision")])
@pytest.mark.parametrize("family", (*READ, "idefics3"))
def test_what_is_kept_does_not_change_scores_or_gradients(
    folders: dict[str, Path], frozen: Callable[[str], Any], family: str, trains: tuple[Any, ...]
) -> None:
    own = build_vlm(folders[family], video=family != "idefics3", trains=trains)
    batch, scores = Case(own, rows_of(family)).score()
    assert gap(by_row(batch, scores), frozen(family)) <= 2e-5
    scores.total().sum().backward()
    for name, parameter in own.policy.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} trains but takes no gradient"


@pytest.mark.parametrize("family", (*READ, "idefics3"))
def test_lora_off_is_the_base_and_a_saved_model_is_the_same(
    folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    media: Any = picture(1) if family == "idefics3" else clip(1)
    rows = (vlm_pair("x", (media,)),)
    own = build_vlm(folders[family], video=family != "idefics3")
    own.save(own.policy, tmp_path, None)
    case = Case(own, rows)
    with torch.no_grad():
        base = by_row(*case.score())
        again = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
        assert gap(base, by_row(*case.score(model=again))) <= 1e-6
    lora.inject(own.policy, Lora(rank=2), own.lora_targets, 0)
    for name, parameter in own.policy.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        assert gap(base, by_row(*case.score())) > 1e-3
        with lora.switched_off(own.policy):
            assert gap(base, by_row(*case.score())) == 0.0


# ---------------------------------------------------------------- what goes wrong without a word


@pytest.mark.parametrize("family", (*READ, "idefics3"))
def test_a_clip_that_is_dropped_is_noticed(folders: dict[str, Path], family: str) -> None:
    """Every family reads placeholders as text where pixels are missing."""
    media: Any = picture(1) if family == "idefics3" else clip(1)
    own = build_vlm(folders[family], video=family != "idefics3")
    batch = Case(own, (vlm_pair("x", (media,)), vlm_pair("y", (media, media)))).batch()
    kind = next(name.partition(".")[0] for name in batch.inputs if name.endswith(".order"))
    batch.inputs[f"{kind}.order"] = batch.inputs[f"{kind}.order"][:-1]
    with pytest.raises(UserError, match=r"places for .* features in the text"), torch.no_grad():
        own.logprobs(own.policy, batch, {}, frozenset())


def test_smolvlm_takes_pictures_or_clips(folders: dict[str, Path]) -> None:
    own = build_vlm(folders["smolvlm"], video=True)
    with pytest.raises(UserError, match="this model takes either"):
        own.prepare(vlm_pair("x", (picture(1), clip(1))), ("chosen",))


def test_frames_handed_over_as_pictures_are_told_by_their_times(folders: dict[str, Path]) -> None:
    own = build_vlm(folders["smolvlm"], video=True)
    rows = [own.prepare(vlm_pair("x", (clip(1, rate=r),)), ("chosen",)).rows[0] for r in (1.0, 4.0)]
    slow, fast = (own.tokenizer.decode(row.data["ids"]) for row in rows)
    assert "00:03" in slow
    assert "00:03" not in fast


@pytest.mark.parametrize("family", ["smolvlm", "internvl"])
def test_places_of_a_clip_handed_over_as_pictures(folders: dict[str, Path], family: str) -> None:
    own = build_vlm(folders[family], video=True)
    prompts = [looking(clip(1)), looking(clip(1), clip(2))]
    assert own.media_tokens(prompts) == [(16,), (16, 16)]  # four frames of four places


def test_a_single_frame_is_too_short_for_qwen3_vl(folders: dict[str, Path]) -> None:
    own = build_vlm(folders["qwen3_vl"], video=True)
    one: Clip = clip(1, frames=1)
    with pytest.raises(UserError, match="refuses its media"):
        own.prepare(vlm_pair("x", (one,)), ("chosen",))


def test_both_towers_of_video_llava_are_the_vision_part(folders: dict[str, Path]) -> None:
    own = build_vlm(folders["video_llava"], video=True)
    assert any("video_tower" in name for name in own.parts["vision"])
    assert all(name.startswith("model.multi_modal_projector") for name in own.parts["projector"])


def test_every_medium_of_internvl_is_encoded_once(folders: dict[str, Path]) -> None:
    """Tiles and frames come in one stack, which is cut by their numbers."""
    own = build_vlm(folders["internvl"], video=True)
    a, b, c = picture(1, (96, 48)), clip(1), picture(2)
    rows = [own.prepare(vlm_pair("x", media), ("chosen",)).rows[0] for media in ((a, b, c), (c, a), (b,))]
    three, two, one = ([unit.digest for unit in units_of(row)] for row in rows)
    assert len(three) == 3
    assert two == [three[2], three[0]]
    assert one == [three[1]]
