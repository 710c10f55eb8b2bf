"""mDPO rows: prompts that are written out in a chat template are taken apart."""

from pathlib import Path

import pytest
from data.format_rows import MDPO, answer_of, prompt_of, read_rows

from mmalign.data._templated import is_templated, untemplated
from mmalign.types import UserError

CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>\nWhat?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
USER = {"role": "user", "content": "<image>\nWhat?"}
BRIEF = {"role": "system", "content": "Be brief."}


def test_the_turns_are_for_the_models_own_template(tmp_path: Path) -> None:
    data = read_rows(tmp_path, MDPO)
    (sample,) = data.samples
    assert data.report.formats == {"mdpo": 1}
    assert prompt_of(sample, "rejected") == [("user", "image:a.png", "\nWhat is it?")]
    assert [answer_of(sample, side) for side in ("chosen", "rejected")] == ["A cat.", "A dog."]


@pytest.mark.parametrize("prompt", ["What is it?", "<image>What is it?", "USER: What is it? ASSISTANT:"])
def test_without_a_marker_or_a_template(prompt: str, tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, {**MDPO, "prompt": prompt}).samples
    assert prompt_of(sample, "chosen") == [("user", "image:a.png", "What is it?")]


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        (CHATML, [BRIEF, USER]),
        ("Human: <image>\nWhat?\nAssistant:", [USER]),
        ("### Human: <image>\nWhat?### Assistant:".replace("?###", "?\n###"), [USER]),
        ("[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n<image>\nWhat? [/INST]", [BRIEF, USER]),
        ("Be brief. USER: <image>\nWhat? ASSISTANT:", [BRIEF, USER]),
        (
            "USER: Hi ASSISTANT: Hello</s>USER: <image>\nWhat? ASSISTANT:",
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, USER],
        ),
    ],
)
def test_templates(text: str, turns: list[dict[str, str]]) -> None:
    assert is_templated(text) and untemplated(text) == turns


@pytest.mark.parametrize(
    "text",
    [
        "USER: What? ASSISTANT: A cat.",  # an answer inside
        "USER: What?",
        "USER: USER: What? ASSISTANT:",
        "ASSISTANT: Hi USER: What? ASSISTANT:",
        "[INST] one [/INST] two [INST] three [/INST]",
        "<|start_header_id|>user<|end_header_id|>What?",
    ],
)
def test_other_forms_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="'prompt': holds marks of a chat template that cannot be taken apart"
    ):
        read_rows(tmp_path, {**MDPO, "prompt": text})


@pytest.mark.parametrize(
    "text", ["Who is the user: a cat?", "Is the Assistant: label right?", "A human: what is it?"]
)
def test_ordinary_prompts_are_not_templates(text: str) -> None:
    assert not is_templated(text)
