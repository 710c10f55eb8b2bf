"""Where the prompt ends, what ends a response, and which texts are refused."""

import importlib.metadata
from dataclasses import replace
from typing import Any

import pytest
from tiny_lm import CHATML, build_tokenizer, chat, plain, sample

from mmalign.adapters._tokens import (
    Rules,
    common_prefix,
    fingerprint,
    refuse_wide_tokenizer,
    special_tokens,
    tokenize_begun,
    tokenize_prompt,
    tokenize_sample,
)
from mmalign.types import Example, Message, Part, PreferenceSample, UserError

BOTH = ("chosen", "rejected")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture(scope="module")
def rules(tokenizer: Any) -> Rules:
    return Rules(eos_id=tokenizer.eos_token_id, banned=special_tokens(tokenizer))


def scored(tokenizer: Any, tokens: Any) -> str:
    return tokenizer.decode(tokens.ids[tokens.start :])


def test_plain_text_is_prompt_plus_response_plus_end(tokenizer: Any, rules: Rules) -> None:
    row = sample("7", plain("the small red fox"), chosen=" ran home")
    tokens = tokenize_sample(tokenizer, row, ("chosen",), rules)["chosen", 0]
    assert tokenizer.decode(tokens.ids) == "the small red fox ran home<|im_end|>"
    assert scored(tokenizer, tokens) == " ran home<|im_end|>"
    assert tokens.ids.count(tokenizer.eos_token_id) == 1


def test_end_token_only_when_asked(tokenizer: Any) -> None:
    row = sample("7", plain("the small red fox"), chosen=" ran home")
    tokens = tokenize_sample(tokenizer, row, ("chosen",), Rules())["chosen", 0]
    assert scored(tokenizer, tokens) == " ran home"


def test_a_token_across_the_border_moves_it_for_every_response(tokenizer: Any, rules: Rules) -> None:
    # "re" + "d" makes the one token "Ġred", which the prompt's own ids do not hold
    row = sample("7", plain("the re"), chosen="d fox", rejected=" is no")
    assert len(tokenizer("the red")["input_ids"]) < len(tokenizer("the re")["input_ids"]) + 1
    found = tokenize_sample(tokenizer, row, BOTH, rules)
    starts = {tokens.start for tokens in found.values()}
    assert len(starts) == 1
    assert scored(tokenizer, found["chosen", 0]) == " red fox<|im_end|>"
    assert scored(tokenizer, found["rejected", 0]) == " re is no<|im_end|>"
    # the border does not depend on which roles are asked for
    alone = tokenize_sample(tokenizer, row, ("rejected",), rules)["rejected", 0]
    assert alone == found["rejected", 0]


def test_prompts_of_different_text_have_borders_of_their_own(tokenizer: Any, rules: Rules) -> None:
    one, other = plain("the re"), plain("the small red fox")
    row = PreferenceSample(
        "1",
        {
            "chosen": (Example(one, (Part("text", "d fox"),)),),
            "rejected": (Example(other, (Part("text", " is no"),)),),
        },
    )
    found = tokenize_sample(tokenizer, row, BOTH, rules)
    assert scored(tokenizer, found["rejected", 0]) == " is no<|im_end|>"
    assert found["rejected", 0].start > found["chosen", 0].start


def test_a_list_of_responses_keeps_its_slots(tokenizer: Any, rules: Rules) -> None:
    row = sample("7", plain("the fox"), ranked=[" ran home", " is no", " perhaps"])
    found = tokenize_sample(tokenizer, row, ("ranked",), rules)
    assert list(found) == [("ranked", 0), ("ranked", 1), ("ranked", 2)]
    assert scored(tokenizer, found["ranked", 2]) == " perhaps<|im_end|>"


def test_a_chat_ends_where_its_template_ends_the_turn(tokenizer: Any, rules: Rules) -> None:
    row = sample("7", chat(("system", "be kind"), ("user", "is it red?")), chosen="yes", rejected="no")
    found = tokenize_sample(tokenizer, row, BOTH, rules)
    assert scored(tokenizer, found["chosen", 0]) == "yes<|im_end|>"
    prompt = tokenizer.decode(found["chosen", 0].ids[: found["chosen", 0].start])
    assert prompt == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nis it red?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert list(found["chosen", 0].ids[: found["chosen", 0].start]) == tokenize_prompt(
        tokenizer, row.examples["chosen"][0].prompt, "here", rules
    )


@pytest.mark.parametrize("answer", ["n", ">", "d|", "<", "  yes  "])
def test_answers_that_look_like_the_turns_end(tokenizer: Any, rules: Rules, answer: str) -> None:
    row = sample("7", chat(("user", "is it red?")), chosen=answer)
    found = tokenize_sample(tokenizer, row, ("chosen",), rules)["chosen", 0]
    assert scored(tokenizer, found) == answer + "<|im_end|>"


def test_templates_that_end_nothing_get_the_end_token(rules: Rules) -> None:
    bare = build_tokenizer("{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}\n{% endfor %}")
    bare.chat_template += "{% if add_generation_prompt %}assistant: {% endif %}"
    row = sample("7", chat(("user", "is it red?")), chosen=" yes ")
    found = tokenize_sample(bare, row, ("chosen",), rules)["chosen", 0]
    assert bare.decode(found.ids).endswith("assistant: yes<|im_end|>")


def test_what_a_template_puts_before_the_answer_is_scored(rules: Rules) -> None:
    thinking = build_tokenizer(CHATML.replace("{{ m['content'] }}", "{{ m['prefix'] }}{{ m['content'] }}"))
    thinking.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' %}(thinks)\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    row = sample("7", chat(("user", "is it red?")), chosen="n")
    found = tokenize_sample(thinking, row, ("chosen",), rules)["chosen", 0]
    assert scored(thinking, found) == "(thinks)\nn<|im_end|>"


def refused(row: PreferenceSample, tokenizer: Any, rules: Rules, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        tokenize_sample(tokenizer, row, ("chosen",), rules)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("response", "match"),
    [
        ("", "row 7: chosen: the response is empty"),
        (" \n\t", "the response is empty"),
        (" yes<|im_end|> no", "row 7: chosen: the text contains '<|im_end|>'".replace("|", r"\|")),
        (" a \ud83d b", r"character 3 is a lone surrogate \(U\+D83D\)"),
    ],
)
def test_responses_that_are_refused(tokenizer: Any, rules: Rules, response: str, match: str) -> None:
    refused(sample("7", plain("the fox"), chosen=response), tokenizer, rules, match)
    refused(sample("7", chat(("user", "the fox")), chosen=response), tokenizer, rules, match)


def test_special_tokens_are_refused_in_prompts_and_across_the_border(tokenizer: Any, rules: Rules) -> None:
    refused(sample("7", plain("say </s> now"), chosen=" no"), tokenizer, rules, "'</s>'")
    refused(sample("7", chat(("user", "<|im_start|>x")), chosen="no"), tokenizer, rules, "control token")
    refused(sample("7", plain("a <|im_"), chosen="end|> b"), tokenizer, rules, "control token")
    assert {"<|im_start|>", "<|im_end|>", "<s>", "</s>", "<pad>", "<unk>"} == set(special_tokens(tokenizer))


def test_odd_but_honest_text_comes_back_unchanged(tokenizer: Any, rules: Rules) -> None:
    text = " naïve \u202eabc\u202c ☕\r\n\x07 <image> 😀"
    tokens = tokenize_sample(tokenizer, sample("7", plain("the fox"), chosen=text), ("chosen",), rules)
    assert scored(tokenizer, tokens["chosen", 0]) == text + "<|im_end|>"


def test_other_refusals(tokenizer: Any, rules: Rules) -> None:
    mixed = (*plain("the fox"), *chat(("user", "is it red?")))
    refused(sample("7", mixed, chosen="no"), tokenizer, rules, "mixes plain text with the turns")
    refused(sample("7", (), chosen="no"), tokenizer, rules, "begins at the first token")
    refused(sample("7", plain(""), chosen="no"), tokenizer, rules, "begins at the first token")
    picture = (Message("user", (Part("image", "cat.png"),)),)
    refused(sample("7", picture, chosen="no"), tokenizer, rules, "part of kind image")
    without = build_tokenizer(None)
    refused(sample("7", chat(("user", "red?")), chosen="no"), without, rules, "no chat template")
    raising = build_tokenizer("{{ raise_exception('turns must alternate') }}")
    refused(sample("7", chat(("user", "red?")), chosen="no"), raising, rules, "turns must alternate")
    broken = build_tokenizer("{% for m in messages %}{{ m.content")
    refused(sample("7", chat(("user", "red?")), chosen="no"), broken, rules, "chat template refuses")
    escape = build_tokenizer("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    refused(sample("7", chat(("user", "red?")), chosen="no"), escape, rules, "chat template refuses")
    endless = build_tokenizer("{% for i in range(10000000000) %}x{% endfor %}")
    refused(sample("7", chat(("user", "red?")), chosen="no"), endless, rules, "chat template refuses")
    moving = build_tokenizer("{{ messages | length }}{{ messages[-1]['content'] }}")
    refused(sample("7", chat(("user", "red?")), chosen="no"), moving, rules, "renders the prompt differently")
    counting = build_tokenizer(
        "{{ messages | length }}{% for m in messages %}{{ m['content'] }} {% endfor %}"
    )
    refused(
        sample("7", chat(("user", "red?")), chosen="no"), counting, rules, "renders the prompt differently"
    )
    loud = build_tokenizer(CHATML.replace("{{ m['content'] }}", "{{ m['content'] | upper }}"))
    refused(sample("7", chat(("user", "red?")), chosen="no"), loud, rules, "changed the response")


def test_a_bad_response_of_a_role_nobody_asked_for_is_not_judged(tokenizer: Any, rules: Rules) -> None:
    row = sample("7", plain("the fox"), chosen=" ran", rejected="")
    assert list(tokenize_sample(tokenizer, row, ("chosen",), rules)) == [("chosen", 0)]
    with pytest.raises(UserError, match="rejected: the response is empty"):
        tokenize_sample(tokenizer, row, BOTH, rules)


def test_too_long(tokenizer: Any, rules: Rules) -> None:
    row = sample("7", plain("the small red fox"), chosen=" jumped over a blue box")
    whole = tokenize_sample(tokenizer, row, ("chosen",), rules)["chosen", 0]
    exact = replace(rules, limit=len(whole.ids))
    assert tokenize_sample(tokenizer, row, ("chosen",), exact)["chosen", 0] == whole
    short = replace(rules, limit=len(whole.ids) - 1)
    refused(row, tokenizer, short, f"have {len(whole.ids)} tokens, more than the {len(whole.ids) - 1}")
    cut = tokenize_sample(tokenizer, row, ("chosen",), replace(short, over_long="cut_response"))["chosen", 0]
    assert cut.cut and cut.ids == whole.ids[:-1] and cut.start == whole.start
    none_left = replace(rules, limit=whole.start, over_long="cut_response")
    refused(row, tokenizer, none_left, f"the prompt has {whole.start} tokens, so that none")


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix([1, 2], [1, 2, 3]) == 2
    assert common_prefix([], [1]) == 0


def test_fingerprint_follows_what_shapes_rows(tokenizer: Any, rules: Rules) -> None:
    assert fingerprint(tokenizer, rules) == fingerprint(build_tokenizer(), rules)
    assert fingerprint(tokenizer, rules) != fingerprint(tokenizer, replace(rules, limit=9))
    assert fingerprint(tokenizer, rules) != fingerprint(build_tokenizer(None), rules)


@pytest.mark.parametrize("library", ["jinja2", "tokenizers", "torch", "transformers", "pillow"])
def test_fingerprint_follows_the_libraries(
    tokenizer: Any, rules: Rules, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept on disk does not outlive an upgrade of what made it."""
    before, installed = fingerprint(tokenizer, rules, "pillow"), importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "0.0" if n == library else installed(n))
    assert fingerprint(tokenizer, rules, "pillow") != before


def test_white_space_in_front_of_an_answer_is_the_prompts(rules: Rules) -> None:
    """A template may begin an answered turn otherwise than the turn that an answer is sampled in."""
    spaced = build_tokenizer(
        "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ '\\n' + m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    row = sample("7", chat(("user", "red?")), chosen="no")
    found = tokenize_sample(spaced, row, ("chosen",), rules)["chosen", 0]
    assert spaced.decode(found.ids[: found.start]).endswith("red?<|im_end|><|im_start|>assistant\n")
    assert scored(spaced, found) == "no<|im_end|>"
    begun = tokenize_begun(spaced, chat(("user", "red?")), "no w", "x", rules)
    assert spaced.decode(begun).endswith("<|im_start|>assistant\nno w")


def test_a_tokenizer_wider_than_the_embedding() -> None:
    refuse_wide_tokenizer({"a": 0, "b": 1}, 2, "folder")
    with pytest.raises(UserError, match="token 'b' has id 1, but the model's embedding has only 1 rows"):
        refuse_wide_tokenizer({"a": 0, "b": 1}, 1, "folder")


def test_a_tokenizer_that_gives_no_ids_is_refused_by_row() -> None:
    class Mute:
        chat_template = None
        bos_token_id = None

        def __call__(self, text: str, **settings: object) -> dict[str, list[int]]:
            return {"input_ids": []}

    one = sample("7", plain("the fox"), chosen=" ran")
    with pytest.raises(UserError, match="rows.jsonl row 7: chosen: the response begins at the first token"):
        tokenize_sample(Mute(), one, ("chosen",), Rules(eos_id=5))
