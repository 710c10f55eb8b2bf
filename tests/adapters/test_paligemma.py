"""PaliGemma: a prompt that is read both ways, an answer that must not be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_vlm import save_clip_vlm
from contract import Case, by_row, check_batching_does_not_matter, check_reload, check_shapes, gap
from tiny_vlm import build_vlm, picture, public
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmalign.adapters._text_sampling import Sampling
from mmalign.adapters._vision_lm import VisionLM
from mmalign.config import Lora
from mmalign.training import lora
from mmalign.types import Example, Message, Part, PreferenceSample, UserError


@pytest.fixture(scope="module", params=["paligemma", "paligemma2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip_vlm(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def own(folder: Path) -> VisionLM:
    return build(folder)


def build(folder: Path, **settings: Any) -> VisionLM:
    return build_vlm(folder, plain_prompts="raw", **settings)


def pair(name: str, *pictures: Any, chosen: str = "a fox", rejected: str = "a blue box") -> PreferenceSample:
    """Answers to a plain question behind pictures."""
    parts = (*(Part("image", one) for one in pictures), Part("text", "what is it?"))
    prompt = (Message("user", parts),)
    return PreferenceSample(
        name,
        {
            "chosen": (Example(prompt, (Part("text", chosen),)),),
            "rejected": (Example(prompt, (Part("text", rejected),)),),
        },
    )


def pairs() -> tuple[PreferenceSample, ...]:
    return (
        pair("one", picture(1)),
        pair("two", picture(1), picture(2, (64, 32)), chosen="yes, it is one of them"),
        pair("other", picture(3), rejected="no"),
    )


def upstream(folder: Path, sample: PreferenceSample, role: str) -> tuple[torch.Tensor, float]:
    """Log-probs of the suffix by the public classes alone, and their own loss of it."""
    model, processor = public(folder)
    example = sample.examples[role][0]
    images = [p.data for p in example.prompt[0].parts if p.kind == "image"]
    inputs = processor(
        text=["<image>" * len(images) + "what is it?"],
        images=[images],
        suffix=[example.response[0].data],
        return_tensors="pt",
    )
    with torch.no_grad():
        out = model(**inputs)
    scores = torch.log_softmax(out.logits[0, :-1].float(), -1)
    values = scores.gather(-1, inputs["input_ids"][0, 1:, None]).squeeze(-1)
    return values[inputs["labels"][0, 1:] != -100], float(out.loss)


def test_the_contract(own: VisionLM) -> None:
    case = Case(own, pairs())
    check_shapes(case)
    check_batching_does_not_matter(case, 2e-6)


def test_scores_are_those_of_the_public_classes(folder: Path, own: VisionLM) -> None:
    case = Case(own, pairs())
    with torch.no_grad():
        ours = by_row(*case.score())
    for sample in case.samples:
        for role in case.roles:
            mine = ours[sample.id, role, 0]
            theirs, loss = upstream(folder, sample, role)
            assert mine.shape == theirs.shape  # all of the answer, its end, and nothing of the prompt
            assert float((mine - theirs).abs().max()) <= 1e-6
            assert float(-mine.mean()) == pytest.approx(loss, abs=1e-6)
    assert own.self_check(own.policy, case.batch(), {}) <= 1e-6


def test_an_answer_does_not_see_what_follows(own: VisionLM) -> None:
    """Answers that differ in their last tokens alone agree before them; read as a prompt they would not."""
    first, second = "the small red fox", "the small red box"
    case = Case(own, (pair("x", picture(1), chosen=first, rejected=second),))
    batch = case.batch()
    with torch.no_grad():
        scores = by_row(batch, own.logprobs(own.policy, batch, {}, frozenset()))
        one, other = scores["x", "chosen", 0], scores["x", "rejected", 0]
        assert float((one[:3] - other[:3]).abs().max()) <= 1e-6
        batch.inputs["forward"]["token_type_ids"].zero_()
        scores = by_row(batch, own.logprobs(own.policy, batch, {}, frozenset()))
    leaking = scores["x", "chosen", 0][:3] - scores["x", "rejected", 0][:3]
    assert float(leaking.abs().max()) > 1e-4


def test_the_first_check_notices_types_that_are_missing(own: VisionLM) -> None:
    batch = Case(own, (pair("x", picture(1)),)).batch()
    assert own._probe is not None
    name = "token.token_type_ids"
    before, after = own._probe
    without = {n: v for n, v in after.data.items() if n != name}
    own._probe = before, replace(after, data=without)
    assert own.self_check(own.policy, batch, {}) > 1e-4


def test_another_picture_changes_the_scores(own: VisionLM) -> None:
    with torch.no_grad():
        one, other = (by_row(*Case(own, (pair("x", picture(i)),)).score()) for i in (1, 2))
    assert gap(one, other) > 1e-2


def test_an_answer_without_an_end(folder: Path, own: VisionLM) -> None:
    open_ended = build(folder, append_eos=False)
    with torch.no_grad():
        ended, without = (by_row(*Case(a, pairs()).score()) for a in (own, open_ended))
    for key, values in ended.items():
        assert float((values[:-1] - without[key]).abs().max()) <= 1e-6


def test_greedy_answers_are_upstreams_alone_and_together(folder: Path) -> None:
    own = build(folder, generation=Sampling(max_new_tokens=8, temperature=0.0))
    prompts = [sample.examples["chosen"][0].prompt for sample in pairs()]
    ours = [part.data for part in own.generate(own.policy, prompts, range(3))]
    alone = [own.generate(own.policy, [prompt], [0])[0].data for prompt in prompts]
    assert ours == alone
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(text=["<image>what is it?"], images=[[picture(1)]], return_tensors="pt")
    inputs.pop("labels", None)
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :]
    assert ours[0] == processor.tokenizer.decode(new, skip_special_tokens=True)


def test_an_answer_that_is_begun_goes_on_as_it_would_have(folder: Path) -> None:
    own = build(folder, generation=Sampling(max_new_tokens=6, temperature=0.0))
    prompt = pairs()[0].examples["chosen"][0].prompt
    seen = own.reader.begun(prompt, "a fox", "row")
    assert own.tokenizer.decode(seen.ids[seen.start :]) == "a fox"
    assert seen.per_token["token_type_ids"].tolist() == [int(i >= seen.start) for i in range(len(seen.ids))]


def test_lora_off_is_the_base_and_what_is_saved_loads(folder: Path, tmp_path: Path) -> None:
    own = build(folder)
    case = Case(own, pairs())
    with torch.no_grad():
        base = by_row(*case.score())
    lora.inject(own.policy, Lora(rank=2), own.lora_targets, 0)
    for name, parameter in own.policy.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        assert gap(base, by_row(*case.score())) > 1e-3
        with lora.switched_off(own.policy):
            assert gap(base, by_row(*case.score())) == 0.0
    plain = Case(build(folder), pairs())
    check_reload(plain, tmp_path, None, AutoModelForImageTextToText.from_pretrained)


def test_what_it_cannot_do_is_refused(folder: Path, own: VisionLM) -> None:
    with pytest.raises(UserError, match="plain_prompts: raw"):
        build_vlm(folder)
    with pytest.raises(UserError, match="refuses its media"):
        own.prepare(pair("text"), ("chosen",))


def test_soft_caps_are_kept_whatever_computes_attention(tmp_path: Path) -> None:
    """Gemma 2 caps its attention, which only some ways of computing it do."""
    folder = save_clip_vlm("paligemma2", tmp_path / "model")
    with torch.no_grad():
        left, exact = (by_row(*Case(build(folder, attention=a), pairs()).score()) for a in ("auto", "eager"))
    assert gap(left, exact) <= 1e-5
