"""Models at hand as writers: answers and chances whatever the batch and order, and refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_lm, tiny_vlm

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.types import Message, Part, UserError
from mmalign.writers.local import Local
from mmalign.writing import Weighing

SAMPLED = {"max_new_tokens": 60, "stop": ["e"]}  # ends at a letter: an answer of many tokens is cut off
ASKED = [
    tiny_lm.chat(("user", "is the box red?")),
    tiny_lm.chat(("user", "why is the sky blue and the small red fox?")),
    tiny_lm.plain("the small red fox"),
]
SEEDS = [3, 4, 5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_lm.save_tiny(tmp_path_factory.mktemp("writer") / "lm")


@pytest.fixture(scope="module")
def looking(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_vlm.save_vlm("llava", tmp_path_factory.mktemp("writer") / "vlm"))


def text(path: str, **changes: Any) -> Local:
    return Local({"adapter": "text", "path": path, "generation": SAMPLED}, **changes)


def test_answers_depend_on_neither_batch_nor_order(folder: str) -> None:
    writer = text(folder)
    writer.ready()
    whole = writer.write(ASKED, SEEDS)
    assert all(isinstance(one, str) and one == one.strip() != "" for one in whole)
    assert text(folder, batch=1).write(ASKED, SEEDS) == whole
    assert writer.write(ASKED[::-1], SEEDS[::-1]) == whole[::-1]
    assert writer.write(ASKED, [6, 7, 8]) != whole  # sampled: a seed counts
    assert writer.write([], []) == []
    with pytest.raises(ValueError, match="one seed per question: got 1 for 3"):
        writer.write(ASKED, [1])


def test_an_empty_answer_is_none(folder: str) -> None:
    section = {"adapter": "text", "path": folder, "generation": {"max_new_tokens": 60, "stop": ["a", "e"]}}
    answers = Local(section).write([ASKED[0]] * 40, list(range(40)))
    assert None in answers and "" not in answers and len(set(answers)) > 20


def test_an_answer_that_was_cut_off_is_none(folder: str, looking: str) -> None:
    models = {"text": (folder, ASKED), "vlm": (looking, [tiny_vlm.looking(tiny_vlm.picture(1))])}
    for adapter, (path, asked) in models.items():
        section = {"adapter": adapter, "path": path, "generation": {"max_new_tokens": 6, "temperature": 0}}
        writer = Local(section)
        model: Any = writer._adapter
        seeds = [0] * len(asked)
        cut = model.generate(model.policy, asked, seeds)
        assert not any(part.whole for part in cut)
        assert writer.write(asked, seeds) == [None] * len(asked)
        ended = section | {"generation": section["generation"] | {"stop": [cut[0].data.strip()[-1]]}}
        whole, *_ = Local(ended)._adapter.generate(model.policy, asked, seeds)
        assert whole.whole and len(whole.data) < len(cut[0].data)
        assert Local(ended).write(asked, seeds)[0] == (whole.data.strip() or None)


def test_a_system_turn_is_put_before_questions_without_one(folder: str) -> None:
    greedy = {**SAMPLED, "temperature": 0}
    plain = Local({"adapter": "text", "path": folder, "generation": greedy})
    told = Local(plain.model, system="answer")
    question = tiny_lm.chat(("user", "is the box red?"))
    spelled = tiny_lm.chat(("system", "answer"), ("user", "is the box red?"))
    assert told.write([question], [0]) == plain.write([spelled], [0]) != plain.write([question], [0])
    assert told.write([spelled], [0]) == plain.write([spelled], [0])
    assert told.write([tiny_lm.plain("is the box red?")], [0]) == plain.write([spelled], [0])


# ---------------------------------------------------------------- chances


def upstream(writer: Local, question: str, word: str) -> float:
    """The chance of a word's first token from the model's own logits."""
    adapter: Any = writer._adapter
    text = adapter.tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    ids = adapter.tokenizer(text, add_special_tokens=False)["input_ids"]
    first = adapter.tokenizer(word, add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        logits = adapter.policy(input_ids=torch.tensor([ids])).logits[0, -1]
    return float(torch.softmax(logits.double(), -1)[first])


def test_chances_are_the_models_own(folder: str) -> None:
    writer = text(folder)
    assert isinstance(writer, Weighing)
    words = ("yes", "Yes", "no", "No")
    found = writer.chances(ASKED[:2], words)
    for turns, own in zip(ASKED[:2], found, strict=True):
        expected = [upstream(writer, turns[0].parts[0].data, word) for word in words]
        assert own == pytest.approx(expected, rel=1e-5) and len(set(own)) == 4  # Yes is not yes
    again = text(folder, batch=1).chances(ASKED[1::-1], words)
    assert again == [pytest.approx(own, rel=1e-5) for own in found[::-1]]
    assert writer.chances([], words) == []


def test_words_that_begin_alike_are_refused(folder: str) -> None:
    with pytest.raises(UserError, match="'yes' and 'yes yes' begin with the same token"):
        text(folder).chances(ASKED[:1], ("yes", "yes yes"))


def test_a_model_that_looks_weighs_what_it_sees(looking: str) -> None:
    writer = Local({"adapter": "vlm", "path": looking, "generation": SAMPLED}, batch=2)
    asked = [tiny_vlm.looking(tiny_vlm.picture(n), question="is it red?") for n in (1, 2, 3)]
    first, *rest = writer.chances(asked, ("yes", "no"))
    assert len({first, *rest}) == 3 and all(0 < chance < 1 for own in (first, *rest) for chance in own)
    assert writer.chances(asked[:1], ("no", "yes"))[0] == pytest.approx(first[::-1], rel=1e-5)
    seen = writer.write(asked, SEEDS)
    assert seen == [writer.write([one], [seed])[0] for one, seed in zip(asked, SEEDS, strict=True)]


# ---------------------------------------------------------------- refusals


def test_sections_are_read_with_their_model(folder: str) -> None:
    section = {"name": "local", "model": {"adapter": "text", "path": folder}, "batch": 4}
    built = build_named(KINDS["helper"], section, "helper", allow_code=False)
    assert built == Local({"adapter": "text", "path": folder}, 4)
    assert built.model["generation"]["temperature"] == 1.0  # defaults written out
    for change, message in (
        ({"model": {"adapter": "diffusion", "path": "x"}}, "helper.model.adapter: diffusion answers in no"),
        ({"model": {"adapter": "text", "pth": "x"}}, "helper.model: unknown key pth; did you mean"),
        ({"model": {"adapter": "texts", "path": "x"}}, "helper.model.adapter: no adapter is called 'texts'"),
        ({"model": {"adapter": "own.place:Model", "path": "x"}}, "would import code from outside mmalign"),
        ({"batch": 0}, "helper.batch: must be above 0, got 0"),
        ({"system": " "}, "helper.system: must say something"),
    ):
        with pytest.raises(UserError, match=message):
            build_named(KINDS["helper"], section | change, "helper", allow_code=False)


def test_what_the_model_cannot_read_is_one_line(folder: str, tmp_path: Path) -> None:
    writer = text(folder, batch=2)
    pictures = tiny_vlm.looking(tiny_vlm.picture(1))
    with pytest.raises(UserError, match="writer local, questions 3 to 3: .* this model reads text only"):
        writer.write([*ASKED[:2], pictures], SEEDS)
    with pytest.raises(UserError, match="none of the 128 allowed is left"):
        writer.write([(Message("text", (Part("text", "zq" * 200),)),)], [0])
    with pytest.raises(UserError, match="gone"):
        text(str(tmp_path / "gone")).ready()
