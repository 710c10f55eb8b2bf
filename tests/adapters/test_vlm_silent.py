"""What models that look pass over without a word: each is noticed here, in every family it concerns."""

from pathlib import Path

import pytest
import torch
from contract import Case, by_row, gap
from more_vlm import MORE, save_more
from tiny_vlm import build_vlm, clip, picture, save_vlm, vlm_pair
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmalign.adapters._vision_lm import VisionLM
from mmalign.types import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_more(family, tmp_path_factory.mktemp(family)) for family in MORE}


def scores(own: VisionLM, number: int) -> dict[tuple[str, str, int], torch.Tensor]:
    with torch.no_grad():
        return by_row(*Case(own, (vlm_pair("x", (picture(number),)),)).score())


@pytest.mark.parametrize("family", MORE)
def test_another_picture_changes_the_scores(folders: dict[str, Path], family: str) -> None:
    own = build_vlm(folders[family])
    assert gap(scores(own, 1), scores(own, 2)) > 1e-2


def test_a_projector_of_zeros_shows_no_picture(folders: dict[str, Path], tmp_path: Path) -> None:
    """So Gemma 3 begins where its projector is not read from a checkpoint: the test above would find it."""
    model = AutoModelForImageTextToText.from_pretrained(folders["gemma3"])
    with torch.no_grad():
        model.model.multi_modal_projector.mm_input_projection_weight.zero_()
    model.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(folders["gemma3"]).save_pretrained(tmp_path)
    own = build_vlm(tmp_path)
    assert gap(scores(own, 1), scores(own, 2)) == 0.0


@pytest.mark.parametrize(
    ("family", "name"),
    [("gemma3", "token_type_ids"), ("qwen2_vl", "mm_token_type_ids"), ("qwen3_vl", "mm_token_type_ids")],
)
def test_types_of_tokens_reach_the_model(folders: dict[str, Path], family: str, name: str) -> None:
    """Without them the model is another one, or fails."""
    own = build_vlm(folders[family])
    batch = Case(own, (vlm_pair("x", (picture(1),)),)).batch()
    with torch.no_grad():
        right = own.logprobs(own.policy, batch, {}, frozenset()).values
        assert bool((batch.inputs["forward"].pop(name) == 1).any())
        try:
            wrong = own.logprobs(own.policy, batch, {}, frozenset()).values
        except (ValueError, TypeError):
            return
    assert float((right - wrong).abs().max()) > 1e-4


@pytest.mark.parametrize("family", MORE)
def test_features_and_places_must_agree(folders: dict[str, Path], family: str) -> None:
    own = build_vlm(folders[family])
    for more in (False, True):
        batch = Case(own, (vlm_pair("x", (picture(1),)),)).batch()
        ids, token = batch.inputs["input_ids"], own.reader.ids["image"]
        one = tuple((ids == token).nonzero()[0])
        ids[(one[0], torch.tensor(0)) if more else one] = token if more else 7
        with (
            pytest.raises(UserError, match="places for image features in the text, but"),
            torch.no_grad(),
        ):
            own.logprobs(own.policy, batch, {}, frozenset())


@pytest.mark.parametrize("family", MORE)
def test_no_picture_is_ever_cut(folders: dict[str, Path], family: str) -> None:
    sample = vlm_pair("x", (picture(1),), chosen="yes " * 20)
    row = build_vlm(folders[family]).prepare(sample, ("chosen",)).rows[0]
    start, token = int(row.data["start"]), build_vlm(folders[family]).reader.ids["image"]
    inside = int((row.data["ids"] == token).nonzero()[1])
    for limit in (inside, start):
        own = build_vlm(folders[family], max_length=limit, over_long="cut_response")
        with pytest.raises(UserError, match="is left for the response"):
            own.check(sample, ("chosen",))
    own = build_vlm(folders[family], max_length=start + 3, over_long="cut_response")
    short = own.prepare(sample, ("chosen",)).rows[0].data
    assert torch.equal(short["ids"], row.data["ids"][: start + 3])
    assert all(len(value) == start + 3 for name, value in short.items() if name.startswith("token."))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_an_odd_clip_is_one_that_repeats_its_last_frame(folders: dict[str, Path], family: str) -> None:
    """Frames go in pairs: three frames take the places of four."""
    own = build_vlm(folders[family], video=True)
    odd, even = (own.prepare(vlm_pair("x", (clip(1, frames=n),)), ("chosen",)).rows[0].data for n in (3, 4))
    assert odd["video.0.video_grid_thw"].tolist()[0][0] == even["video.0.video_grid_thw"].tolist()[0][0] == 2
    assert not torch.equal(odd["video.0.digest"], even["video.0.digest"])


def test_clips_of_unequal_length_share_a_batch(tmp_path: Path) -> None:
    """LLaVA-OneVision itself wants one number of frames for a batch; ours are encoded one by one."""
    own = build_vlm(save_vlm("llava_onevision", tmp_path), video=True)
    rows = (vlm_pair("a", (clip(1),)), vlm_pair("b", (clip(2, frames=7),)))
    with torch.no_grad():
        together = by_row(*Case(own, rows).score())
        alone = {k: v for row in rows for k, v in by_row(*Case(own, (row,)).score()).items()}
    assert gap(together, alone) <= 1e-6
