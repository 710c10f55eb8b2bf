"""A user's own function as a writer: answers, permission, refusals."""

import hashlib
from pathlib import Path

import pytest
from adapters import tiny_lm
from writers import own_writers

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.types import Message, UserError
from mmalign.writers.python_function import PythonFunction


def test_it_is_asked_question_by_question() -> None:
    writer = PythonFunction("writers.own_writers:echo")
    writer.ready()
    asked = [tiny_lm.chat(("user", "why")), (Message("user", ()),), tiny_lm.plain("who")]
    assert writer.write(asked, [1, 2, 3]) == ["why 1", None, "who 3"]
    with pytest.raises(ValueError, match="one seed per question"):
        writer.write(asked, [1])


def test_what_is_no_answer_is_one_line() -> None:
    with pytest.raises(UserError, match="own_writers:number: must return a text or None, got 7"):
        PythonFunction("writers.own_writers:number").write([tiny_lm.plain("x")], [7])
    for name, message in (("nothing", "has no nothing"), ("NUMBER", "must be a function, is int")):
        with pytest.raises(UserError, match=message):
            PythonFunction(f"writers.own_writers:{name}").ready()
    with pytest.raises(ValueError, match="function: must be package.module:function"):
        PythonFunction("echo")


def test_its_own_mistakes_are_told_as_its_own() -> None:
    with pytest.raises(UserError) as caught:
        PythonFunction("writers.own_writers:boom").write([tiny_lm.plain("x")], [7])
    line = "writer python_function writers.own_writers:boom raised ValueError: my bug (--debug shows where)"
    assert str(caught.value) == line and isinstance(caught.value.__cause__, ValueError)
    form = r"own_writers:text_alone: must be f\(turns, seed\) -> str \| None, is text_alone\(text: str\)"
    with pytest.raises(UserError, match=form):
        PythonFunction("writers.own_writers:text_alone").ready()
    for name in ("again", "echo"):
        PythonFunction(f"writers.own_writers:{name}").ready()


def test_what_tells_its_states_apart_is_its_file() -> None:
    own = hashlib.sha256(Path(own_writers.__file__).read_bytes()).hexdigest()
    assert PythonFunction("writers.own_writers:echo").content() == own
    assert PythonFunction("writers.own_writers:again").content() == own, "an object that can be called"
    assert PythonFunction("math:sqrt").content() == PythonFunction("builtins:len").content() == ""
    assert PythonFunction("functools:reduce").content() == ""


def test_code_needs_permission() -> None:
    section = {"name": "python_function", "function": "writers.own_writers:echo"}
    assert build_named(KINDS["helper"], section, "helper", True) == PythonFunction("writers.own_writers:echo")
    with pytest.raises(UserError, match=r"helper.function: writers.own_writers:echo would import code"):
        build_named(KINDS["helper"], section, "helper", False)
