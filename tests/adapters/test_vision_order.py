"""Media stand where the row puts them, under chat templates of every style that published models have."""

from pathlib import Path
from typing import Any

import pytest
from clip_vlm import save_clip_vlm
from more_vlm import save_more
from tiny_lm import build_tokenizer
from tiny_vlm import build_vlm, picture, save_vlm
from transformers import AutoProcessor

from mmalign.adapters._vision_order import in_order
from mmalign.metrics.mantis import Mantis
from mmalign.types import Example, Message, Part, PreferenceSample, UserError


def first(kind: str, written: str) -> str:
    """All media of a kind, before any text."""
    return "{% for c in m['content'] if c['type'] == '" + kind + "' %}" + written + "{% endfor %}"


def last(written: str) -> str:
    """All texts, behind the media."""
    return "{% for c in m['content'] if c['type'] == 'text' %}" + written + "{% endfor %}"


def each(image: str, text: str = "{{ c['text'] }}", video: str = "<video>") -> str:
    """Texts and media as they come."""
    return (
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}" + image + "{% elif c['type'] == 'video' %}"
        "" + video + "{% else %}" + text + "{% endif %}{% endfor %}"
    )


def chat(turn: str, end: str) -> str:
    return (
        "{% for m in messages %}" + turn + "{% endfor %}{% if add_generation_prompt %}" + end + "{% endif %}"
    )


VICUNA = chat(
    "{% if m['role'] != 'system' %}{{ m['role'].upper() }}: {% endif %}"
    + first("image", "<image>\n")
    + first("video", "<video>\n")
    + last("{{ c['text'] }} "),
    "ASSISTANT:",
)
MISTRAL = chat(
    "{% if m['role'] == 'user' %}[INST] "
    + first("image", "<image>\n")
    + last("{{ c['text'] }}")
    + " [/INST]{% else %} {{ m['content'][0]['text'] }} {% endif %}",
    "",
)
ONEVISION = chat(
    "<|im_start|>{{ m['role'] }} "
    + first("image", "<image>")
    + first("video", "<video>")
    + last("{{ '\\n' + c['text'] }}")
    + "<|im_end|>",
    "<|im_start|>assistant\n",
)
QWEN = chat(
    "{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n" + each("<|vision_start|><image><|vision_end|>") + "<|im_end|>\n",
    "<|im_start|>assistant\n",
)
INTERN = chat(
    "<|im_start|>{{ m['role'] }}\n" + each("<image>\n", video="<video>\n") + "<|im_end|>\n",
    "<|im_start|>assistant\n",
)
SMOL = chat(
    "{{ m['role'] | capitalize }}:{% if m['content'][0]['type'] != 'image' %} {% endif %}"
    + each("<image>")
    + "<end_of_utterance>\n",
    "Assistant:",
)
GEMMA = chat("<start_of_turn>{{ m['role'] }}\n" + each("<image>", "{{ c['text'] | trim }}") + "<end>\n", "")
# pictures of this one stand between two tokens and before all texts
FRAMED = chat("{{ m['role'] }}: " + first("image", "<|a|><image><|b|>\n") + last("{{ c['text'] }}\n"), ">")

MARKERS = {"image": "<image>", "video": "<video>"}
IMAGE, VIDEO = {"type": "image"}, {"type": "video"}


def user(*parts: Any, role: str = "user") -> dict[str, Any]:
    texts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": role, "content": texts}


def system(*parts: str) -> dict[str, Any]:
    return user(*parts, role="system")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer("")


def shown(tokenizer: Any, template: str, *turns: dict[str, Any], ordered: bool = True) -> str:
    tokenizer.chat_template = template
    given = in_order(tokenizer, turns, MARKERS, "row 1") if ordered else turns
    return str(tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True))


ALL = {
    "vicuna": VICUNA,
    "mistral": MISTRAL,
    "onevision": ONEVISION,
    "qwen": QWEN,
    "intern": INTERN,
    "smol": SMOL,
    "gemma": GEMMA,
    "framed": FRAMED,
}
IN_FRONT = [
    (user(IMAGE, "What?"),),
    (user("What?"),),
    (user(IMAGE, IMAGE, "A", "B"), user("C", role="assistant"), user("D")),
]


@pytest.mark.parametrize("name", ALL)
def test_media_in_front_stand_as_the_template_puts_them(tokenizer: Any, name: str) -> None:
    for turns in IN_FRONT[: 2 if name == "mistral" else 3]:
        assert shown(tokenizer, ALL[name], *turns) == shown(tokenizer, ALL[name], *turns, ordered=False)


MIA = ("Image1:", IMAGE, "\nImage2:", IMAGE, "\nIn Image1, why?")
PLAIN = "Image1:<image>\nImage2:<image>\nIn Image1, why?"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vicuna", f"USER: {PLAIN} ASSISTANT:"),
        ("mistral", f"[INST] {PLAIN} [/INST]"),
        ("onevision", f"<|im_start|>user \n{PLAIN}<|im_end|><|im_start|>assistant\n"),
        ("intern", f"<|im_start|>user\n{PLAIN}<|im_end|>\n<|im_start|>assistant\n"),
        ("smol", f"User: {PLAIN}<end_of_utterance>\nAssistant:"),
        ("gemma", "<start_of_turn>user\nImage1:<image>Image2:<image>In Image1, why?<end>\n"),
        ("framed", f"user: {PLAIN}\n>".replace("<image>", "<|a|><image><|b|>")),
    ],
)
def test_pictures_between_texts_stay_between_them(tokenizer: Any, name: str, text: str) -> None:
    assert shown(tokenizer, ALL[name], user(*MIA)) == text
    whole = shown(tokenizer, QWEN, user(*MIA))
    assert PLAIN.replace("<image>", "<|vision_start|><image><|vision_end|>") in whole


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vicuna", "USER: <image>\nWhy? ASSISTANT:"),
        ("mistral", "[INST] <image>\nWhy? [/INST]"),
        ("onevision", "<|im_start|>user <image>\nWhy?<|im_end|><|im_start|>assistant\n"),
        ("intern", "<|im_start|>user\n<image>\nWhy?<|im_end|>\n<|im_start|>assistant\n"),
        ("smol", "User:<image>\nWhy?<end_of_utterance>\nAssistant:"),
    ],
)
def test_a_line_breaks_once_behind_a_picture(tokenizer: Any, name: str, text: str) -> None:
    """Rows say `<image>\\nWhy?`, and some templates break the line themselves."""
    assert shown(tokenizer, ALL[name], user(IMAGE, "\nWhy?")) == text
    assert "<image>\n\nWhy?" in shown(tokenizer, ALL[name], user(IMAGE, "\n\nWhy?"))
    pair = shown(tokenizer, ALL[name], user(IMAGE, "\n", IMAGE, "\nWhy?"))
    assert "<image>\n<image>\nWhy?" in pair
    assert shown(tokenizer, ALL[name], user(IMAGE, "\n", "Why?")) == text


def test_only_turns_that_lose_their_order_are_changed(tokenizer: Any) -> None:
    turns = (system("Be brief."), user(IMAGE, "One?"), user("A", role="assistant"), user("And", IMAGE, "?"))
    text = "Be brief. USER: <image>\nOne? ASSISTANT: A USER: And<image>? ASSISTANT:"
    assert shown(tokenizer, VICUNA, *turns) == text
    dropping = (
        user(IMAGE, "\n", IMAGE, "\nOne"),
        user("S", IMAGE, "T"),
        user("last"),
    )  # numbers of texts shift
    text = "USER: <image>\n<image>\nOne USER: S<image>T USER: last ASSISTANT:"
    assert shown(tokenizer, VICUNA, *dropping) == text


def test_texts_that_the_template_itself_writes_do_not_mislead(tokenizer: Any) -> None:
    assert shown(tokenizer, VICUNA, user("S", IMAGE, "T")) == "USER: S<image>T ASSISTANT:"
    assert shown(tokenizer, VICUNA, user("Why?", IMAGE)) == "USER: Why?<image> ASSISTANT:"


def test_clips_and_pictures_keep_their_order(tokenizer: Any) -> None:
    assert shown(tokenizer, ONEVISION, user(IMAGE, VIDEO, "Why?")).startswith(
        "<|im_start|>user <image><video>\nWhy?"
    )
    assert shown(tokenizer, ONEVISION, user(VIDEO, IMAGE, "Why?")).startswith(
        "<|im_start|>user \n<video><image>Why?"
    )
    assert shown(tokenizer, VICUNA, user("a", VIDEO, "b", IMAGE)) == "USER: a<video>b<image> ASSISTANT:"


def test_what_a_template_loses_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"^row 1: the chat template moves or leaves out texts or media"):
        shown(tokenizer, MISTRAL.replace("{{ m['content'][0]['text'] }}", ""), user("a"), system("b"))
    backwards = VICUNA.replace("in messages", "in messages | reverse")
    with pytest.raises(UserError, match="moves or leaves out texts or media"):
        shown(tokenizer, backwards, user(IMAGE, "a"), user("b", role="assistant"), user("c"))
    with pytest.raises(UserError, match="has 1 images, but the chat template wrote 0 placeholders"):
        shown(tokenizer, chat(last("{{ c['text'] }}"), ""), user(IMAGE, "a"))
    # all texts of a turn but its first are lost, and are kept as one
    assert shown(tokenizer, MISTRAL, user("a"), user("b", "c", role="assistant")) == "[INST] a [/INST] bc "


# ---------------------------------------------------------------- models


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models whose template writes all media first, as their published ones do."""
    root = tmp_path_factory.mktemp("first")
    made = {
        "llava": (save_vlm("llava", root / "llava"), VICUNA),
        "llava_onevision": (save_vlm("llava_onevision", root / "llava_onevision"), ONEVISION),
        "llava_next": (save_more("llava_next", root / "llava_next"), MISTRAL),
        "video_llava": (save_clip_vlm("video_llava", root / "video_llava"), VICUNA),
    }
    for folder, template in made.values():
        processor = AutoProcessor.from_pretrained(folder)
        processor.chat_template = template
        processor.save_pretrained(folder)
    return {family: folder for family, (folder, _) in made.items()}


def mia(prompt: tuple[Message, ...]) -> PreferenceSample:
    answers = {"chosen": "a cat", "rejected": "a dog"}
    return PreferenceSample(
        "x", {role: (Example(prompt, (Part("text", text),)),) for role, text in answers.items()}
    )


@pytest.mark.parametrize("family", ["llava", "llava_next", "llava_onevision", "video_llava"])
def test_each_picture_of_a_row_stands_behind_its_name(folders: dict[str, Path], family: str) -> None:
    """Answers, scores and what attention is summed over: all read the same places."""
    own = build_vlm(folders[family])
    parts = [
        Part("text", one) if isinstance(one, str) else Part("image", picture(i)) for i, one in enumerate(MIA)
    ]
    prompt = (Message("user", tuple(parts)),)
    seen = own.reader.prompt(prompt, "x")
    media = own._media(seen, prompt)
    for one, name in zip(media, ("Image1:", "Image2:"), strict=True):
        assert own.tokenizer.decode(seen.ids[: one.places[0]]).endswith(name)
        assert [seen.ids[place] for place in one.places] == [own.reader.ids["image"]] * len(one.places)
    if family in ("llava", "llava_next"):
        digests = [one.unit.digest for one in media if one.unit is not None]
        alone = [
            own.reader.prompt((Message("user", (part,)),), "x").units[0].digest
            for part in parts
            if part.kind == "image"
        ]
        assert digests == alone
    view = own.describe(own.prepare(mia(prompt), ("chosen",)).rows[0])
    assert view.scored.strip().startswith("a cat") and "Image1:<image" in view.text
    begun = own.reader.begun(prompt, "a c", "x")
    assert begun.ids[: begun.start] == seen.ids[: begun.start]


def test_pictures_of_a_benchmark_stand_in_its_question(folders: dict[str, Path], tmp_path: Path) -> None:
    row = (
        '{"id": "1", "question": "<image> or <image>?", "images": ["a.png", "b.png"], "options": ["x", "y"], '
    )
    (tmp_path / "q.jsonl").write_text(row + '"answer": "A", "question_type": "multi-choice"}')
    (question,) = Mantis(str(tmp_path / "q.jsonl"), str(tmp_path)).ask()
    parts = tuple(
        Part("image", picture(i)) if part.kind == "image" else part
        for i, part in enumerate(question.turns[0].parts)
    )
    own = build_vlm(folders["llava"])
    ids = own.reader.prompt((Message("user", parts),), "x").ids
    assert "USER: <image><image><image><image> or <image><image><image><image>?\n" in own.tokenizer.decode(
        ids
    )
