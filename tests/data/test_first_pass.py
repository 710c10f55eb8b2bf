"""The checks before the first step, and splitting pairs."""

from functools import partial

import pytest
from samples import example, pair, single, text_of

from mmalign.data._first_pass import first_pass, require, require_unique, unpair
from mmalign.types import PreferenceSample, UserError

MANY = [pair(str(number)) for number in range(40)]


def _refuse(names: set[str], sample: PreferenceSample) -> tuple[str, ...]:
    if sample.id in names:
        raise UserError(f"{sample.origin}: too long")
    return ()


def test_what_is_shortened_is_counted() -> None:
    found = first_pass(MANY[:5], lambda sample: ("responses cut",) * (int(sample.id) % 3))
    assert found.shortened == {"responses cut": 0 + 1 + 2 + 0 + 1}
    assert found.lines() == ["data: responses cut: 4"]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.multiprocess)])
def test_broken_rows_stop_or_are_listed(workers: int) -> None:
    check = partial(_refuse, {"17", "33"})
    with pytest.raises(UserError, match="^test row 17: too long$"):
        first_pass(MANY, check, "stop", workers)
    result = first_pass(MANY, check, "skip", workers)
    assert [sample.id for sample in result.kept] == [s.id for s in MANY if s.id not in ("17", "33")]
    assert [(row.id, row.origin) for row in result.skipped] == [("17", "test row 17"), ("33", "test row 33")]
    assert result.lines() == [
        "data: 2 of 40 rows left out (5.0 %); that is more than 1 %, so look at the data; "
        "the first: test row 17: too long"
    ]
    assert first_pass(MANY, partial(_refuse, set()), "skip", workers).lines() == []


def test_nothing_usable_is_an_error_under_skip_too() -> None:
    with pytest.raises(UserError, match="no usable row in 2; the first: test row 0: too long"):
        first_pass(MANY[:2], partial(_refuse, {"0", "1"}), "skip")


def test_roles_and_labels_that_the_objective_needs() -> None:
    require([pair("a", margin=1.0)], ("chosen", "rejected"), ("margin",))
    with pytest.raises(UserError, match="test row a: .* role 'completion'; the row has chosen, rejected"):
        require([pair("a")], ("completion",), ())
    with pytest.raises(UserError, match="test row b: .* label 'margin'"):
        require([pair("a", margin=1.0), pair("b")], ("chosen",), ("margin",))
    ranked = PreferenceSample("r", {"responses": (example("p", "x", rank=1), example("p", "y", rank=2))})
    require([ranked], ("responses",), ("rank",))
    with pytest.raises(UserError, match="label 'score'"):
        require([ranked], ("responses",), ("score",))
    with pytest.raises(UserError, match="the row has responses; data.pairs makes pairs of lists"):
        require([ranked], ("chosen",), ())


def test_ids_must_differ_between_sources() -> None:
    require_unique([[pair("a")], [pair("b")]])
    with pytest.raises(UserError, match="id 'a' is also that of test row a, another source"):
        require_unique([[pair("a")], [pair("b"), pair("a")]])


def test_unpairing_labels_both_sides_and_counts() -> None:
    samples = [pair("a", user="u", margin=2.0), pair("b", tie=1.0), single("c"), pair("d", tie=0.0)]
    result = unpair(samples)
    assert [(s.id, s.labels) for s in result.samples] == [
        ("a/chosen", {"user": "u", "binary": 1.0}),
        ("a/rejected", {"user": "u", "binary": 0.0}),
        ("c", {"binary": 1.0}),
        ("d/chosen", {"binary": 1.0}),
        ("d/rejected", {"binary": 0.0}),
    ]
    assert text_of(result.samples[1], "completion") == ("prompt a", "rejected a")
    assert result.lines() == [
        "data: split 2 pairs into 4 labelled responses",
        "data: 1 tied pairs left out: neither side is good or bad",
    ]
    with pytest.raises(UserError, match="all pairs are ties"):
        unpair([pair("b", tie=1.0)])
    with pytest.raises(UserError, match="neither a pair nor a labelled completion"):
        unpair([PreferenceSample("r", {"responses": (example("p", "x"),)}, origin="test row r")])
