"""Vision-language models: the contract for every family, the tower's runs, what fails silently upstream."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import (
    Case,
    by_row,
    check_batching_does_not_matter,
    check_gradients_reach_the_policy_only,
    check_reload,
    check_same_draw_same_scores,
    check_shapes,
    gap,
)
from tiny_vlm import build_vlm, looking, mixed_pairs, picture, public, vlm_pair
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmalign.adapters._text_sampling import Sampling
from mmalign.adapters._vision_lm import VisionLM
from mmalign.config import Lora
from mmalign.training import lora
from mmalign.types import PreferenceSample, UserError

# ---------------------------------------------------------------- the contract


def test_the_contract(case: Case) -> None:
    check_shapes(case)
    check_same_draw_same_scores(case)
    check_batching_does_not_matter(case)
    check_gradients_reach_the_policy_only(case)


def test_a_pair_in_one_forward_equals_two_forwards(case: Case) -> None:
    with torch.no_grad():
        together = by_row(*case.score())
        apart = {}
        for role in case.roles:
            apart |= by_row(*replace(case, roles=(role,)).score())
    assert gap(together, apart) <= 1e-6


def upstream(folder: Path, sample: PreferenceSample, role: str) -> torch.Tensor:
    """Log-probs of all ids of one response by the public classes alone: template, processor, model."""
    model, processor = public(folder)
    example = sample.examples[role][0]
    contents = [
        {"type": "text", "text": p.data} if p.kind == "text" else {"type": p.kind}
        for p in example.prompt[0].parts
    ]
    turns = [
        {"role": "user", "content": contents},
        {"role": "assistant", "content": [{"type": "text", "text": example.response[0].data}]},
    ]
    text = processor.apply_chat_template(turns, tokenize=False).rstrip()
    images = [p.data for p in example.prompt[0].parts if p.kind == "image"]
    inputs = processor(text=[text], **({"images": [images]} if images else {}), return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, :-1].float()
    return torch.log_softmax(logits, -1).gather(-1, inputs["input_ids"][0, 1:, None]).squeeze(-1)


def test_scores_are_those_of_the_public_classes(
    vlm_folders: dict[str, Path], family: str, case: Case
) -> None:
    with torch.no_grad():
        ours = by_row(*case.score())
    for sample in case.samples:
        for role in case.roles:
            mine = ours[sample.id, role, 0]
            theirs = upstream(vlm_folders[family], sample, role)[-len(mine) :]
            assert float((mine - theirs).abs().max()) <= 1e-5, (sample.id, role)


def test_the_check_before_the_first_step_sees_the_pixels(case: Case) -> None:
    batch = case.batch()
    assert case.adapter.self_check(case.adapter.policy, batch, {}) <= 1e-6
    before, after = case.adapter._probe
    name = next(n for n in after.data if n.endswith(".features"))
    wrong = replace(after, data={**after.data, name: after.data[name] + 0.1})
    case.adapter._probe = (before, wrong)
    assert case.adapter.self_check(case.adapter.policy, batch, {}) > 1e-3
    case.adapter._probe = (before, after)


def test_another_picture_changes_the_likelihood(adapter: VisionLM) -> None:
    with torch.no_grad():
        one, other = (by_row(*Case(adapter, (vlm_pair("a", (picture(n),)),)).score()) for n in (1, 2))
    assert gap(one, other) > 1e-2


def test_a_picture_in_another_place_changes_the_likelihood(adapter: VisionLM) -> None:
    first, second = picture(1), picture(2)
    orders = ((first, second), (second, first))
    with torch.no_grad():
        one, other = (by_row(*Case(adapter, (vlm_pair("a", order),)).score()) for order in orders)
    assert gap(one, other) > 1e-3


# ---------------------------------------------------------------- files


def test_reload_of_the_whole_model(case: Case, tmp_path: Path) -> None:
    check_reload(case, tmp_path, None, lambda f: AutoModelForImageTextToText.from_pretrained(f).eval())


def test_reload_of_the_adapter(vlm_folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    from peft import PeftModel

    own = build_vlm(vlm_folders[family])
    lora.inject(own.policy, Lora(rank=4, init="gaussian"), own.lora_targets, 0)
    with torch.no_grad():
        for name, parameter in own.policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)

    def load(folder: Path) -> Any:
        base = AutoModelForImageTextToText.from_pretrained(vlm_folders[family])
        return PeftModel.from_pretrained(base, folder).merge_and_unload().eval()

    check_reload(Case(own, mixed_pairs()), tmp_path, lora.NAME, load, tolerance=1e-5)


def test_lora_switched_off_is_the_base(vlm_folders: dict[str, Path], family: str) -> None:
    base, own = build_vlm(vlm_folders[family]), build_vlm(vlm_folders[family])
    lora.inject(own.policy, Lora(rank=4), own.lora_targets, 0)
    with torch.no_grad():
        fresh = by_row(*Case(own, mixed_pairs()).score())
        for name, parameter in own.policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
        moved = by_row(*Case(own, mixed_pairs()).score())
        with lora.switched_off(own.policy):
            off = by_row(*Case(own, mixed_pairs()).score())
    reference = by_row(*Case(base, mixed_pairs()).score())
    assert gap(off, reference) == 0.0
    assert gap(fresh, reference) == 0.0
    assert gap(moved, reference) > 1e-3


# ---------------------------------------------------------------- answers


def test_answers_do_not_depend_on_the_batch(adapter: VisionLM) -> None:
    prompts = [s.examples["chosen"][0].prompt for s in mixed_pairs()]
    seeds = list(range(len(prompts)))
    settings = Sampling(max_new_tokens=12)
    adapter.config = replace(adapter.config, generation=settings)
    together = adapter.generate(adapter.policy, prompts, seeds)
    alone = [adapter.generate(adapter.policy, [p], [s])[0] for p, s in zip(prompts, seeds, strict=True)]
    assert [p.data for p in together] == [p.data for p in alone]
    other = adapter.generate(adapter.policy, prompts, [s + 100 for s in seeds])
    assert [p.data for p in other] != [p.data for p in together]


def test_greedy_answers_are_upstreams(adapter: VisionLM, vlm_folders: dict[str, Path], family: str) -> None:
    adapter.config = replace(adapter.config, generation=Sampling(max_new_tokens=10, temperature=0.0))
    prompt = looking(picture(1), picture(2, (64, 32)))
    (ours,) = adapter.generate(adapter.policy, [prompt], [0])
    model = AutoModelForImageTextToText.from_pretrained(vlm_folders[family]).eval()
    processor = AutoProcessor.from_pretrained(vlm_folders[family])
    contents = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "what is it?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": contents}], tokenize=False, add_generation_prompt=True
    )
    images = [part.data for part in prompt[0].parts if part.kind == "image"]
    inputs = processor(text=[text], images=[images], return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=10, do_sample=False)
    theirs = processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert ours.data == theirs


# ---------------------------------------------------------------- more of what upstream says nothing about


def test_a_template_with_a_place_too_many_is_refused(vlm_folders: dict[str, Path], family: str) -> None:
    own = build_vlm(vlm_folders[family])
    marker = own.reader.markers["image"]
    own.processor.chat_template = own.processor.chat_template.replace(marker, marker * 2)
    with pytest.raises(UserError, match=r"has 1 images, but the chat template wrote 2 placeholders"):
        own.check(vlm_pair("a", (picture(1),)), ("chosen",))


def test_scores_do_not_remember_an_answer_given_before(adapter: VisionLM) -> None:
    """Qwen2.5-VL keeps position offsets of its last call on the module."""
    case = Case(adapter, mixed_pairs())
    adapter.config = replace(adapter.config, generation=Sampling(max_new_tokens=4))
    with torch.no_grad():
        before = by_row(*case.score())
        adapter.generate(adapter.policy, [looking(picture(3), picture(4), picture(5))], [0])
        after = by_row(*case.score())
    assert gap(before, after) == 0.0


def test_bfloat16_stays_close(vlm_folders: dict[str, Path], family: str, adapter: VisionLM) -> None:
    half = build_vlm(vlm_folders[family], dtype="bfloat16")
    assert half.policy.get_output_embeddings().weight.dtype == torch.bfloat16  # type: ignore[operator]
    with torch.no_grad():
        ours, theirs = (
            by_row(*Case(half, mixed_pairs()).score()),
            by_row(*Case(adapter, mixed_pairs()).score()),
        )
    assert all(value.dtype == torch.float32 for value in ours.values())
    means = torch.stack([(ours[key] - theirs[key]).abs().mean() for key in ours])
    assert float(means.max()) < 0.25


@pytest.mark.parametrize("trains", [("language",), ("language", "projector", "vision")])
def test_recomputed_activations_give_the_same_gradients(
    vlm_folders: dict[str, Path], family: str, trains: tuple[Any, ...]
) -> None:
    found = []
    for checkpointing in (False, True):
        own = build_vlm(vlm_folders[family], trains=trains)
        if checkpointing:
            own.enable_checkpointing()
        own.policy.train()
        batch = Case(own, mixed_pairs()).batch()
        own.logprobs(own.policy, batch, {}, frozenset()).total().sum().backward()
        found.append({n: p.grad for n, p in own.policy.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, plain in found[0].items():
        assert torch.allclose(plain, found[1][name], atol=1e-6, rtol=1e-5), name
