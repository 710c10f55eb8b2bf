"""A language model as a judge: its question, the reading of its verdict, its cache, and what callers do."""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from adapters import tiny_lm, tiny_vlm
from writers import own_writers

from mmalign._build import build_named, named_tree
from mmalign._names import KINDS
from mmalign.rewards._said import read_number
from mmalign.rewards._scoring import ready, score_all, score_readable
from mmalign.rewards.llm_judge import LlmJudge
from mmalign.types import InformedJudge, Message, Part, UserError
from mmalign.writers.python_function import PythonFunction

GRADED = {"name": "python_function", "function": "writers.own_writers:graded"}
LONGER = {"name": "python_function", "function": "writers.own_writers:longer"}
PLAIN = tiny_lm.plain("why?")


def judge(writer: dict[str, Any] = GRADED, **changes: Any) -> LlmJudge:
    return LlmJudge(writer, **({"template": "{prompt} {response}", "high": 100.0} | changes))


def verdicts(one: LlmJudge, *answers: str) -> list[Any]:
    found = one.verdicts([PLAIN] * len(answers), [Part("text", answer) for answer in answers])
    return [None if scores is None else scores["score"] for scores in found]


# ---------------------------------------------------------------- the question


def test_the_question_is_the_template_filled_once() -> None:
    own_writers.ASKED.clear()
    one = judge(template="Q {prompt} A {response} {{prompt}}", max_words=2)
    verdicts(one, "{prompt} two three")
    assert own_writers.ASKED == ["Q why? A {prompt} two {prompt}"]
    talk = tiny_lm.chat(("system", "be kind"), ("user", "who?"))
    one.verdicts([talk], [Part("text", "I")])
    assert own_writers.ASKED[1] == "Q system: be kind\nuser: who? A I {prompt}"


def test_media_of_prompt_and_response_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Message, ...]] = []

    def write(turns: tuple[Message, ...], seed: int) -> str:
        seen.append(turns)
        return "Final Score: 3"

    monkeypatch.setattr(own_writers, "graded", write)
    picture, clip = tiny_vlm.picture(1), tiny_vlm.clip(2)
    asked = tiny_vlm.looking(clip, question="what?")
    answer = Part("image", picture)
    assert judge(template="{prompt}: {response}!").verdicts([asked], [answer]) == [{"score": 3.0}]
    ((only,),) = seen
    assert [part.kind for part in only.parts] == ["video", "text", "image", "text"]
    assert only.parts[0].data is clip and only.parts[2].data is picture
    assert [only.parts[i].data for i in (1, 3)] == ["what?: ", "!"]
    judge(media=False).verdicts([asked], [Part("text", "x")])
    assert [part.kind for part in seen[1][0].parts] == ["text"]


def test_what_a_template_wants_must_be_told() -> None:
    one = judge(template="{reference} {caption} {response}")
    assert isinstance(one, InformedJudge) and one.wants == {"reference", "caption"}
    with pytest.raises(UserError, match="llm_judge wants the caption of every prompt, which it is not told"):
        ready(one, told=frozenset({"reference"}))
    with pytest.raises(UserError, match="must be told the caption and the reference"):
        one.verdicts([PLAIN], [Part("text", "x")])
    told = [{"reference": "a b", "caption": "c"}]
    assert score_readable(one, [PLAIN], [Part("text", "d")], told=told) == [{"score": 4.0}]


# ---------------------------------------------------------------- the verdict


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Final Score: 8", 8.0),
        ("final score - **10**.", 10.0),
        ("Final Score: 9 ... no. Final Score: 7", 7.0),  # the last counts
        ("Final Score: 10/10", 10.0),
        ("Final Score: 8.5", None),  # no whole number
        ("Final Score: 8,5", None),
        ("Final Score: 0", None),  # out of range
        ("Final Score: -3", None),
        ("Final Score: 1000", None),
        ("Final Score: eight", None),
        ("The score is 8", None),
        ("", None),
    ],
)
def test_verdicts_are_read_strictly(text: str, score: float | None) -> None:
    assert verdicts(judge(high=10.0), f"says {text}|") == [score]


def test_numbers_are_numbers_and_never_parts_of_others() -> None:
    grade = re.compile(r"rating:\s*(\d)", re.IGNORECASE)
    for text, found in [
        ("Rating: 9", 9.0),
        ("rating: 10", None),
        ("rating: 3.5", None),
        ("rating: -3", None),
    ]:
        assert read_number(text, grade, "last") == found, text
    assert read_number("12", re.compile(r"\d(\d)"), "last") is None
    assert read_number("rating: 3 rating: 4", grade, "only") is None
    assert read_number("rating: 3 rating: 3", grade, "only") == 3.0
    assert verdicts(judge(high=10.0), "says Final Score: 10|", "says Final Score: 9|") == [10.0, 9.0]


def test_own_patterns_ranges_and_refused_answers() -> None:
    one = judge(pattern=r"grade\s*=\s*(\d+\.\d)", low=0.0, high=1.0, whole=False)
    assert verdicts(one, "says GRADE = 0.7|", "says grade = 7|", "refused", "says no|") == [
        0.7,
        None,
        None,
        None,
    ]


def test_score_refuses_what_others_count() -> None:
    with pytest.raises(UserError, match="llm_judge: the verdict on response 2 of 2 cannot be read"):
        score_all(judge(), [PLAIN] * 2, [Part("text", "x"), Part("text", "says no|")])
    assert judge().score(PLAIN, Part("text", "x")) == {"score": 2.0}


# ---------------------------------------------------------------- comparing two


def test_two_answers_are_compared_in_the_order_given() -> None:
    one = judge(LONGER, compare_template="1: {first} 2: {second}")
    pairs = [("long answer", "x"), ("x", "long answer"), ("aa", "bb"), ("odd", "long"), ("mute", "x")]
    twos = [(Part("text", a), Part("text", b)) for a, b in pairs]
    found = one.compare_many([PLAIN] * 5, twos, [{}] * 5)
    assert found == ["first", "second", "tie", "first", None] and one.compares
    assert not judge().compares
    with pytest.raises(UserError, match="compare_template: is needed to compare two answers"):
        judge().compare_many([PLAIN], twos[:1], [{}])


# ---------------------------------------------------------------- the cache


def test_answers_are_kept_by_writer_and_question(tmp_path: Path) -> None:
    own_writers.ASKED.clear()
    one = judge(cache=str(tmp_path))
    assert verdicts(one, "a", "a b", "a") == [2.0, 3.0, 2.0] and len(own_writers.ASKED) == 2
    assert verdicts(judge(cache=str(tmp_path), high=2.5), "a b", "a") == [None, 2.0]  # the answer is kept
    assert len(own_writers.ASKED) == 2
    verdicts(judge(cache=str(tmp_path), template="{response}"), "a")  # another question
    verdicts(judge(cache=str(tmp_path), seed=1), "a")  # another seed
    verdicts(judge(LONGER, cache=str(tmp_path)), "a")  # another writer
    assert len(own_writers.ASKED) == 4
    verdicts(one, "refused")
    verdicts(one, "refused")  # no answer is asked for again
    assert len(own_writers.ASKED) == 6
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 5 and all(path.suffix == ".json" for path in files)
    for path in files:
        path.write_text("{")
    assert verdicts(one, "a") == [2.0] and len(own_writers.ASKED) == 7  # a broken file is no answer
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="cache: .*file takes no verdicts"):
        verdicts(judge(cache=str(blocked)), "a")


def test_a_model_that_changed_is_another_writer(tmp_path: Path) -> None:
    model = {"adapter": "text", "path": tiny_lm.save_tiny(tmp_path / "lm")}
    generation = {"max_new_tokens": 60, "temperature": 0, "stop": ["e"]}  # ends at a letter, not cut off
    local = {"name": "local", "model": model | {"generation": generation}}
    cached = str(tmp_path / "cache")
    first = judge(local, cache=cached, pattern="(.)", whole=False)
    said = first.said([PLAIN])
    assert said != [None]
    tiny_lm.save_tiny(tmp_path / "lm", seed=1)
    assert judge(local, cache=cached)._who_now != first._who_now
    assert (
        judge(local | {"batch": 1}, cache=cached)._who_now != first._who_now
    )  # the files changed, not the batch
    tiny_lm.save_tiny(tmp_path / "lm")
    again = judge(local | {"batch": 1}, cache=cached)
    assert again._who_now == first._who_now and again.said([PLAIN]) == said
    assert "_adapter" not in vars(again._asked)  # nothing was loaded to answer


def test_a_function_that_changed_is_another_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    code = tmp_path / "own_grader.py"
    writer = {"name": "python_function", "function": "own_grader:grade"}
    for points in (3.0, 9.0, 3.0):
        code.write_text(f"def grade(turns, seed):\n    return 'Final Score: {points:g}'\n")
        sys.modules.pop("own_grader", None)
        importlib.invalidate_caches()
        assert verdicts(judge(writer, cache=str(tmp_path / "kept")), "a") == [points]
    monkeypatch.delitem(sys.modules, "own_grader")
    assert len(list((tmp_path / "kept").rglob("*.json"))) == 2


def test_seeds_do_not_hang_on_whether_answers_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def write(turns: tuple[Message, ...], seed: int) -> str:
        seeds.append(seed)
        return "Final Score: 3"

    monkeypatch.setattr(own_writers, "graded", write)
    monkeypatch.setattr(PythonFunction, "content", lambda writer: "as it is now")
    for changes in ({}, {"cache": str(tmp_path)}, {"seed": 1}):
        verdicts(judge(**changes), "a")
    assert seeds[0] == seeds[1] != seeds[2]


# ---------------------------------------------------------------- sections


def test_sections_are_checked_with_the_writer() -> None:
    section: dict[str, Any] = {"name": "llm_judge", "writer": GRADED}
    built = build_named(KINDS["judge"], section, "judge", allow_code=True)
    assert built.unchecked and built == LlmJudge(GRADED)
    tree = named_tree(KINDS["judge"], built)
    assert build_named(KINDS["judge"], json.loads(json.dumps(tree)), "judge", True) == built
    with pytest.raises(UserError, match="judge.writer.function: .* would import code from outside"):
        build_named(KINDS["judge"], section, "judge", allow_code=False)
    for change, message in (
        ({"writer": {"name": "nobody"}}, "judge.writer.name: no writer is called 'nobody'|judge.writer: "),
        ({"writer": {"name": "endpoint", "url": "x", "model": "m"}}, "judge.writer.url: must be an address"),
        ({"template": "no place"}, r"judge.template: needs the place \{response\}"),
        ({"template": "{response} {answer}"}, r"judge.template: knows no place \{answer\}, only"),
        ({"compare_template": "{first}"}, r"judge.compare_template: needs the place \{second\}"),
        ({"pattern": "("}, "judge.pattern: no regular expression"),
        ({"pattern": "a"}, "judge.pattern: must have one group"),
        ({"low": 3.0, "high": 3.0}, "judge.low: must be below high 3, got 3"),
        ({"max_words": 0}, "judge.max_words: must be above 0"),
        ({"cache": ""}, "judge.cache: must name a folder"),
    ):
        with pytest.raises(UserError, match=message):
            build_named(KINDS["judge"], section | change, "judge", allow_code=True)
