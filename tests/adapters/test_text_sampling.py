"""Generated responses against transformers' own, and their independence of the batch."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_lm import POSITIONS, chat, load_tiny, plain

from mmalign.adapters._text_sampling import Sampling, answer, choose, sample_ids
from mmalign.types import Part, UserError

CPU = torch.device("cpu")
GREEDY = Sampling(max_new_tokens=24, temperature=0)

PROMPTS = (
    plain("the small red fox"),
    chat(("user", "is the box red?")),
    plain("why"),
    plain("a happy girl asked why the sky is blue and why the box is red perhaps"),
)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mistral"])
def test_greedy_equals_transformers_generate(folders: dict[str, str], family: str) -> None:
    adapter = load_tiny(folders, family, generation=GREEDY)
    ids = [adapter.tokenizer(adapter_text(adapter, p))["input_ids"] for p in PROMPTS]
    ours = sample_ids(adapter.policy, ids, [0] * len(ids), GREEDY, adapter.end_ids, POSITIONS)
    texts = adapter.generate(adapter.policy, PROMPTS, range(len(PROMPTS)))
    for prompt, new, text in zip(ids, ours, texts, strict=True):
        whole = adapter.policy.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24)[
            0
        ].tolist()
        expected = [i for i in whole[len(prompt) :] if i not in adapter.end_ids]
        assert new == expected
        assert text == Part("text", adapter.tokenizer.decode(expected, skip_special_tokens=True))


def adapter_text(adapter: Any, prompt: Any) -> str:
    if prompt[0].speaker == "text":
        return str(prompt[0].parts[0].data)
    turns = [{"role": m.speaker, "content": m.parts[0].data} for m in prompt]
    return str(adapter.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mistral"])
def test_samples_do_not_depend_on_the_batch(folders: dict[str, str], family: str) -> None:
    settings = Sampling(max_new_tokens=40, temperature=0.8, top_p=0.9)
    adapter = load_tiny(folders, family, generation=settings)
    seeds = [11, 12, 13, 14]
    together = adapter.generate(adapter.policy, PROMPTS, seeds)
    alone = [adapter.generate(adapter.policy, [p], [s])[0] for p, s in zip(PROMPTS, seeds, strict=True)]
    turned = adapter.generate(adapter.policy, PROMPTS[::-1], seeds[::-1])
    split = replace(adapter.config, generation=replace(settings, batch=3)).build(CPU)
    assert together == alone == turned[::-1] == split.generate(split.policy, PROMPTS, seeds)
    other = adapter.generate(adapter.policy, PROMPTS, [s + 100 for s in seeds])
    assert all(a != b for a, b in zip(together, other, strict=True))


def test_sampling_leaves_mode_and_global_generator_alone(folders: dict[str, str]) -> None:
    adapter = load_tiny(folders, generation=Sampling(max_new_tokens=4))
    adapter.policy.train()
    adapter.policy.lm_head.eval()
    before = torch.get_rng_state()
    adapter.generate(adapter.policy, PROMPTS, range(4))
    assert torch.equal(before, torch.get_rng_state())
    assert adapter.policy.model.training and not adapter.policy.lm_head.training


def test_stop_strings_end_positions_and_prompts_without_place(folders: dict[str, str]) -> None:
    free = load_tiny(folders, generation=Sampling(max_new_tokens=60, temperature=0))
    text = free.generate(free.policy, PROMPTS[:1], [0])[0].data
    end = text[3:5]
    stopping = load_tiny(folders, generation=Sampling(max_new_tokens=60, temperature=0, stop=(end,)))
    assert stopping.generate(stopping.policy, PROMPTS[:1], [0])[0].data == text.split(end)[0]

    # bytes that merge with nothing: one token each
    tight = load_tiny(folders, max_length=10, generation=Sampling(max_new_tokens=60, temperature=0))
    prompt = plain("zqzqzqz")
    assert len(tight.tokenizer("zqzqzqz")["input_ids"]) == 7
    new = sample_ids(tight.policy, [list(tight.tokenizer("zqzqzqz")["input_ids"])], [0], GREEDY, (), 10)
    assert len(new[0]) == 3
    assert tight.generate(tight.policy, [prompt], [0])[0].data == tight.tokenizer.decode(new[0])
    with pytest.raises(UserError, match="prompt 0: has 11 tokens, so that none of the 10"):
        tight.generate(tight.policy, [plain("zqzqzqzqzqz")], [0])


def test_choice_inverts_the_distribution() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.2, 0.3]])).expand(4, 3)
    uniform = torch.tensor([0.1, 0.55, 0.75, 0.999])
    assert choose(logits, uniform, 1.0, 1.0).tolist() == [0, 1, 2, 2]
    # the smallest set with at least 0.6 is {0, 2}: 0.5 / 0.8 = 0.625 falls to 0
    assert choose(logits, torch.tensor([0.1, 0.62, 0.63, 0.999]), 1.0, 0.6).tolist() == [0, 0, 2, 2]
    assert choose(logits, uniform, 0.0, 1.0).tolist() == [0, 0, 0, 0]
    assert choose(logits, uniform, 1.0, 0.01).tolist() == [0, 0, 0, 0]
    # temperature 0.5 squares the odds: 0.25 : 0.04 : 0.09 of 0.38, so 0 holds [0, 0.658)
    assert choose(logits, torch.tensor([0.65, 0.66, 0.76, 0.77]), 0.5, 1.0).tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: must be 1 or more, got 0"),
        ({"temperature": -1.0}, "temperature: must be 0 or more, got -1.0"),
        ({"top_p": 0.0}, r"top_p: must lie in \(0, 1\], got 0.0"),
        ({"stop": ("",)}, "stop: a stop string must not be empty"),
        ({"batch": 0}, "batch: must be 1 or more, got 0"),
    ],
)
def test_sampling_settings_out_of_range(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Sampling(**settings)


def test_a_model_without_key_value_cache_is_refused() -> None:
    class NoCache(torch.nn.Linear):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return input_ids

    with pytest.raises(UserError, match="NoCache keeps no key-value cache"):
        sample_ids(NoCache(1, 1), [[1]], [0], GREEDY, (), None)


@pytest.mark.parametrize(
    ("text", "tokens", "room", "shown", "whole"),
    [
        ("yes", 3, 9, "yes", False),  # as many as it may have
        ("yes", 2, 9, "yes", True),  # its end came before
        ("yes", 2, 2, "yes", False),  # no place is left
        ("yes. no", 3, 9, "yes", True),  # the stop string was the last that it may have
        (". no", 3, 9, "", True),
    ],
)
def test_an_answer_is_whole_unless_its_tokens_ran_out(
    text: str, tokens: int, room: int, shown: str, whole: bool
) -> None:
    found = answer(text, Sampling(max_new_tokens=3, stop=(".",)), tokens, room)
    assert (found.data, found.whole) == (shown, whole) and found == Part("text", shown)
