"""Every field of every config section has a meaning, which listings and the schema show."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import pytest

from mmalign._fields import described, every_nested, meanings, plain, shown
from mmalign._names import KINDS, class_of, names
from mmalign.builders._config import BuildConfig
from mmalign.catalogue import TOPICS, shapes, told, topics_of
from mmalign.config import RunConfig, Train, schema


@dataclass(frozen=True)
class Inner:
    """Nested."""

    size: int = 3  # of one part


@dataclass(frozen=True)
class Outer:
    """One field of each kind of comment."""

    # no comment of this field, as a line stands between

    bare: int
    behind: str = "#"  # what stands behind
    # what stands above,
    # in two lines
    above: str | None = None
    long: str = (
        "words with # in them "
        "over several lines"
    )  # fmt: skip
    hushed: int = 0  # noqa: E501
    """Not a comment."""
    inner: Inner = field(default_factory=lambda: Inner(5))  # parts
    many: tuple[Inner, ...] = ()  # more of them
    hidden: int = field(init=False, default=0)


@dataclass(frozen=True)
class Derived(Outer):
    """Another default, and another meaning."""

    bare: int = 1
    behind: str = "b"  # said anew


def test_a_meaning_is_the_comment_behind_a_field_or_the_one_right_above() -> None:
    assert meanings(Outer) == {
        "bare": "", "behind": "what stands behind", "above": "what stands above, in two lines",
        "long": "", "hushed": "", "inner": "parts", "many": "more of them", "hidden": "",
    }  # fmt: skip
    assert meanings(Derived) == {**meanings(Outer), "behind": "said anew"}


def test_a_class_without_a_file_has_no_meanings() -> None:
    made: dict[str, Any] = {"__name__": "nowhere"}
    exec("from dataclasses import dataclass\n@dataclass\nclass Made:\n    a: int = 0  # lost", made)
    assert meanings(made["Made"]) == {"a": ""}


def test_fields_are_described_with_nested_ones_further_in() -> None:
    assert described(Outer)[:3] == ["bare: int", "behind: str = #", "    what stands behind"]
    assert described(Outer)[-8:] == [
        *("inner: Inner", "    parts", "    size: int = 5", "        of one part"),
        *("many: list[Inner] = []", "    more of them", "    size: int = 3", "        of one part"),
    ]
    assert every_nested(Outer) == [Outer, Inner]


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (Literal["a", 1, True] | None, "a | 1 | true | null"),
        (tuple[float, ...], "list[float]"),
        (tuple[int, str], "list[int, str]"),
        (dict[str, Any], "section"),
        (tuple[dict[str, Any], ...], "list[section]"),
        (dict[str, float | None], "mapping[str, float | null]"),
    ],
)
def test_types_read_as_in_a_config(hint: Any, text: str) -> None:
    assert shown(hint) == text


def test_values_read_as_in_a_config() -> None:
    assert plain((1.5, None, True, "a b", {"k": ()})) == "[1.5, null, true, a b, {k: []}]"
    assert plain("") == '""' and plain("a\nb") == '"a\\nb"' and plain(" a") == '" a"'


def every_section() -> Iterator[tuple[str, type]]:
    """Everything that a config may hold, and the configs themselves."""
    yield from (("config", RunConfig), ("build", BuildConfig))
    for topic, kind in TOPICS.items():
        for name in (*names(KINDS[kind]), *shapes(topic)):
            yield f"{topic}: {name}", class_of(KINDS[kind], name)


def test_every_field_of_everything_has_a_meaning() -> None:
    seen = 0
    for where, section in every_section():
        for cls in every_nested(section):
            for name in (one.name for one in fields(cls) if one.init):
                words = meanings(cls)[name]
                assert len(words) > 4, f"{where}: {cls.__name__}.{name} has no comment that says what it is"
                seen += 1
    assert seen > 800


def undescribed(node: Any, where: str = "") -> Iterator[str]:
    """Where a schema has properties without a description; those that choose by name have none."""
    if isinstance(node, list):
        for inner in node:
            yield from undescribed(inner, where)
    if isinstance(node, dict):
        for name, rule in node.get("properties", {}).items():
            chosen = "const" in rule or rule.get("pattern") == ":" or "exclusiveMinimum" in rule
            if not chosen and not rule.get("description"):
                yield f"{where}.{name}"
        for key, inner in node.items():
            yield from undescribed(inner, f"{where}.{key}")


def test_the_schema_says_what_every_field_means() -> None:
    whole = schema()
    assert list(undescribed(whole)) == []
    assert whole["properties"]["train"]["properties"]["lr"]["description"] == meanings(Train)["lr"]
    (_, nested), *_ = [
        (one["title"], one["properties"]["generation"])
        for one in whole["properties"]["model"]["anyOf"]
        if one.get("title") == "text"
    ]
    assert nested["description"] == "how responses are sampled"
    assert nested["properties"]["temperature"]["description"] == "divides the logits; 0 is greedy"


def test_one_name_is_told_with_what_its_fields_mean() -> None:
    text = told("online", topics_of("online"))
    assert text.startswith("online (section of a config)\n  Rounds: the policy")
    assert "  steps: int = 1\n      optimizer steps per round\n" in text
    assert "\n      counts: list[int] = [2, 3, 4, 5]\n" in told("mia_dpo", topics_of("mia_dpo"))
    both = json.loads(told("re_align", topics_of("re_align"), as_json=True))
    assert list(both) == ["objectives", "formats", "builders"]
    assert both["builders"]["properties"]["top_k"]["description"] == "pictures tried, likest first"
    assert "prompts: section" in told("build", topics_of("build"))
