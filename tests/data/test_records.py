"""The canonical record: every accepted form of a row and what it becomes."""

from typing import Any

import pytest
from samples import text_of

from mmalign.data._paths import File
from mmalign.data._records import read_record
from mmalign.types import Message, Part, PreferenceSample

USER, BOT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
OTHER = {"role": "assistant", "content": "Bye"}


def read(**row: Any) -> PreferenceSample:
    return read_record(row, "x.jsonl row 1", 0, "/root-of-data").sample


def speakers(prompt: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(turn.speaker, "".join(part.data for part in turn.parts)) for turn in prompt]


def test_plain_pair() -> None:
    sample = read(prompt="P", chosen=" a", rejected=" b", chosen_score=2, rejected_score=-1)
    assert text_of(sample, "chosen") == ("P", " a")  # leading spaces belong to the answer
    assert text_of(sample, "rejected") == ("P", " b")
    assert sample.examples["chosen"][0].prompt[0].speaker == "text"
    assert [sample.examples[r][0].labels for r in ("chosen", "rejected")] == [{"score": 2.0}, {"score": -1.0}]
    assert (sample.weight, sample.origin, dict(sample.labels)) == (1.0, "x.jsonl row 1", {})


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER], "chosen": "Hello", "rejected": "Bye"},
        {"prompt": [USER], "chosen": BOT, "rejected": OTHER},
        {"prompt": [USER], "chosen": [BOT], "rejected": [OTHER]},
        {"prompt": [USER], "chosen": [USER, BOT], "rejected": [USER, OTHER]},
        {"prompt": [USER], "chosen": [USER, BOT], "rejected": "Bye"},
        {"chosen": [USER, BOT], "rejected": [USER, OTHER]},
        {"prompt": "Hi", "chosen": [USER, BOT], "rejected": [USER, OTHER]},
        {"prompt": "Hi", "chosen": [BOT], "rejected": [OTHER]},
        {
            "prompt": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello"},
            "rejected": {"from": "gpt", "value": "Bye"},
        },
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "Hi", "image": None}]}],
            "chosen": [{"type": "text", "text": "Hello"}],
            "rejected": {"type": "text", "text": "Bye"},
        },
    ],
)
def test_chat_forms_that_mean_the_same(row: dict[str, Any]) -> None:
    sample = read(**row)
    for role, answer in (("chosen", "Hello"), ("rejected", "Bye")):
        assert speakers(sample.examples[role][0].prompt) == [("user", "Hi")]
        assert text_of(sample, role)[1] == answer


def test_the_shared_turns_of_two_conversations_are_the_prompt() -> None:
    start = [{"role": "system", "content": "S"}, USER, BOT, {"role": "user", "content": "And?"}]
    sample = read(chosen=[*start, BOT], rejected=[*start, OTHER])
    expected = [("system", "S"), ("user", "Hi"), ("assistant", "Hello"), ("user", "And?")]
    assert speakers(sample.examples["rejected"][0].prompt) == expected
    assert text_of(sample, "rejected")[1] == "Bye"
    same = read(chosen=[*start, BOT], rejected=[*start, BOT])  # equal ones keep their last turn as the answer
    assert text_of(same, "rejected")[1] == "Hello"
    with pytest.raises(ValueError, match="part before the last turn; give prompt_chosen"):
        read(chosen=[USER, BOT, USER, BOT], rejected=[USER, OTHER, USER, OTHER])


def test_each_role_owns_its_condition() -> None:
    sample = read(prompt_chosen="A", prompt_rejected="B", chosen="a", rejected="b")
    assert (text_of(sample, "chosen"), text_of(sample, "rejected")) == (("A", "a"), ("B", "b"))
    half = read(prompt="A", prompt_rejected="B", chosen="a", rejected="b")
    assert (text_of(half, "chosen")[0], text_of(half, "rejected")[0]) == ("A", "B")


def test_system_turn() -> None:
    sample = read(prompt=[USER], chosen="a", rejected="b", system="S")
    assert speakers(sample.examples["chosen"][0].prompt) == [("system", "S"), ("user", "Hi")]


def test_single_responses() -> None:
    good = read(prompt="P", completion="a", label=True, score=3)
    assert (text_of(good, "completion"), good.labels["binary"]) == (("P", "a"), 1.0)
    assert good.examples["completion"][0].labels == {"score": 3.0}
    assert read(prompt="P", completion="a", label=False).labels["binary"] == 0.0
    conversation = read(completion=[USER, BOT], label=0)
    assert speakers(conversation.examples["completion"][0].prompt) == [("user", "Hi")]
    assert set(read(prompt="P", completion="a").examples) == {"chosen"}  # without a label: a demonstration


def test_lists() -> None:
    sample = read(prompt="P", responses=["a", "b", "c"], scores=[3, 1, 1.5], ranks=[1, 3, 2])
    found = [(e.response[0].data, dict(e.labels)) for e in sample.examples["responses"]]
    assert found == [
        ("a", {"score": 3.0, "rank": 1.0}),
        ("b", {"score": 1.0, "rank": 3.0}),
        ("c", {"score": 1.5, "rank": 2.0}),
    ]
    pictures = read(prompt="P", response_images=["a.png", "b.png"], ranks=[1, 2])
    assert pictures.examples["responses"][1].response == (Part("image", File("/root-of-data", "b.png")),)


def test_pictures_as_answers() -> None:
    for row in (
        {"chosen_image": "a.png", "rejected_image": {"bytes": b"x", "path": "b.png"}},
        {"chosen": {"image": "a.png"}, "rejected": {"image": {"bytes": b"x", "path": None}}},
        {"chosen": [{"type": "image", "image": "a.png"}], "rejected": b"x"},
    ):
        sample = read(prompt="P", **row)
        assert sample.examples["chosen"][0].response == (Part("image", File("/root-of-data", "a.png")),)
        assert sample.examples["rejected"][0].response == (Part("image", b"x"),)


def test_images_fill_gaps_or_stand_in_front() -> None:
    picture = Part("image", File("/root-of-data", "a.png"))
    front = read(prompt="P", chosen="a", rejected="b", images="a.png")
    assert front.examples["rejected"][0].prompt == (Message("text", (picture, Part("text", "P"))),)
    gap = {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image"}]}
    filled = read(prompt=[gap], system="S", chosen="a", rejected="b", images=["a.png"])
    assert filled.examples["chosen"][0].prompt[1] == Message("user", (Part("text", "x"), picture))
    chat = read(prompt=[USER], system="S", chosen="a", rejected="b", images=["a.png"])
    assert chat.examples["chosen"][0].prompt[1].parts == (picture, Part("text", "Hi"))
    twice = read(prompt="P", chosen="a", rejected="b", images=["a.png", "a.png"])
    assert twice.examples["chosen"][0].prompt[0].parts == (picture, picture, Part("text", "P"))
    video = {"role": "user", "content": [{"type": "video", "video": "v.mp4"}]}
    kept = read(prompt=[video], chosen="a", rejected="b")
    assert kept.examples["chosen"][0].prompt[0].parts == (Part("video", File("/root-of-data", "v.mp4")),)


def test_labels_of_the_sample() -> None:
    sample = read(
        prompt="P",
        chosen="good answer",
        rejected="b",
        weight=2,
        margin=0.5,
        tie=True,
        group="g",
        user=7,
        spans={"chosen": [[0, 4]], "rejected": None},
        split="train",
    )
    assert sample.weight == 2.0
    assert sample.labels == {
        "margin": 0.5,
        "tie": 1.0,
        "group": "g",
        "user": 7,
        "spans": {"chosen": [[0, 4]], "rejected": None},
    }


def test_ids_are_given_or_made_from_place_and_content() -> None:
    row = {"prompt": "P", "chosen": "a", "rejected": "b"}
    assert read(**row, id="x").id == "x"
    assert read(**row, id=7).id == "7"
    made = read(**row).id
    assert made == read_record(row, "renamed.jsonl row 9", 0, "/elsewhere").sample.id
    assert made != read_record(row, "x.jsonl row 2", 1, "/root-of-data").sample.id
    assert made != read(**{**row, "chosen": "A"}).id


def test_columns_that_belong_to_no_field_of_the_row_are_reported() -> None:
    row = {"prompt": "P", "chosen": "a", "rejected": "b", "label": "no", "source": "web", "score": 1}
    assert read_record(row, "x", 0, ".").unused == ("label", "source", "score")


def test_text_comes_through_unchanged() -> None:
    odd = "a\u202eb\u200f \u0007\r\n\u2028 <image> <|im_end|> \U0001f600 e\u0301"
    sample = read(prompt=odd, chosen=odd, rejected="b")
    assert text_of(sample, "chosen") == (odd, odd)
