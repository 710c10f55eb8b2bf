"""Going on with begun answers, and hiding places of pictures from attention while doing so."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from more_vlm import save_more
from tiny_lm import chat, load_tiny, plain
from tiny_vlm import build_vlm, clip, looking, mixed_pairs, picture

import mmalign
from mmalign.adapters import _vision_sampling
from mmalign.adapters._text_sampling import Sampling
from mmalign.adapters._vision_batch import prompt_inputs
from mmalign.adapters._vision_hiding import FinishedMask, hiding
from mmalign.adapters._vision_lm import VisionLM
from mmalign.shapes.sights import render_sight, sample_sight
from mmalign.types import Completer, HidingCompleter, Message, UserError

BUILT_IN = Path(mmalign.__file__).parent / "shapes/models/vlm"
GREEDY = Sampling(max_new_tokens=14, temperature=0.0)
PROMPTS = [s.examples["chosen"][0].prompt for s in mixed_pairs()]


def texts(
    adapter: VisionLM,
    prompts: Sequence[tuple[Message, ...]],
    visible: Sequence[torch.Tensor | None] | None,
    begun: str = "",
) -> list[str]:
    """What the model goes on with, every prompt from its own seed."""
    count = len(prompts)
    return [
        p.data
        for p in adapter.complete(adapter.policy, prompts, [begun] * count, list(range(count)), visible)
    ]


def masks(adapter: VisionLM, prompts: Sequence[tuple[Message, ...]], share: float) -> list[torch.Tensor]:
    """Masks that show about that share of the places."""
    generator = torch.Generator().manual_seed(3)
    counts = [sum(listed) for listed in adapter.media_tokens(prompts)]
    return [torch.rand(count, generator=generator) < share for count in counts]


# ---------------------------------------------------------------- begun answers


def cuts(tokenizer: Any, answer: str) -> list[str]:
    """Beginnings of an answer after which its tokens are what they were."""
    whole = tokenizer(answer, add_special_tokens=False)["input_ids"]
    found = []
    for end in range(2, len(whole) - 2):
        begun = tokenizer.decode(whole[:end])
        own = tokenizer(begun, add_special_tokens=False)["input_ids"]
        if answer.startswith(begun) and own == whole[:end] and begun == begun.strip():
            found.append(begun)
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_text_model_goes_on_with_a_beginning(folders: dict[str, str], family: str) -> None:
    adapter: Any = load_tiny(folders, family, generation=replace(GREEDY, max_new_tokens=24))
    assert [isinstance(adapter, kind) for kind in (Completer, HidingCompleter)] == [True, False]
    prompts = [plain("the small red fox"), chat(("user", "is the box red?")), plain("why")]
    whole = adapter.generate(adapter.policy, prompts, [0, 0, 0])
    assert adapter.complete(adapter.policy, prompts, ["", "", ""], [0, 0, 0]) == whole
    begun = [" is happy", "yes the box", " the sky"]
    rest = adapter.complete(adapter.policy, prompts, begun, [0, 0, 0])
    for prompt, first, more in zip(prompts, begun, rest, strict=True):
        if prompt[0].speaker == "text":
            text = prompt[0].parts[0].data + first
        else:
            turns = [{"role": m.speaker, "content": m.parts[0].data} for m in prompt]
            tokenizer = adapter.tokenizer
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) + first
        ids = adapter.tokenizer(text, add_special_tokens=prompt[0].speaker == "text")["input_ids"]
        out = adapter.policy.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=24)[0]
        expected = adapter.tokenizer.decode(out, skip_special_tokens=True)
        assert adapter.tokenizer.decode(ids, skip_special_tokens=True) + more.data == expected
    assert [p.data for p in rest] != [p.data for p in whole]


def test_an_empty_beginning_is_an_answer_from_the_start(adapter: VisionLM) -> None:
    adapter.config = replace(adapter.config, generation=replace(GREEDY, temperature=1.0))
    assert isinstance(adapter, HidingCompleter)
    seeds = list(range(len(PROMPTS)))
    whole = adapter.generate(adapter.policy, PROMPTS, seeds)
    assert adapter.complete(adapter.policy, PROMPTS, [""] * len(PROMPTS), seeds) == whole
    assert adapter.complete(adapter.policy, PROMPTS, ["the box"] * len(PROMPTS), seeds) != whole


def test_a_model_that_looks_goes_on_where_its_answer_was_cut() -> None:
    adapter = build_vlm(BUILT_IN, generation=Sampling(max_new_tokens=40, temperature=0.0))
    prompts = [
        looking(render_sight(sample_sight("training", 1, number)), question="Describe the picture.")
        for number in (1, 2)
    ]
    whole = adapter.generate(adapter.policy, prompts, [0, 0])
    for prompt, part in zip(prompts, whole, strict=True):
        begun = cuts(adapter.tokenizer, part.data)
        assert len(begun) > 3
        rest = adapter.complete(adapter.policy, [prompt] * len(begun), begun, [0] * len(begun))
        assert {first + more.data for first, more in zip(begun, rest, strict=True)} == {part.data}


def test_the_model_reads_what_is_begun_as_an_answer(adapter: VisionLM) -> None:
    """The ids of a begun answer are those that scoring an answer of the same beginning gives it."""
    begun, rest = "a small red", " fox"
    pair = mixed_pairs()[1]
    example = pair.examples["chosen"][0]
    assert example.response[0].data == begun + rest
    scored = adapter.reader.sample(pair, ["chosen"])["chosen", 0]
    seen = adapter.reader.begun(example.prompt, begun, "here")
    assert seen.start == scored.start < len(seen.ids) < len(scored.ids)
    assert seen.ids == scored.ids[: len(seen.ids)]


def test_control_tokens_in_a_beginning_are_refused(adapter: VisionLM, folders: dict[str, str]) -> None:
    marker = adapter.reader.markers["image"]
    with pytest.raises(UserError, match="control token"):
        adapter.complete(adapter.policy, PROMPTS[:1], [f"a {marker}"], [0])
    text = load_tiny(folders, "llama")
    with pytest.raises(UserError, match="prompt 0: .*control token"):
        text.complete(text.policy, [plain("why")], [f"so {text.tokenizer.eos_token}"], [0])


# ---------------------------------------------------------------- hidden places


def test_hiding_nothing_changes_nothing(adapter: VisionLM) -> None:
    adapter.config = replace(adapter.config, generation=replace(GREEDY, temperature=1.0))
    plain_texts = texts(adapter, PROMPTS, None)
    assert texts(adapter, PROMPTS, [None] * len(PROMPTS)) == plain_texts
    assert texts(adapter, PROMPTS, masks(adapter, PROMPTS, 2.0)) == plain_texts


def test_pictures_wholly_hidden_change_no_answer(adapter: VisionLM) -> None:
    adapter.config = replace(adapter.config, generation=replace(GREEDY, temperature=1.0))
    prompts = [looking(picture(number), picture(number + 10)) for number in (1, 2)]
    hidden = masks(adapter, prompts, -1.0)

    def both(visible: list[torch.Tensor] | None) -> list[str]:
        found = [
            adapter.complete(adapter.policy, [p], ["the "], [5], None if visible is None else [visible[i]])
            for i, p in enumerate(prompts)
        ]
        return [part.data for (part,) in found]

    first, second = both(hidden)
    assert first == second
    shown, other = both(None)
    assert shown != other
    assert first not in (shown, other)


def test_hidden_places_do_not_depend_on_the_batch(adapter: VisionLM) -> None:
    adapter.config = replace(adapter.config, generation=replace(GREEDY, temperature=1.0))
    visible = masks(adapter, PROMPTS, 0.5)
    together = texts(adapter, PROMPTS, visible)
    alone = [
        adapter.complete(adapter.policy, [prompt], [""], [i], [visible[i]])[0].data
        for i, prompt in enumerate(PROMPTS)
    ]
    assert together == alone
    assert together[1:] != texts(adapter, PROMPTS, None)[1:]


def test_hidden_places_are_hidden_at_every_step(vlm_folders: dict[str, Path]) -> None:
    """Against whole forwards without a cache, the mask written out."""
    adapter = build_vlm(vlm_folders["llava"], generation=GREEDY)
    prompt = looking(picture(1), picture(2))
    (visible,) = masks(adapter, [prompt], 0.5)
    assert 0 < int(visible.sum()) < len(visible)
    seen = adapter.reader.begun(prompt, "the fox", "here")
    ids = torch.tensor(seen.ids)
    mask = torch.ones(len(ids), dtype=torch.long)
    mask[ids == adapter.reader.ids["image"]] = visible.long()
    pixels = torch.cat([unit.tensors["pixel_values"] for unit in seen.units])
    for _ in range(GREEDY.max_new_tokens):
        places = torch.arange(len(ids))
        with torch.no_grad():
            logits = adapter.policy(
                input_ids=ids[None], attention_mask=mask[None], position_ids=places[None], pixel_values=pixels
            ).logits
        token = logits[0, -1].argmax()
        if int(token) in adapter.end_ids:
            break
        ids, mask = torch.cat([ids, token[None]]), torch.cat([mask, mask.new_ones(1)])
    expected = adapter.tokenizer.decode(ids[len(seen.ids) :], skip_special_tokens=True)
    assert texts(adapter, [prompt], [visible], "the fox") == [expected]
    assert texts(adapter, [prompt], None, "the fox") != [expected]


def test_masks_that_do_not_fit_are_refused(adapter: VisionLM) -> None:
    (count,) = (sum(listed) for listed in adapter.media_tokens(PROMPTS[1:2]))
    for wrong in (torch.ones(count + 1, dtype=torch.bool), torch.ones(count)):
        with pytest.raises(UserError, match=rf"prompt 0: visible: must be bool \[{count}\]"):
            texts(adapter, PROMPTS[1:2], [wrong])


@pytest.mark.parametrize("family", ["gemma3", "qwen3_vl", "internvl", "llava_next"])
def test_other_families(family: str, tmp_path: Path) -> None:
    """Gemma 3 finishes its masks above the language model; the others have layouts of their own."""
    own = build_vlm(save_more(family, tmp_path), generation=GREEDY)
    test_pictures_wholly_hidden_change_no_answer(own)
    test_hidden_places_do_not_depend_on_the_batch(own)
    test_the_model_reads_what_is_begun_as_an_answer(own)


def test_a_finished_mask_is_not_changed(
    vlm_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that is given a mask of pairs of places, or makes positions of its mask, is left alone."""
    layer = torch.nn.Linear(2, 2)
    pairs = {"attention_mask": torch.ones(1, 1, 3, 3), "position_ids": torch.arange(3)}
    for given in (pairs, {"attention_mask": torch.ones(1, 3)}):
        with pytest.raises(FinishedMask), hiding(layer, [[1]], [3]):
            layer(torch.zeros(1, 2), **given)
    adapter = build_vlm(vlm_folders["llava"], generation=GREEDY)

    def refuse(*given: Any, **more: Any) -> None:
        raise FinishedMask

    monkeypatch.setattr(_vision_sampling, "_new_ids", refuse)
    with pytest.raises(UserError, match="finished attention mask, in which no places can be hidden"):
        texts(adapter, PROMPTS[1:2], [torch.zeros(4, dtype=torch.bool)])


# ---------------------------------------------------------------- which places belong to which medium


def test_places_of_every_medium(adapter: VisionLM, family: str) -> None:
    """In the order of the prompt; neighbours that no text parts are told apart by their features."""
    counts = adapter.media_tokens([looking(picture(1), picture(2, (64, 32))), looking()])
    assert len(counts[0]) == 2 and counts[1] == ()
    seen = adapter.reader.prompt(looking(picture(1), picture(2, (64, 32))), "here")
    places = sum(i == adapter.reader.ids["image"] for i in seen.ids)
    assert sum(counts[0]) == places
    if family == "qwen2_5_vl":  # pixels at a multiple of 8, in merged patches of 8 x 8
        turned = adapter.media_tokens([looking(picture(2, (64, 32)), picture(1))])[0]
        assert turned == counts[0][::-1] and turned[0] != turned[1]
    alone = [adapter.media_tokens([looking(p)])[0][0] for p in (picture(1), picture(2, (64, 32)))]
    if family != "llava_onevision":  # tiles only pictures that stand alone
        assert list(counts[0]) == alone


def test_places_of_clips_among_pictures(vlm_folders: dict[str, Path]) -> None:
    adapter = build_vlm(vlm_folders["qwen2_5_vl"], video=True)
    one, moving = picture(1, (24, 16)), clip(2, frames=4)
    (whole,) = adapter.media_tokens([looking(moving, one)])
    (turned,) = adapter.media_tokens([looking(one, moving)])
    assert whole == turned[::-1] and whole[0] > whole[1] > 0
    inputs = prompt_inputs([adapter.reader.prompt(looking(moving, one), "here")], 0, torch.device("cpu"))
    ids = inputs["input_ids"]
    assert [
        int((ids == adapter.reader.ids["video"]).sum()),
        int((ids == adapter.reader.ids["image"]).sum()),
    ] == [*whole]
