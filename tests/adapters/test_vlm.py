"""Vision-language models: the contract for every family, the tower's runs, what fails silently upstream."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_vlm
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
from tiny_vlm import clip, looking, mixed_pairs, picture, save_vlm, vlm_pair
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmalign.adapters._text_sampling import Sampling
from mmalign.adapters._vision_lm import VisionLM
from mmalign.adapters._vision_media import tower_layers
from mmalign.adapters._vision_parts import core_of
from mmalign.adapters.video_lm import VideoLm
from mmalign.adapters.vlm import Vlm
from mmalign.config import Lora
from mmalign.training import lora
from mmalign.types import Example, Message, Part, PreferenceSample, UserError

CPU = torch.device("cpu")
FAMILIES = tuple(tiny_vlm.FAMILIES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_vlm(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def adapter(family: str, folders: dict[str, Path]) -> VisionLM:
    return build(folders[family])


@pytest.fixture
def case(adapter: VisionLM) -> Iterator[Case]:
    yield Case(adapter, mixed_pairs())


def build(folder: Path, video: bool = False, **settings: Any) -> VisionLM:
    options = (VideoLm if video else Vlm)(str(folder), **settings)
    return options.build(CPU, torch.float32)


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
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
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


def test_scores_are_those_of_the_public_classes(folders: dict[str, Path], family: str, case: Case) -> None:
    with torch.no_grad():
        ours = by_row(*case.score())
    for sample in case.samples:
        for role in case.roles:
            mine = ours[sample.id, role, 0]
            theirs = upstream(folders[family], sample, role)[-len(mine) :]
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


def test_reload_of_the_adapter(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    from peft import PeftModel

    own = build(folders[family])
    lora.inject(own.policy, Lora(rank=4, init="gaussian"), own.lora_targets, 0)
    with torch.no_grad():
        for name, parameter in own.policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)

    def load(folder: Path) -> Any:
        base = AutoModelForImageTextToText.from_pretrained(folders[family])
        return PeftModel.from_pretrained(base, folder).merge_and_unload().eval()

    check_reload(Case(own, mixed_pairs()), tmp_path, lora.NAME, load, tolerance=1e-5)


def test_lora_switched_off_is_the_base(folders: dict[str, Path], family: str) -> None:
    base, own = build(folders[family]), build(folders[family])
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


# ---------------------------------------------------------------- the tower


class Count:
    """How often the tower's first layer really works, and whether it keeps a graph."""

    def __init__(self, adapter: VisionLM) -> None:
        self.calls = 0
        self.grad: list[bool] = []
        layer = tower_layers(core_of(adapter.policy))[0]
        within = next(m for m in layer.modules() if isinstance(m, torch.nn.Linear))
        within.register_forward_hook(self._count)

    def _count(self, module: Any, given: Any, out: Any) -> None:
        self.calls += 1
        self.grad.append(bool((out[0] if isinstance(out, tuple) else out).requires_grad))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_frozen_tower_runs_once_per_distinct_picture(
    folders: dict[str, Path], family: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all roles and sources of a step, without a graph; pictures go one by one here, to be counted."""
    own = build(folders[family])
    lora.inject(own.policy, Lora(rank=4), own.lora_targets, 0)
    if checkpointing:
        own.enable_checkpointing()
        own.policy.train()
    count = Count(own)
    a, b = picture(1), picture(2, (64, 32))
    samples = (vlm_pair("one", (a,)), vlm_pair("again", (a,), chosen="yes"), vlm_pair("other", (b,)))
    batch = Case(own, samples).batch()
    for _ in range(2):
        own.logprobs(own.policy, batch, {}, frozenset()).total().sum().backward()
        with lora.switched_off(own.policy), torch.no_grad():
            own.logprobs(own.policy, batch, {}, frozenset())
    assert count.calls == 2
    assert count.grad == [False, False]


def test_a_frozen_tower_below_a_training_projector_runs_once(
    folders: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = build(folders[family], trains=("language", "projector"))
    whole = build(folders[family], trains=("language", "projector", "vision"))
    samples = mixed_pairs()
    count = Count(own)
    batch = Case(own, samples).batch()
    runs = count.calls
    assert runs == len({u.digest for d in (batch.inputs["image.distinct"],) for u in d})
    scores = own.logprobs(own.policy, batch, {}, frozenset())
    with torch.no_grad():
        own.logprobs(own.policy, batch, {}, frozenset())
    plain = whole.logprobs(whole.policy, Case(whole, samples).batch(), {}, frozenset())
    assert float((scores.values - plain.values).detach().abs().max()) <= 1e-5
    scores.total().sum().backward()
    plain.total().sum().backward()
    theirs = dict(whole.policy.named_parameters())
    for name, parameter in own.policy.named_parameters():
        if name in own.parts["vision"]:
            assert parameter.grad is None, name
        elif theirs[name].grad is not None:
            assert torch.allclose(parameter.grad, theirs[name].grad, atol=1e-4, rtol=1e-4), name
    replay = count.calls - runs
    assert replay == 0, "the tower's layers ran again"


def test_a_tower_that_trains_runs_once_per_picture_and_source(folders: dict[str, Path]) -> None:
    own = build(folders["llava"], trains=("vision",))
    count = Count(own)
    batch = Case(own, (vlm_pair("one", (picture(1),)), vlm_pair("two", (picture(1),)))).batch()
    assert count.calls == 0
    own.logprobs(own.policy, batch, {}, frozenset()).total().sum().backward()
    assert count.calls == 1
    assert count.grad == [True]


@pytest.mark.parametrize("trains", [("language",), ("projector",), ("vision",), ("language", "vision")])
def test_what_is_named_trains_and_nothing_else(
    folders: dict[str, Path], family: str, trains: tuple[Any, ...]
) -> None:
    own = build(folders[family], trains=trains)
    a = picture(1, (60, 60))
    own.logprobs(
        own.policy, Case(own, (vlm_pair("x", (a,)),)).batch(), {}, frozenset()
    ).total().sum().backward()
    named = {name for part in trains for name in own.parts[part]}
    for name, parameter in own.policy.named_parameters():
        assert parameter.requires_grad <= (name in named), name
        if parameter.requires_grad and "newline" not in name:
            assert parameter.grad is not None, f"{name} trains but takes no gradient"


def test_a_batch_without_pictures_still_gives_every_weight_a_gradient(folders: dict[str, Path]) -> None:
    own = build(folders["llava"], trains=("projector", "vision"))
    own.logprobs(own.policy, Case(own, (vlm_pair("x"),)).batch(), {}, frozenset()).total().sum().backward()
    for name, parameter in own.policy.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().sum()) == 0.0


def test_lora_goes_where_the_scope_says(folders: dict[str, Path], family: str) -> None:
    for trains in (("language",), ("projector",), ("vision",)):
        own = build(folders[family], trains=trains)
        lora.inject(own.policy, Lora(rank=2), own.lora_targets, 0)
        sites = {
            n.partition(".lora_")[0] + ".weight" for n, p in own.policy.named_parameters() if "lora_" in n
        }
        assert sites
        assert sites <= set(own.parts[trains[0]])
        assert "lm_head.weight" not in sites


# ---------------------------------------------------------------- nothing is dropped


def test_every_output_of_the_processor_reaches_the_model(
    folders: dict[str, Path], family: str, adapter: VisionLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = AutoProcessor.from_pretrained(folders[family])
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


def test_positions_in_three_dimensions_need_the_types_of_tokens(folders: dict[str, Path]) -> None:
    """Without mm_token_type_ids Qwen2.5-VL places a picture as if it were text, and says nothing."""
    own = build(folders["qwen2_5_vl"])
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


def test_long_rows_are_refused_or_lose_the_end_of_the_response(folders: dict[str, Path], family: str) -> None:
    sample = vlm_pair("a", (picture(1),), chosen="yes " * 30)
    free = build(folders[family])
    row = free.prepare(sample, ("chosen",)).rows[0]
    start, length = int(row.data["start"]), len(row.data["ids"])
    with pytest.raises(UserError, match=rf"a: chosen: prompt and response have {length} tokens, more than"):
        build(folders[family], max_length=start + 5).check(sample, ("chosen",))
    cutting = build(folders[family], max_length=start + 5, over_long="cut_response")
    assert cutting.check(sample, ("chosen", "rejected")) == ("responses cut to fit",) * (
        1 + (len(free.prepare(sample, ("rejected",)).rows[0].data["ids"]) > start + 5)
    )
    short = cutting.prepare(sample, ("chosen",)).rows[0].data["ids"]
    assert torch.equal(short, row.data["ids"][: start + 5])
    with pytest.raises(UserError, match="none of the .* allowed is left for the response"):
        build(folders[family], max_length=start, over_long="cut_response").check(sample, ("chosen",))


def test_typed_placeholders_are_refused(adapter: VisionLM) -> None:
    marker = adapter.reader.markers["image"]
    with pytest.raises(UserError, match="the text contains .* control token"):
        adapter.check(vlm_pair("a", (picture(1),), chosen=f"look {marker}"), ("chosen",))
    example = Example(looking(question=f"{marker} what?"), (Part("text", "yes"),))
    with pytest.raises(UserError, match="test row b: chosen: prompt: the text contains"):
        adapter.check(PreferenceSample("b", {"chosen": (example,)}, origin="test row b"), ("chosen",))


def test_a_template_that_loses_a_picture_is_refused(folders: dict[str, Path], family: str) -> None:
    own = build(folders[family])
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


def test_a_plain_prompt_becomes_a_user_turn(adapter: VisionLM, folders: dict[str, Path], family: str) -> None:
    parts = (Part("image", picture(1)), Part("text", "what is it?"))
    answer = (Part("text", "a fox"),)
    plain = PreferenceSample("a", {"chosen": (Example((Message("text", parts),), answer),)})
    chat = PreferenceSample("a", {"chosen": (Example((Message("user", parts),), answer),)})
    one, other = (adapter.prepare(s, ("chosen",)).rows[0].data["ids"] for s in (plain, chat))
    assert torch.equal(one, other)
    raw = build(folders[family], plain_prompts="raw").prepare(plain, ("chosen",)).rows[0].data["ids"]
    assert len(raw) < len(one)


def test_a_text_model_is_refused(tmp_path: Path) -> None:
    from tiny_lm import save_tiny

    with pytest.raises(UserError, match="reads text only; use model.adapter: text"):
        build(Path(save_tiny(tmp_path / "lm")))


def test_pixel_bounds(folders: dict[str, Path]) -> None:
    wide = build(folders["qwen2_5_vl"]).prepare(vlm_pair("a", (picture(1),)), ("chosen",)).rows[0]
    tight = build(folders["qwen2_5_vl"], min_pixels=64, max_pixels=128)
    small = tight.prepare(vlm_pair("a", (picture(1),)), ("chosen",)).rows[0]
    assert len(small.data["ids"]) < len(wide.data["ids"])
    assert tight.fingerprint() != build(folders["qwen2_5_vl"]).fingerprint()
    with pytest.raises(UserError, match="resizes to a fixed size"):
        build(folders["llava"], max_pixels=100)


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


def test_greedy_answers_are_upstreams(adapter: VisionLM, folders: dict[str, Path], family: str) -> None:
    adapter.config = replace(adapter.config, generation=Sampling(max_new_tokens=10, temperature=0.0))
    prompt = looking(picture(1), picture(2, (64, 32)))
    (ours,) = adapter.generate(adapter.policy, [prompt], [0])
    model = AutoModelForImageTextToText.from_pretrained(folders[family]).eval()
    processor = AutoProcessor.from_pretrained(folders[family])
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


def test_a_template_with_a_place_too_many_is_refused(folders: dict[str, Path], family: str) -> None:
    own = build(folders[family])
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


def test_bfloat16_stays_close(folders: dict[str, Path], family: str, adapter: VisionLM) -> None:
    half = build(folders[family], dtype="bfloat16")
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
    folders: dict[str, Path], family: str, trains: tuple[Any, ...]
) -> None:
    found = []
    for checkpointing in (False, True):
        own = build(folders[family], trains=trains)
        if checkpointing:
            own.enable_checkpointing()
        own.policy.train()
        batch = Case(own, mixed_pairs()).batch()
        own.logprobs(own.policy, batch, {}, frozenset()).total().sum().backward()
        found.append({n: p.grad for n, p in own.policy.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, plain in found[0].items():
        assert torch.allclose(plain, found[1][name], atol=1e-6, rtol=1e-5), name
