"""What models that look pass over without a word: each is noticed here, in every family it concerns."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from contract import Case, by_row, gap
from more_vlm import MORE, save_more
from tiny_vlm import build_vlm, clip, looking, picture, save_vlm, vlm_pair
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmalign.adapters._text_sampling import Sampling
from mmalign.adapters._vision_lm import VisionLM
from mmalign.adapters._vision_sampling import sample_new
from mmalign.types import Example, Message, Part, PreferenceSample, UserError


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


def test_one_start_token(folders: dict[str, Path]) -> None:
    """Some templates write it, others leave it to a tokenizer that does."""
    own = build_vlm(folders["llava_next"])
    start = own.tokenizer.bos_token_id
    own.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", start)]
    )
    template = own.processor.chat_template
    found = []
    for own.processor.chat_template in (template, "{{ '<s>' }}" + template):
        row = own.prepare(vlm_pair("x", (picture(1),)), ("chosen",)).rows[0].data
        assert int(row["ids"][0]) == start and int((row["ids"] == start).sum()) == 1
        found.append(row["ids"])
    assert torch.equal(*found)


def test_a_placeholder_without_its_medium(folders: dict[str, Path]) -> None:
    """The model would read it as a word; its processor says nothing of one that templates do not write."""
    own = build_vlm(folders["gemma3"])
    own.processor.chat_template += "<image_soft_token>"
    with pytest.raises(UserError, match=r"holds a placeholder '<start_of_image>' without its image"):
        own.check(vlm_pair("x"), ("chosen",))


@pytest.mark.parametrize("plain", ["raw", "chat"])
def test_control_tokens_where_texts_meet(folders: dict[str, Path], plain: Literal["raw", "chat"]) -> None:
    own = build_vlm(folders["gemma3"], plain_prompts=plain)
    for media in ((), (Part("image", picture(1)),)):
        for speaker in ("text", "user") if plain == "chat" else ("text",):
            parts = (*media, Part("text", "see <image_soft"), Part("text", "_token>"))
            row = Example((Message(speaker, parts),), (Part("text", "yes"),))  # type: ignore[arg-type]
            with pytest.raises(UserError, match="the text contains '<image_soft_token>'"):
                own.check(PreferenceSample("x", {"chosen": (row,)}), ("chosen",))
    prompt = (Message("text", (Part("image", picture(1)), Part("text", "see <image_soft"))),)
    row = Example(prompt, (Part("text", "_token> there"),))
    if plain == "raw":
        with pytest.raises(UserError, match="the text contains '<image_soft_token>'"):
            own.check(PreferenceSample("x", {"chosen": (row,)}), ("chosen",))
        with pytest.raises(UserError, match="the text contains '<image_soft_token>'"):
            own.reader.begun(prompt, "_token> there", "x")
    else:
        own.check(PreferenceSample("x", {"chosen": (row,)}), ("chosen",))  # they do not meet


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next"])
def test_sides_with_pictures_of_other_sizes_begin_behind_their_own(
    folders: dict[str, Path], family: str
) -> None:
    own = build_vlm(folders[family])
    small, large = picture(1, (16, 16)), picture(2, (60, 120))
    for one, other in ((small, large), (large, small)):
        sample = vlm_pair("x", (one,), rejected_media=(other,))
        for row in own.prepare(sample, ("chosen", "rejected")).rows:
            example = sample.examples[row.role][0]
            assert int(row.data["start"]) == len(own.reader.prompt(example.prompt, "x").ids)
            assert own.describe(row).scored.startswith(str(example.response[0].data))


def test_answers_of_a_batch_fit_their_own_room(folders: dict[str, Path]) -> None:
    """A batch goes on until its shortest prompt has no room left; the longer ones have had less."""
    prompts = [looking(picture(1)), looking(picture(1), question="what is it, and why is it there? " * 2)]
    free = build_vlm(folders["llava_next"])
    long = len(free.reader.prompt(prompts[1], "x").ids)
    own = build_vlm(folders["llava_next"], max_length=long + 3)
    own.end_ids = (own.tokenizer.pad_token_id,)  # never drawn by chance below
    seen, settings = [own.reader.prompt(p, "x") for p in prompts], Sampling(max_new_tokens=12)
    together = sample_new(own, own.policy, seen, [0, 1], settings)
    alone = [sample_new(own, own.policy, [one], [seed], settings)[0] for seed, one in enumerate(seen)]
    assert together == alone and [len(ids) for ids in together] == [12, 3]
