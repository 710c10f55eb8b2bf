"""`check`: every unusable row by its rule, repeats and leaks, tokens, the samples shown, and one step."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import listing
from inspected import CONTROL, KTO, inspect_rows, pair, text_config, write
from tiny_runs import Bench
from transformers import AutoTokenizer

from mmalign.training.inspection import _counts as counts
from mmalign.training.inspection.check import inspect


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("bench"))
    torch.set_num_threads(threads)


# ---------------------------------------------------------------- counting alone


@pytest.mark.parametrize(
    ("reason", "rule"),
    [
        ("a.jsonl row 3: chosen: has 140 tokens, more than 128", "chosen: has # tokens, more than #"),
        ("a.jsonl row 3, role 'chosen', image 'x/7.png': the file is empty",
         "role 'chosen', image '…': the file is empty"),
        ("a.jsonl row 3: the objective needs the label 'score', which is missing",
         "the objective needs the label 'score', which is missing"),
        ("a.jsonl row 3: tie: must be true or false, got 'maybe'", "tie: must be true or false, got '…'"),
        ("a.jsonl row 3: id 'r1' is also that of a.jsonl row 12", "id '…' is also that of a.jsonl row #"),
    ],
)  # fmt: skip
def test_a_rule_is_a_reason_without_what_is_the_rows_own(reason: str, rule: str) -> None:
    assert counts.rule_of(reason, "a.jsonl row 3") == rule


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (range(1, 101), (1, 50, 95, 100)),
        ([7], (7, 7, 7, 7)),
        ([4, 1, 3, 2], (1, 2, 4, 4)),
        ([1] * 19 + [9], (1, 1, 1, 9)),  # 95 % of 20 rows are 19
        ([1] * 18 + [9, 9], (1, 1, 9, 9)),
    ],
)
def test_spreads(values: Sequence[int], expected: tuple[int, ...]) -> None:
    found = counts.spread("chosen", "prompt", values)
    assert (found.minimum, found.median, found.p95, found.maximum) == expected
    assert found.count == len(values)


# ---------------------------------------------------------------- rows of text


def test_sound_rows(bench: Bench, tmp_path: Path) -> None:
    rows = [pair(i, rejected=" no" + " never" * (i % 3)) for i in range(8)]
    before = listing(bench.folder)
    said: list[str] = []
    path, heldout = write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", [pair(20), pair(21)])
    here = listing(tmp_path)
    found = inspect(text_config(bench, path, heldout), said.extend)
    assert found.sound and found.findings == () and found.reasons == () and found.leaks == ()
    assert found.usable == {"training": 8, "held-out": 2}
    assert listing(bench.folder) == before and listing(tmp_path) == here, "nothing is written"
    assert "no findings: every row can be used" in said

    tokenizer = AutoTokenizer.from_pretrained(bench.model["text"]["path"])
    every = [*rows, pair(20), pair(21)]
    whole = [len(tokenizer(row["prompt"] + row["rejected"]).input_ids) + 1 for row in every]  # and the end
    spread = {(one.what, one.kind): one for one in found.tokens}
    assert spread["rejected", "all"].maximum == max(whole)
    assert spread["rejected", "all"].minimum == min(whole)
    heads = [len(tokenizer(row["prompt"]).input_ids) for row in every]
    assert (spread["chosen", "prompt"].minimum, spread["chosen", "prompt"].maximum) == (
        min(heads),
        max(heads),
    )
    assert found.limit == 128


SEEING = {"prompt": "see <image>", "images": ["a.png"]}
BROKEN: dict[str, tuple[str, list[Any]]] = {
    "no JSON": ("JSON", ['{"prompt": "a"', '{"prompt": "of b"']),
    "no answer": ("field 'chosen': is missing", [pair(30, chosen=None), pair(31, chosen=None)]),
    "empty": ("is empty; a response needs something", [pair(32, rejected="  "), pair(33, rejected="")]),
    "control token": ("control token", [pair(34, chosen=f"a{CONTROL}"), pair(35, chosen=f"{CONTROL} b")]),
    "too long": ("more than the # allowed", [pair(36, chosen=" fox" * 150), pair(37, chosen=" box" * 170)]),
    "same id": ("is also that of", [pair(0), pair(1)]),
    "weight": ("must be above #", [pair(40, weight=0), pair(41, weight=-2.5)]),
    "other kind": ("needs the role 'rejected'", [{"prompt": p, "completion": "b"} for p in "ac"]),
    "picture": ("reads text only", [pair(44, **SEEING), pair(45, **SEEING)]),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_rows_are_counted_by_rule(bench: Bench, tmp_path: Path, kind: str) -> None:
    words, broken = BROKEN[kind]
    if kind == "picture":
        from adapters.tiny_vlm import picture

        picture(1).save(tmp_path / "a.png")
    rows = [pair(0), broken[0], pair(1), pair(2), broken[1], *(pair(i) for i in range(3, 7))]
    found = inspect_rows(bench, tmp_path, rows)
    (reason,) = found.reasons
    assert words in reason.rule, reason.rule
    assert reason.count == 2 and reason.part == "training"
    # a broken row never stands in for a sound one that came before it
    assert reason.rows == ("rows.jsonl row 2", "rows.jsonl row 5") or kind == "same id"
    assert reason.rows[0] in reason.example
    assert found.usable == {"training": 7}
    assert len(found.findings) == 1 and found.findings[0].startswith("2 training rows cannot be used")
    assert found.trial is not None, "the rows that are left still make a step"


def test_every_rule_at_once(bench: Bench, tmp_path: Path) -> None:
    rows = [
        *(pair(i) for i in range(6)),
        *(row for kind in BROKEN if kind != "picture" for row in BROKEN[kind][1]),
    ]
    heldout = write(tmp_path / "held.jsonl", [pair(60), pair(61, rejected=None), pair(62)])
    found = inspect(text_config(bench, write(tmp_path / "rows.jsonl", rows), heldout))
    assert [one.count for one in found.reasons if one.part == "training"] == [2] * (len(BROKEN) - 1)
    assert [one.rule for one in found.reasons if one.part == "held-out"] == ["field 'rejected': is missing"]
    assert found.usable == {"training": 6, "held-out": 2}
    assert len(found.findings) == len(BROKEN)


def test_only_three_rows_are_named(bench: Bench, tmp_path: Path) -> None:
    rows = [*(pair(i) for i in range(4)), *(pair(i, chosen="") for i in range(4, 9))]
    (reason,) = inspect_rows(bench, tmp_path, rows).reasons
    assert reason.count == 5
    assert reason.rows == ("rows.jsonl row 5", "rows.jsonl row 6", "rows.jsonl row 7")


def test_too_few_rows_are_left(bench: Bench, tmp_path: Path) -> None:
    rows = [pair(0), pair(1), pair(2), pair(3, chosen="")]
    found = inspect_rows(bench, tmp_path, rows)
    assert found.trial is None and found.samples == ()
    assert len(found.findings) == 2 and "train.batch 4 is larger than the data (3 rows)" in found.findings[1]
    (tmp_path / "whole").mkdir()
    whole = inspect_rows(bench, tmp_path / "whole", rows[:3])  # no row is to blame: the config is
    assert whole.trial is None and whole.usable == {"training": 3} and len(whole.tokens) > 0
    assert len(whole.findings) == 1 and not whole.sound
    assert whole.findings[0].startswith("no step can be made: train.batch 4 is larger than the data (3 rows)")


def test_nothing_is_left(bench: Bench, tmp_path: Path) -> None:
    found = inspect_rows(bench, tmp_path, ["{", "}", "["])
    assert found.usable == {} and found.trial is None and found.tokens == ()
    assert sum(one.count for one in found.reasons) == 3


def test_cut_rows_are_no_findings(bench: Bench, tmp_path: Path) -> None:
    rows = [pair(0, chosen=" fox" * 60), pair(1, rejected=" box" * 60), *(pair(i) for i in range(2, 6))]
    found = inspect_rows(bench, tmp_path, rows, model={"max_length": 40, "over_long": "cut_response"})
    assert found.sound and found.shortened == {"responses cut to fit": 2}
    assert "responses cut to fit: 2" in found.warnings
    assert {one.maximum for one in found.tokens if one.kind == "all"} == {40} and found.limit == 40


def test_clashes_between_sources(bench: Bench, tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [pair(i) for i in range(4)])
    two = write(tmp_path / "two.jsonl", [pair(i, prompt=f"tell {i}") for i in range(3, 7)])
    data = [{"source": "jsonl", "path": str(path)} for path in (one, two)]
    tree = bench.tree("text", "never", train={"batch": 4})
    from mmalign.config import from_tree

    found = inspect(from_tree(tree | {"data": data}, "test"))
    (reason,) = found.reasons
    assert reason.rows == ("two.jsonl row 1",) and "another source" in reason.rule
    assert found.usable == {"training": 7}


# ---------------------------------------------------------------- pairs, repeats, leaks


def test_ties_equal_scores_and_equal_sides(bench: Bench, tmp_path: Path) -> None:
    rows = [
        *(pair(i) for i in range(5)),
        pair(5, tie=True),
        pair(6, chosen_score=3.0, rejected_score=3.0),
        pair(7, chosen_score=3.0, rejected_score=2.0),
        pair(8, chosen=" same", rejected=" same"),
    ]
    found = inspect_rows(bench, tmp_path, rows)
    assert found.ties == 1 and found.sides is not None
    assert (found.sides.pairs, found.sides.identical, found.sides.equal_scores) == (8, 1, 1)
    assert found.sound and any("equal scores" in one for one in found.warnings)


def test_repeats_and_swapped_pairs(bench: Bench, tmp_path: Path) -> None:
    rows = [
        *(pair(i) for i in range(5)),
        pair(5, prompt="say 0", chosen=" no 0", rejected=" yes 0"),  # row 1 the other way round
        pair(6, prompt="say 1", chosen=" yes 1", rejected=" no 1"),  # row 2 once more
        pair(7, prompt="say 2", chosen=" another"),  # the prompt of row 3
    ]
    found = inspect_rows(bench, tmp_path, rows)
    assert found.repeats.conflicts == 2
    assert found.repeats.conflict_rows == ("rows.jsonl row 1", "rows.jsonl row 6")
    assert found.repeats.samples == 2 and found.repeats.prompts == 6
    assert found.sound, "repeats are warnings"
    assert any("contradict" in one for one in found.warnings)


@pytest.mark.parametrize(("longer", "warned"), [(5, "shorter"), (6, ""), (13, ""), (14, "longer")])
def test_longer_and_shorter_chosen_responses(bench: Bench, tmp_path: Path, longer: int, warned: str) -> None:
    """13 of 20 are 65 %, which is not yet too many. One has sides of one length."""
    sides = [" yes yes yes"] * longer + [" y"] * (19 - longer) + [" no yes"]
    rows = [pair(i, chosen=chosen, rejected=" no no") for i, chosen in enumerate(sides)]
    found = inspect_rows(bench, tmp_path, rows)
    assert found.sides is not None
    assert (found.sides.chosen_longer, found.sides.chosen_shorter) == (longer, 19 - longer)
    told = [f"in 70% of the pairs the chosen response is the {warned} one: length may be learnt"]
    assert [one for one in found.warnings if "length" in one] == (told if warned else [])


def test_scores_that_speak_against_the_order(bench: Bench, tmp_path: Path) -> None:
    scores = [(-3.0, 0.0), (1.0, 1.0), (2.0, 1.0), (0.5, 0.75)]
    rows = [
        *(pair(i, chosen_score=one, rejected_score=other) for i, (one, other) in enumerate(scores)),
        pair(4),
        pair(5, chosen_score=-1.0),
    ]
    found = inspect_rows(bench, tmp_path, rows)
    rule = "2 of 4 rows: the chosen side's score is below the rejected one's"
    assert f"training: {rule}" in found.warnings and found.sound
    assert any(rule in line for line in found.sources[0].lines)


def test_leaks(bench: Bench, tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [pair(i) for i in range(6)])
    held = [pair(2, id="h0"), pair(9, prompt="say 3"), pair(10), pair(11, chosen=" yes 4", rejected=" no 4")]
    found = inspect(text_config(bench, path, write(tmp_path / "held.jsonl", held)))
    sample, prompt = found.leaks
    assert (sample.what, sample.count, sample.rows) == (
        "sample",
        1,
        ("held-out held.jsonl row 1, training train.jsonl row 3",),
    )
    assert (prompt.what, prompt.count, prompt.rows) == (
        "prompt",
        1,
        ("held-out held.jsonl row 2, training train.jsonl row 4",),
    )
    assert len(found.findings) == 2


def test_rows_kept_back_of_one_file(bench: Bench, tmp_path: Path) -> None:
    """A file with a held-out share is one source: its broken rows count once."""
    rows = [*(pair(i) for i in range(9)), pair(9, chosen=""), pair(10, prompt="say 0")]
    found = inspect_rows(bench, tmp_path, rows, data={"heldout": 4})
    assert [one.part for one in found.sources] == ["training"]
    assert sum(one.count for one in found.reasons) == 1
    assert sum(found.usable.values()) == 10


def test_single_responses_of_pairs(bench: Bench, tmp_path: Path) -> None:
    """The two halves of a pair share a prompt but are one row; a half against another is a contradiction."""
    rows = [*(pair(i) for i in range(4)), pair(4, prompt="say 0", chosen=" no 0", rejected=" else")]
    found = inspect_rows(bench, tmp_path, rows, objective=KTO)
    assert found.usable == {"training": 10} and found.sides is None
    assert found.repeats.prompts == 2
    assert found.repeats.conflict_rows == ("rows.jsonl row 1", "rows.jsonl row 5")
    assert found.trial is not None and found.trial.expected_loss == pytest.approx(found.trial.loss, abs=1e-6)
    lists = {"prompt": "a", "responses": ["b", "c"], "scores": [1, 2]}
    found = inspect_rows(bench, tmp_path, [*rows, lists], objective=KTO)
    (reason,) = found.reasons
    assert reason.rule == "neither a pair nor a labelled completion" and reason.rows == ("rows.jsonl row 6",)


def test_what_a_source_gives_is_told_apart_from_its_rows(bench: Bench, tmp_path: Path) -> None:
    lists = [
        {"prompt": f"say {n}", "responses": [" a", " b", " c"], "scores": [n, n + 1, n + 2]} for n in range(3)
    ]
    config = text_config(bench, write(tmp_path / "lists.jsonl", lists), data={"pairs": {"strategy": "all"}})
    said: list[str] = []
    inspect(config, said.extend)
    assert any(line.endswith("3 rows, 3 of sound form, giving 9 samples") for line in said)
    assert any("other rows have too: 0 (pairs of one row count once)" in line for line in said)
    assert any(line.startswith("3 samples that training begins with") for line in said)
    said.clear()
    rows = [pair(n) for n in range(5)] + [pair(5, tie=True), {"prompt": "say"}]
    inspect(text_config(bench, write(tmp_path / "tie.jsonl", rows), data={"ties": "drop"}), said.extend)
    assert any(line.endswith("7 rows, 6 of sound form, giving 5 samples") for line in said)
    assert not any("count once" in line for line in said)
