"""Rows of models that look: nothing of them is dropped, and what cannot be used is refused or cut."""

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import Case
from tiny_vlm import build_vlm, clip, looking, picture, vlm_pair
from transformers import AutoProcessor

from mmalign.adapters._vision_lm import VisionLM
from mmalign.adapters._vision_loading import limit_pixels
from mmalign.adapters._vision_parts import core_of
from mmalign.data._cache import TensorCache
from mmalign.types import Example, Message, Part, PreferenceSample, UserError


def test_every_output_of_the_processor_reaches_the_model(
    vlm_folders: dict[str, Path], family: str, adapter: VisionLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = AutoProcessor.from_pretrained(vlm_folders[family])
    marker = adapter.reader.markers["image"]
    text = f"<|im_start|>user\n{marker} what?"
    outputs = set(processor(text=[text], images=[[picture(1)]], return_tensors="pt"))
    seen: set[str] = set()
    core = core_of(adapter.policy)
    before = core.forward

    def forward(**given: Any) -> Any:
        seen.update(given)
        return before(**given)

    monkeypatch.setattr(core, "forward", forward)
    row = adapter.prepare(vlm_pair("a", (picture(1),)), ("chosen",)).rows[0]
    tower = {name.split(".", 2)[2] for name in row.data if name.startswith("image.0.")}
    with torch.no_grad():
        Case(adapter, (vlm_pair("a", (picture(1),)),)).score()
    assert outputs <= seen | tower


def test_positions_in_three_dimensions_need_the_types_of_tokens(vlm_folders: dict[str, Path]) -> None:
    """Without mm_token_type_ids Qwen2.5-VL places a picture as if it were text, and says nothing."""
    own = build_vlm(vlm_folders["qwen2_5_vl"])
    batch = Case(own, (vlm_pair("a", (picture(1),)),)).batch()
    with torch.no_grad():
        right = own.logprobs(own.policy, batch, {}, frozenset()).values
        assert bool((batch.inputs["forward"]["mm_token_type_ids"] == 1).any())
        del batch.inputs["forward"]["mm_token_type_ids"]
        wrong = own.logprobs(own.policy, batch, {}, frozenset()).values
    assert float((right - wrong).abs().max()) > 1e-4


def test_features_that_do_not_fit_their_places_are_refused(adapter: VisionLM) -> None:
    batch = Case(adapter, (vlm_pair("a", (picture(1),)),)).batch()
    places = (batch.inputs["input_ids"] == adapter.reader.ids["image"]).nonzero()
    batch.inputs["input_ids"][tuple(places[0])] = 7
    with pytest.raises(UserError, match="places for image features in the text, but"):
        adapter.logprobs(adapter.policy, batch, {}, frozenset())


# ---------------------------------------------------------------- rows that are refused or cut


def test_long_rows_are_refused_or_lose_the_end_of_the_response(
    vlm_folders: dict[str, Path], family: str
) -> None:
    sample = vlm_pair("a", (picture(1),), chosen="yes " * 30)
    free = build_vlm(vlm_folders[family])
    row = free.prepare(sample, ("chosen",)).rows[0]
    start, length = int(row.data["start"]), len(row.data["ids"])
    with pytest.raises(UserError, match=rf"a: chosen: prompt and response have {length} tokens, more than"):
        build_vlm(vlm_folders[family], max_length=start + 5).check(sample, ("chosen",))
    cutting = build_vlm(vlm_folders[family], max_length=start + 5, over_long="cut_response")
    assert cutting.check(sample, ("chosen", "rejected")) == ("responses cut to fit",) * (
        1 + (len(free.prepare(sample, ("rejected",)).rows[0].data["ids"]) > start + 5)
    )
    short = cutting.prepare(sample, ("chosen",)).rows[0].data["ids"]
    assert torch.equal(short, row.data["ids"][: start + 5])
    with pytest.raises(UserError, match="none of the .* allowed is left for the response"):
        build_vlm(vlm_folders[family], max_length=start, over_long="cut_response").check(sample, ("chosen",))


def test_typed_placeholders_are_refused(adapter: VisionLM) -> None:
    marker = adapter.reader.markers["image"]
    with pytest.raises(UserError, match="the text contains .* control token"):
        adapter.check(vlm_pair("a", (picture(1),), chosen=f"look {marker}"), ("chosen",))
    example = Example(looking(question=f"{marker} what?"), (Part("text", "yes"),))
    with pytest.raises(UserError, match="test row b: chosen: prompt: the text contains"):
        adapter.check(PreferenceSample("b", {"chosen": (example,)}, origin="test row b"), ("chosen",))


def test_a_template_that_loses_a_picture_is_refused(vlm_folders: dict[str, Path], family: str) -> None:
    own = build_vlm(vlm_folders[family])
    marker = own.reader.markers["image"]
    own.processor.chat_template = own.processor.chat_template.replace(marker, "")
    with pytest.raises(UserError, match=r"has 1 images, but the chat template wrote 0 placeholders"):
        own.check(vlm_pair("a", (picture(1),)), ("chosen",))


def test_media_in_a_response_and_clips_are_refused(adapter: VisionLM) -> None:
    example = Example(looking(), (Part("image", picture(1)),))
    with pytest.raises(UserError, match="a response must be text"):
        adapter.check(PreferenceSample("a", {"chosen": (example,)}), ("chosen",))
    with pytest.raises(UserError, match="videos need model.adapter: video_lm"):
        adapter.check(vlm_pair("a", (clip(1),)), ("chosen",))


def test_a_plain_prompt_becomes_a_user_turn(
    adapter: VisionLM, vlm_folders: dict[str, Path], family: str
) -> None:
    parts = (Part("image", picture(1)), Part("text", "what is it?"))
    answer = (Part("text", "a fox"),)
    plain = PreferenceSample("a", {"chosen": (Example((Message("text", parts),), answer),)})
    chat = PreferenceSample("a", {"chosen": (Example((Message("user", parts),), answer),)})
    one, other = (adapter.prepare(s, ("chosen",)).rows[0].data["ids"] for s in (plain, chat))
    assert torch.equal(one, other)
    raw = build_vlm(vlm_folders[family], plain_prompts="raw").prepare(plain, ("chosen",)).rows[0].data["ids"]
    assert len(raw) < len(one)


def test_a_text_model_is_refused(tmp_path: Path) -> None:
    from tiny_lm import save_tiny

    with pytest.raises(UserError, match="reads text only; use model.adapter: text"):
        build_vlm(Path(save_tiny(tmp_path / "lm")))


def test_pixel_bounds(vlm_folders: dict[str, Path]) -> None:
    wide = build_vlm(vlm_folders["qwen2_5_vl"]).prepare(vlm_pair("a", (picture(1),)), ("chosen",)).rows[0]
    tight = build_vlm(vlm_folders["qwen2_5_vl"], min_pixels=64, max_pixels=128)
    small = tight.prepare(vlm_pair("a", (picture(1),)), ("chosen",)).rows[0]
    assert len(small.data["ids"]) < len(wide.data["ids"])
    assert tight.fingerprint() != build_vlm(vlm_folders["qwen2_5_vl"]).fingerprint()
    with pytest.raises(UserError, match="resizes to a fixed size"):
        build_vlm(vlm_folders["llava"], max_pixels=100)
    pictures = tight.processor.image_processor
    pictures.min_pixels, pictures.max_pixels = 8, 9999  # older releases kept, and read, names of their own
    limit_pixels(tight.processor, 64, 256)
    assert (pictures.min_pixels, pictures.max_pixels) == (64, 256)


def test_what_is_kept_does_not_outlive_the_libraries_that_made_it(
    vlm_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, found = importlib.metadata.version, set()
    for changed in ("", "pillow", "tokenizers", "torch", "torchvision", "transformers"):
        monkeypatch.setattr(
            importlib.metadata, "version", lambda n, changed=changed: "0.0" if n == changed else installed(n)
        )
        found.add(build_vlm(vlm_folders["llava"]).fingerprint())
    assert len(found) == 6


@pytest.mark.parametrize("trains", [("language",), ("language", "projector")])
def test_a_picture_that_stands_in_a_row_twice_can_be_kept(
    vlm_folders: dict[str, Path], tmp_path: Path, trains: tuple[str, ...]
) -> None:
    """The files of a cache hold every tensor by itself."""
    adapter = build_vlm(vlm_folders["qwen2_5_vl"], trains=trains)
    (done,) = adapter.encode([adapter.prepare(vlm_pair("a", (picture(1), picture(1))), ("chosen",))])
    cache = TensorCache(tmp_path)
    cache.put("row", done.rows[0].data)
    kept = cache.get("row")
    assert kept is not None and kept.keys() == done.rows[0].data.keys()
    assert all(torch.equal(value, done.rows[0].data[name]) for name, value in kept.items())
