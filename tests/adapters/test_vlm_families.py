"""Further families behind the vision adapters, and what only shows where a tower trains."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import Case, by_row, check_batching_does_not_matter
from more_vlm import MORE, save_more
from test_video_lm import upstream
from tiny_vlm import clip, looking, mixed_pairs, picture, save_vlm, vlm_pair
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmalign.adapters._text_sampling import Sampling
from mmalign.adapters._vision_batch import units_of
from mmalign.adapters._vision_lm import VisionLM
from mmalign.adapters._vision_media import answering, encode_units
from mmalign.adapters._vision_parts import core_of
from mmalign.adapters.video_lm import VideoLm
from mmalign.adapters.vlm import Vlm
from mmalign.config import Lora
from mmalign.data._views import add_views
from mmalign.training import lora
from mmalign.types import Example, Message, Part, PreferenceSample, UserError, View

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_more(family, tmp_path_factory.mktemp(family)) for family in MORE}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vlm("llava", tmp_path_factory.mktemp("llava"))


def build(folder: Path, **settings: Any) -> VisionLM:
    return Vlm(str(folder), **settings).build(CPU)


@pytest.mark.parametrize("family", MORE)
def test_scores_are_those_of_the_public_classes(folders: dict[str, Path], family: str) -> None:
    own = build(folders[family])
    case = Case(own, mixed_pairs())
    check_batching_does_not_matter(case, 2e-6)
    with torch.no_grad():
        ours = by_row(*case.score())
    for sample in case.samples:
        for role in case.roles:
            mine = ours[sample.id, role, 0]
            theirs = upstream(folders[family], sample, role)[-len(mine) :]
            assert float((mine - theirs).abs().max()) <= 1e-5, (sample.id, role)
    assert own.self_check(own.policy, case.batch(), {}) <= 1e-5


@pytest.mark.parametrize("family", MORE)
def test_greedy_answers_are_upstreams(folders: dict[str, Path], family: str) -> None:
    own = build(folders[family], generation=Sampling(max_new_tokens=8, temperature=0.0))
    a, b = picture(1), picture(2, (64, 32))
    (ours,) = own.generate(own.policy, [looking(a, b)], [0])
    model = AutoModelForImageTextToText.from_pretrained(folders[family]).eval()
    processor = AutoProcessor.from_pretrained(folders[family])
    contents = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "what is it?"}]
    turns = [{"role": "user", "content": contents}]
    text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[[a, b]], return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    theirs = processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert ours.data == theirs


@pytest.mark.parametrize("trains", [("language",), ("projector",), ("language", "projector", "vision")])
@pytest.mark.parametrize("family", MORE)
def test_what_is_kept_does_not_change_scores_or_gradients(
    folders: dict[str, Path], family: str, trains: tuple[Any, ...]
) -> None:
    own = build(folders[family], trains=trains)
    case = Case(own, mixed_pairs())
    with torch.no_grad():
        theirs = by_row(*Case(build(folders[family]), mixed_pairs()).score())
    batch, scores = case.score()
    ours = by_row(batch, scores)
    assert max(float((ours[k] - theirs[k]).abs().max()) for k in ours) <= 2e-5
    scores.total().sum().backward()
    for name, parameter in own.policy.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} trains but takes no gradient"


def test_clips_of_qwen3_vl(folders: dict[str, Path]) -> None:
    own = VideoLm(str(folders["qwen3_vl"])).build(CPU)
    pairs = (vlm_pair("clip", (clip(1),)), vlm_pair("both", (clip(2), picture(3))), vlm_pair("none"))
    case = Case(own, pairs)
    with torch.no_grad():
        ours = by_row(*case.score())
    for sample in pairs:
        mine = ours[sample.id, "chosen", 0]
        theirs = upstream(folders["qwen3_vl"], sample, "chosen")[-len(mine) :]
        assert float((mine - theirs).abs().max()) <= 1e-5, sample.id


# ---------------------------------------------------------------- nothing goes unseen


def test_a_forward_that_does_not_ask_for_its_pictures_is_refused(folders: dict[str, Path]) -> None:
    own = build(folders["llava_next"])
    core = core_of(own.policy)
    with (
        pytest.raises(UserError, match="does not call get_image_features"),
        answering(core, {"image": [torch.zeros(4, 32)]}),
    ):
        pass


def test_the_first_check_notices_a_model_that_looks_ahead(folders: dict[str, Path]) -> None:
    own = build(folders["gemma3"])
    batch = Case(own, (vlm_pair("x", (picture(1),)),)).batch()
    assert own.self_check(own.policy, batch, {}) <= 1e-5
    name = "token.token_type_ids"  # a run of ones is read both ways
    own._probe = tuple(  # type: ignore[assignment]
        replace(row, data={**row.data, name: torch.ones_like(row.data[name])}) for row in own._probe or ()
    )
    assert own.self_check(own.policy, batch, {}) > 1e-3


@pytest.mark.parametrize("trains", [("language",), ("vision",)])
@pytest.mark.parametrize("family", ["llava", "smolvlm", "llava_onevision", "qwen2_5_vl"])
def test_the_first_check_compares_rows_of_several_pictures(
    tmp_path: Path, family: str, trains: tuple[Any, ...]
) -> None:
    own = build(save_vlm(family, tmp_path), trains=trains)
    a, b = picture(1), picture(2, (64, 32))
    batch = Case(own, (vlm_pair("x", (a, b)),)).batch()
    assert own.self_check(own.policy, batch, {}) <= 1e-5
    assert own._probe is not None
    _, after = own._probe
    other = build(save_vlm(family, tmp_path), trains=trains)
    swapped = Case(other, (vlm_pair("x", (b, a)),))
    swapped.batch()
    assert other._probe is not None
    own._probe = (other._probe[0], after)
    assert own.self_check(own.policy, batch, {}) > 1e-3


def test_lora_on_layers_that_are_never_read_takes_a_gradient_of_zero(llava: Path) -> None:
    own = build(llava)
    own.policy.requires_grad_(False)
    lora.inject(own.policy, Lora(rank=2, targets=("q_proj",)), own.lora_targets, 0)
    _, scores = Case(own, (vlm_pair("x", (picture(1),)),)).score()
    scores.total().sum().backward()
    assert own.keeps == "pixels"
    grads = {n: p.grad for n, p in own.policy.named_parameters() if p.requires_grad}
    unread = [n for n in grads if ".lora_" in n and "vision_tower.encoder.layers.1." in n]
    assert unread
    for name, grad in grads.items():
        assert grad is not None, name
        assert name not in unread or float(grad.abs().sum()) == 0.0


# ---------------------------------------------------------------- media that rows share


def test_rows_of_several_pictures_share_their_tensors(llava: Path) -> None:
    own = build(llava)
    rows = own.prepare(vlm_pair("x", (picture(1), picture(2))), ("chosen", "rejected")).rows
    for place in range(2):
        first, second = (row.data[f"image.{place}.pixel_values"] for row in rows)
        assert first is second  # what is sent from a worker holds it once


def test_a_response_begins_at_the_same_place_under_another_picture(llava: Path) -> None:
    own = build(llava, plain_prompts="raw")

    def example(image: Any, answer: str) -> tuple[Example, ...]:
        prompt = (Message("text", (Part("image", image), Part("text", "is it a fox?  "))),)
        return (Example(prompt, (Part("text", answer),)),)

    # an answer that begins with a space takes ids from the prompt
    own.tokenizer.add_tokens(["?   "])
    sample = PreferenceSample(
        "x",
        {
            "chosen": example(picture(1), "yes"),
            "rejected": example(picture(1), " no"),
            "chosen_crop": example(picture(2), "yes"),
        },
    )
    roles = ("chosen", "rejected", "chosen_crop")
    rows = {row.role: row.data for row in own.prepare(sample, roles).rows}
    scored = {role: len(data["ids"]) - int(data["start"]) for role, data in rows.items()}
    assert scored["chosen"] == scored["chosen_crop"]
    assert int(rows["chosen"]["start"]) == int(rows["rejected"]["start"])


def test_large_media_go_through_the_tower_in_smaller_groups(
    llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = build(llava)
    rows = own.prepare(vlm_pair("x", tuple(picture(i) for i in range(5))), ("chosen",)).rows
    units = units_of(rows[0])
    calls: list[int] = []
    method = core_of(own.policy).get_image_features

    def counted(pixel_values: torch.Tensor, **options: Any) -> Any:
        calls.append(len(pixel_values))
        return method(pixel_values=pixel_values, **options)

    monkeypatch.setattr(core_of(own.policy), "get_image_features", counted)
    with torch.no_grad():
        whole = encode_units(core_of(own.policy), units, CPU)
        monkeypatch.setattr("mmalign.adapters._vision_media.VALUES", 2 * 3 * 28 * 28)
        parts = encode_units(core_of(own.policy), units, CPU)
        monkeypatch.setattr("mmalign.adapters._vision_media.VALUES", 1)
        encode_units(core_of(own.policy), units, CPU)
    assert calls == [5, 2, 2, 1, 1, 1, 1, 1, 1]
    for one, other in zip(whole, parts, strict=True):
        assert float((one - other).abs().max()) <= 1e-5


def test_frames_out_of_order_do_not_take_their_time_stamps_along(folders: dict[str, Path]) -> None:
    own = VideoLm(str(folders["qwen3_vl"])).build(CPU)
    sample = add_views(
        vlm_pair("x", (clip(1),)), {}, {"back": View("chosen", "reversed_frames")}, {"back": 0}
    )
    rows = {row.role: row.data for row in own.prepare(sample, ("chosen", "back")).rows}
    text = own.tokenizer.decode(rows["back"]["ids"])
    assert text.index("<0.") < text.index("<0.6 seconds>")  # frames 0 to 3 at 4 per second, two at a time
    assert torch.equal(rows["chosen"]["ids"], rows["back"]["ids"])
    name = "video.0.pixel_values_videos"
    assert not torch.equal(rows["chosen"][name], rows["back"][name])
