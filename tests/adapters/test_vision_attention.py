"""What a greedy answer attends to, against the attentions that the public classes give."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_vlm import save_clip_vlm
from more_vlm import save_more
from tiny_vlm import build_vlm, clip, looking, picture
from torch import Tensor
from transformers import AutoModelForImageTextToText

from mmalign.adapters import _vision_attention
from mmalign.adapters._text_sampling import Sampling
from mmalign.adapters._vision_attention import catching, plain_attention
from mmalign.adapters._vision_lm import VisionLM
from mmalign.types import Attentive, UserError

LENGTH = 9
SETTINGS = Sampling(max_new_tokens=LENGTH, temperature=1.0, stop=("e",))  # of which the length counts


def upstream(folder: Path, adapter: VisionLM, prompt: Any, layer: int) -> tuple[list[int], Tensor, Tensor]:
    """The prompt's ids, probabilities of the new ones, and attention of the steps behind the first [T]."""
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
    images = [p.data for p in prompt[0].parts if p.kind == "image"]
    contents = [
        {"type": p.kind} if p.kind == "image" else {"type": "text", "text": p.data} for p in prompt[0].parts
    ]
    text = adapter.processor.apply_chat_template(
        [{"role": "user", "content": contents}], tokenize=False, add_generation_prompt=True
    )
    inputs = adapter.processor(text=[text], images=[images], return_tensors="pt")
    out = model.generate(
        **inputs, max_new_tokens=LENGTH, do_sample=False, return_dict_in_generate=True,
        output_attentions=True, output_logits=True,
    )  # fmt: skip
    width = inputs["input_ids"].shape[1]
    steps = [step[layer][0, :, -1, :width].mean(0) for step in out.attentions[1:]]
    best = torch.stack([torch.softmax(row[0].float(), -1).max() for row in out.logits])
    ids = inputs["input_ids"][0]
    return ids.tolist(), best, torch.stack(steps).mean(0)


@pytest.mark.parametrize("layer", [0, 1, 0.5])
def test_attention_is_that_of_generating(
    vlm_folders: dict[str, Path], family: str, layer: int | float
) -> None:
    adapter = build_vlm(vlm_folders[family], generation=SETTINGS)
    assert isinstance(adapter, Attentive)
    prompt = looking(picture(1), picture(2, (64, 32)))
    (found,) = adapter.attend(adapter.policy, [prompt], layer)
    ids, best, expected = upstream(vlm_folders[family], adapter, prompt, 1 if layer == 0.5 else int(layer))
    assert torch.allclose(found.certainty, best, atol=1e-5)
    assert found.attention is not None
    places = torch.tensor(ids) == adapter.reader.ids["image"]
    assert torch.allclose(torch.cat(found.attention), expected[places], atol=1e-6)
    counts = adapter.media_tokens([prompt])[0]
    assert tuple(len(one) for one in found.attention) == counts
    adapter.config = replace(adapter.config, generation=replace(SETTINGS, temperature=0.0, stop=()))
    assert adapter.generate(adapter.policy, [prompt], [0]) == [found.answer]


def test_attention_does_not_depend_on_the_batch(adapter: VisionLM) -> None:
    adapter.config = replace(adapter.config, generation=SETTINGS)
    prompts = [looking(picture(1)), looking(picture(2), picture(3), picture(4)), looking(question="and now?")]
    together = adapter.attend(adapter.policy, prompts, 1)
    assert together[2].attention == () and together[2].grids == ()
    for prompt, found in zip(prompts, together, strict=True):
        (alone,) = adapter.attend(adapter.policy, [prompt], 1)
        assert alone.answer == found.answer
        assert torch.allclose(alone.certainty, found.certainty, atol=1e-6)
        for one, other in zip(alone.attention or (), found.attention or (), strict=True):
            assert torch.allclose(one, other, atol=1e-6)


def test_an_answer_of_a_single_step_has_no_attention(vlm_folders: dict[str, Path]) -> None:
    adapter = build_vlm(vlm_folders["llava"], generation=replace(SETTINGS, max_new_tokens=1))
    (found,) = adapter.attend(adapter.policy, [looking(picture(1))], 0)
    assert found.attention is None and len(found.certainty) == 1
    long = build_vlm(vlm_folders["llava"], generation=replace(SETTINGS, max_new_tokens=4))
    long.end_ids = tuple(range(long.policy.config.text_config.vocab_size))  # whatever comes, ends
    (ended,) = long.attend(long.policy, [looking(picture(1))], 0)
    assert ended.answer.data == "" and len(ended.certainty) == 1 and ended.attention is None


def test_attention_is_computed_as_before_afterwards(vlm_folders: dict[str, Path]) -> None:
    adapter = build_vlm(vlm_folders["qwen2_5_vl"], generation=SETTINGS)
    model: Any = adapter.policy
    before = {
        name: getattr(model.config, name)._attn_implementation for name in ("text_config", "vision_config")
    }
    assert before == {"text_config": "sdpa", "vision_config": "sdpa"}
    with plain_attention(model):
        assert model.config.text_config._attn_implementation == "eager"
        assert model.config.vision_config._attn_implementation == "sdpa"
    adapter.attend(model, [looking(picture(1))], 0)
    after = {name: getattr(model.config, name)._attn_implementation for name in before}
    assert after == before


def test_a_layer_without_attention_is_refused(vlm_folders: dict[str, Path]) -> None:
    adapter = build_vlm(vlm_folders["llava"], generation=SETTINGS)
    for layer in (2, -1):
        with pytest.raises(UserError, match=f"layer: must be from 0 to 1 in this model, got {layer}"):
            adapter.attend(adapter.policy, [looking(picture(1))], layer)
    ids = torch.tensor([[1, 7, 8]])
    with pytest.raises(UserError, match="keeps no attention weights"), catching(adapter.policy, 0):
        adapter.policy(input_ids=ids)  # by a kernel that gives none


def test_grids_of_pictures(adapter: VisionLM, family: str) -> None:
    adapter.config = replace(adapter.config, generation=SETTINGS)
    one, two = adapter.attend(
        adapter.policy, [looking(picture(1, (64, 32))), looking(picture(1), picture(2))], 0
    )
    expected: dict[str, Any] = {
        "llava": ((2, 2),),  # a picture of 28 pixels in patches of 14
        "qwen2_5_vl": ((1, 3),),  # at most 384 pixels of 64 x 32, in pairs of patches of 4
        "smolvlm": (None,),  # tiles
        "llava_onevision": (None,),
    }
    assert one.grids == expected[family]
    assert len(two.grids) == 2


def test_clips_have_no_grid(vlm_folders: dict[str, Path]) -> None:
    adapter = build_vlm(vlm_folders["qwen2_5_vl"], video=True, generation=SETTINGS)
    (found,) = adapter.attend(adapter.policy, [looking(clip(2), picture(1, (24, 16)))], 0)
    assert found.grids == (None, (2, 3)) and found.attention is not None
    assert len(found.attention) == 2


@pytest.mark.parametrize("family", ["gemma3", "qwen3_vl", "internvl", "llava_next"])
def test_other_families(family: str, tmp_path: Path) -> None:
    test_attention_is_that_of_generating({family: save_more(family, tmp_path)}, family, 1)


def test_an_answer_ends_before_a_placeholder_of_its_own(
    vlm_folders: dict[str, Path], monkeypatch: Any
) -> None:
    adapter = build_vlm(vlm_folders["llava"], generation=SETTINGS)
    written = [7, 8, adapter.reader.ids["image"], 9]
    for begin, count in ((0, 2), (2, 0)):
        monkeypatch.setattr(_vision_attention, "sample_new", lambda *given, b=begin: [written[b:]])
        (found,) = adapter.attend(adapter.policy, [looking(picture(1))], 0)
        assert len(found.certainty) == count and (found.attention is None) == (count == 0)
        assert found.answer.data == adapter.tokenizer.decode(written[begin:2])


def test_frames_that_are_handed_over_as_pictures(vlm_folders: dict[str, Path]) -> None:
    adapter = build_vlm(vlm_folders["smolvlm"], video=True, generation=SETTINGS)
    prompt = looking(clip(2), clip(3, frames=2))
    (counts,) = adapter.media_tokens([prompt])
    assert len(counts) == 2 and counts[0] == 2 * counts[1] > 0
    (found,) = adapter.attend(adapter.policy, [prompt], 0)
    assert found.attention is not None and tuple(map(len, found.attention)) == counts


@pytest.mark.parametrize("family", ["paligemma", "idefics3"])
def test_answers_apart_from_their_prompt(family: str, tmp_path: Path) -> None:
    """PaliGemma reads its prompt both ways; steps of an answer must ask as they did when writing it."""
    folder = save_clip_vlm(family, tmp_path)
    adapter = build_vlm(folder, generation=SETTINGS, plain_prompts="raw" if family == "paligemma" else "chat")
    (found,) = adapter.attend(adapter.policy, [looking(picture(1))], 1)
    assert found.attention is not None
    with plain_attention(adapter.policy), catching_all(adapter) as steps:
        adapter.config = replace(adapter.config, generation=replace(SETTINGS, temperature=0.0, stop=()))
        adapter.generate(adapter.policy, [looking(picture(1))], [0])
    seen = adapter.reader.prompt(looking(picture(1)), "here")
    places = torch.tensor(seen.ids) == adapter.reader.ids["image"]
    expected = torch.stack([step[0, :, -1, : len(places)].mean(0) for step in steps[1:]]).mean(0)
    assert torch.allclose(torch.cat(found.attention), expected[places], atol=1e-6)


@contextmanager
def catching_all(adapter: VisionLM) -> Iterator[list[Tensor]]:
    """The weights of layer 1 at every step."""
    steps: list[Tensor] = []
    module = adapter.policy.get_decoder().layers[1].self_attn  # type: ignore[operator]
    hook = module.register_forward_hook(lambda _, __, out: steps.append(out[1]))
    yield steps
    hook.remove()
