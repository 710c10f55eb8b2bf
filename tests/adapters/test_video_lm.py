"""Video-language models: clips through the same code as pictures, and what upstream forgets silently."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import Case, by_row, check_batching_does_not_matter, check_shapes, gap
from tiny_vlm import VIDEO, build_vlm, clip, looking, picture, public, save_vlm, vlm_pair
from transformers.video_utils import VideoMetadata

from mmalign.adapters._text_sampling import Sampling
from mmalign.adapters._vision_lm import VisionLM
from mmalign.types import Clip, Frames, PreferenceSample, UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_vlm(family, tmp_path_factory.mktemp(family)) for family in VIDEO}


@pytest.fixture(scope="module", params=VIDEO)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def adapter(family: str, folders: dict[str, Path]) -> VisionLM:
    return build_vlm(folders[family], video=True)


def mixed() -> tuple[PreferenceSample, ...]:
    """Clips of different lengths and sizes, a clip beside a picture, two clips, none, unequal sides."""
    a, b, c = clip(1), clip(2, frames=6, size=(64, 32)), clip(3, frames=3)
    return (
        vlm_pair("none"),
        vlm_pair("one", (a,)),
        vlm_pair("long", (b,), chosen="yes"),
        vlm_pair("odd", (c,)),
        vlm_pair("both", (picture(1), a), rejected="no no no"),
        vlm_pair("picture", (picture(2),)),
        vlm_pair("two", (a, clip(4))),
        vlm_pair("sides", (a,), rejected_media=(clip(5),)),
    )


def test_the_contract(adapter: VisionLM) -> None:
    """Clips of different lengths share a batch, also where upstream cannot stack them."""
    case = Case(adapter, mixed())
    check_shapes(case)
    check_batching_does_not_matter(case)
    with torch.no_grad():
        together, apart = by_row(*case.score()), {}
        for role in case.roles:
            apart |= by_row(*replace(case, roles=(role,)).score())
    assert gap(together, apart) <= 1e-6


def upstream(folder: Path, sample: PreferenceSample, role: str) -> torch.Tensor:
    """Log-probs of all ids of one response by the public classes alone."""
    model, processor = public(folder)
    example = sample.examples[role][0]
    contents: list[dict[str, Any]] = [
        {"type": "text", "text": p.data} if p.kind == "text" else {"type": p.kind}
        for p in example.prompt[0].parts
    ]
    turns = [
        {"role": "user", "content": contents},
        {"role": "assistant", "content": [{"type": "text", "text": example.response[0].data}]},
    ]
    given: dict[str, Any] = {"text": [processor.apply_chat_template(turns, tokenize=False).rstrip()]}
    images = [p.data for p in example.prompt[0].parts if p.kind == "image"]
    clips: list[Clip] = [p.data for p in example.prompt[0].parts if p.kind == "video"]
    if images:
        given["images"] = [images]
    if clips:
        given["videos"] = [[one.frames for one in clips]]
        given["do_sample_frames"] = False
        given["video_metadata"] = [
            [
                VideoMetadata(
                    total_num_frames=c.total,
                    fps=c.rate,
                    frames_indices=list(c.indices),
                    duration=c.total / c.rate,
                )
                for c in clips
            ]
        ]
    inputs = processor(**given, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, :-1].float()
    return torch.log_softmax(logits, -1).gather(-1, inputs["input_ids"][0, 1:, None]).squeeze(-1)


def test_scores_are_those_of_the_public_classes(folders: dict[str, Path], family: str) -> None:
    own = build_vlm(folders[family], video=True)
    case = Case(own, mixed())
    with torch.no_grad():
        ours = by_row(*case.score())
    for sample in case.samples:
        for role in case.roles:
            mine = ours[sample.id, role, 0]
            theirs = upstream(folders[family], sample, role)[-len(mine) :]
            assert float((mine - theirs).abs().max()) <= 1e-5, (sample.id, role)
    assert own.self_check(own.policy, case.batch(), {}) <= 1e-6


def test_frames_count_and_their_order_counts(adapter: VisionLM) -> None:
    a = clip(1)
    backwards = replace(a, frames=a.frames.flip(0))
    black = replace(a, frames=torch.zeros_like(a.frames))
    with torch.no_grad():
        scores = [by_row(*Case(adapter, (vlm_pair("x", (c,)),)).score()) for c in (a, backwards, black)]
    assert gap(scores[0], scores[1]) > 1e-3
    assert gap(scores[0], scores[2]) > 1e-2


def test_the_rate_of_a_clip_reaches_the_positions(folders: dict[str, Path]) -> None:
    """Without second_per_grid_ts or mm_token_type_ids Qwen2.5-VL places frames wrongly, and says nothing."""
    own = build_vlm(folders["qwen2_5_vl"], video=True)
    slow, fast = clip(1, rate=1.0), clip(1, rate=4.0)
    with torch.no_grad():
        one, other = (by_row(*Case(own, (vlm_pair("x", (c,)),)).score()) for c in (slow, fast))
    assert gap(one, other) > 1e-5
    batch = Case(own, (vlm_pair("x", (slow,)),)).batch()
    assert batch.inputs["forward"]["second_per_grid_ts"].tolist() == [2.0, 2.0]
    for name in ("second_per_grid_ts", "mm_token_type_ids"):
        lacking = Case(own, (vlm_pair("x", (slow,)),)).batch()
        del lacking.inputs["forward"][name]
        with torch.no_grad():
            right = own.logprobs(own.policy, batch, {}, frozenset()).values
            wrong = own.logprobs(own.policy, lacking, {}, frozenset()).values
        assert float((right - wrong).abs().max()) > 1e-5, name


def test_the_reader_and_its_rule_are_in_the_fingerprint(folders: dict[str, Path]) -> None:
    rules = [Frames(), Frames(count=4), Frames(sampling="segment")]
    if find_spec("decord"):
        rules.append(Frames(reader="decord"))
    prints = {build_vlm(folders["qwen2_5_vl"], video=True, frames=rule).fingerprint() for rule in rules}
    assert len(prints) == len(rules)


def test_a_frozen_tower_runs_once_per_distinct_clip(
    folders: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_vlm_tower import Count

    own = build_vlm(folders[family], video=True)
    count = Count(own)
    batch = Case(
        own, (vlm_pair("a", (clip(1),)), vlm_pair("b", (clip(1),)), vlm_pair("c", (clip(2),)))
    ).batch()
    with torch.no_grad():
        own.logprobs(own.policy, batch, {}, frozenset())
    assert count.calls == 2


def test_answers_do_not_depend_on_the_batch(adapter: VisionLM) -> None:
    prompts = [s.examples["chosen"][0].prompt for s in mixed()]
    adapter.config = replace(adapter.config, generation=Sampling(max_new_tokens=10))
    together = adapter.generate(adapter.policy, prompts, range(len(prompts)))
    alone = [adapter.generate(adapter.policy, [p], [s])[0] for s, p in enumerate(prompts)]
    assert [p.data for p in together] == [p.data for p in alone]


def test_a_model_without_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its processor reads no videos"):
        build_vlm(save_vlm("llava", tmp_path / "llava"), video=True)


def test_unequal_sides_keep_their_own_clips(adapter: VisionLM) -> None:
    sample = vlm_pair("a", (clip(1),), chosen="yes", rejected="yes", rejected_media=(clip(2),))
    with torch.no_grad():
        scores = by_row(*Case(adapter, (sample,)).score())
    assert float((scores["a", "chosen", 0] - scores["a", "rejected", 0]).abs().max()) > 1e-2
    assert looking(clip(1))[0].parts[0].kind == "video"
