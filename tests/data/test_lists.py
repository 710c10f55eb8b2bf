"""Lists of scored responses as pairs: rules, ties, counts, held-out lists, pairs ordered anew."""

from pathlib import Path
from typing import Any

import pytest
from data.format_rows import answer_of, read_rows

from mmalign.config import from_tree, to_tree
from mmalign.data._pairing import PairRule
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.types import UserError

LIST = {"id": "L", "prompt": "P", "responses": ["a", "b", "c"], "scores": [1, 3, 1]}
SIDES = ("chosen", "rejected")


def sides(data: Any) -> list[tuple[str, ...]]:
    return [tuple(answer_of(sample, role) for role in SIDES) for sample in data.samples]


def test_every_pair_of_a_list_with_its_ties_counted(tmp_path: Path) -> None:
    data = read_rows(tmp_path, LIST, pairs=PairRule("all"))
    assert sides(data) == [("b", "a"), ("b", "c")]
    assert [sample.id for sample in data.samples] == ["L/1-0", "L/1-2"]
    first = data.samples[0]
    assert (first.labels["margin"], first.labels["tie"]) == (2.0, 0.0)
    assert first.examples["chosen"][0].labels == {"score": 3.0}
    assert data.report.lines() == [
        "data: 2 samples from 1 rows used (chosen 2, rejected 2)",
        "data: 3 pairs made of 1 lists: 1 all by score or rank",
        "data: 1 tie (left out; ties: keep keeps them)",
    ]
    kept = read_rows(tmp_path, LIST, pairs=PairRule("all"), ties="keep")
    assert [sample.labels["tie"] for sample in kept.samples] == [1.0, 0.0, 0.0]


def test_pairs_closer_than_the_least_gap_are_counted(tmp_path: Path) -> None:
    row = {**LIST, "scores": [1, 3, 0]}
    data = read_rows(tmp_path, row, pairs=PairRule("all", min_gap=2))
    assert sides(data) == [("b", "a"), ("b", "c")]
    assert data.report.lines()[-1] == "data: 1 pairs left out: closer than min_gap"
    with pytest.raises(UserError, match=r"no row holds a preference \(closer than min_gap 3\)"):
        read_rows(tmp_path, row, pairs=PairRule("all", min_gap=9))


def test_ranks_and_named_scores(tmp_path: Path) -> None:
    ranks = {**LIST, "scores": None, "ranks": [2, 3, 1]}
    assert sides(read_rows(tmp_path, ranks, pairs=PairRule())) == [("c", "b")]
    named = {**LIST, "scores": [{"hps": 0.2, "pick": 20}, {"hps": 0.3, "pick": 19}, {"hps": 0.1, "pick": 18}]}
    assert sides(read_rows(tmp_path, named, pairs=PairRule(by=("pick",)))) == [("a", "c")]
    vote = PairRule("all", by=("hps", "pick"), policy="majority")
    data = read_rows(tmp_path, named, pairs=vote)
    assert (sides(data), data.report.ties) == ([("a", "c"), ("b", "c")], 1)
    with pytest.raises(
        UserError, match="row 1: answer 0: has no score 'score'.*it has hps, pick .data.pairs"
    ):
        read_rows(tmp_path, named, pairs=PairRule())


def test_pairs_with_scores_are_ordered_anew(tmp_path: Path) -> None:
    """The rows' own order says a; one scorer agrees, the other says b, and the third row is a tie to it."""
    rows = [
        {"prompt": f"P{n}", "chosen": "a", "rejected": "b", "chosen_score": one, "rejected_score": other}
        for n, (one, other) in enumerate([({"x": 1}, {"x": 0}), ({"x": 0}, {"x": 2}), ({"x": 1}, {"x": 1})])
    ]
    data = read_rows(tmp_path, *rows, pairs=PairRule(by=("x",)))
    assert sides(data) == [("a", "b"), ("b", "a")]
    assert (data.samples[1].labels["margin"], data.report.ties_dropped) == (2.0, 1)
    untouched = read_rows(tmp_path, *rows)
    assert sides(untouched) == [("a", "b")] * 3
    assert untouched.samples[1].examples["rejected"][0].labels == {"x": 2.0}


def test_all_pairs_of_a_list_are_on_the_same_side_of_the_held_out_split(tmp_path: Path) -> None:
    rows = [{**LIST, "id": f"L{n}", "prompt": f"P{n}", "scores": [3, 2, 1]} for n in range(40)]
    both = [
        read_rows(tmp_path, *rows, pairs=PairRule("all"), heldout=0.3),
        load(Jsonl(path=str(tmp_path / "x.jsonl"), pairs=PairRule("all"), heldout=0.3), "heldout"),
    ]
    lists = [{sample.id.split("/")[0] for sample in data.samples} for data in both]
    assert not lists[0] & lists[1] and len(lists[0]) + len(lists[1]) == 40
    assert [len(data.samples) for data in both] == [3 * len(part) for part in lists]


def test_lists_without_a_rule_stay_lists_and_broken_ones_are_skipped(tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, LIST).samples
    assert [example.labels for example in sample.examples["responses"]] == [{"score": s} for s in (1, 3, 1)]
    odd = {**LIST, "id": "M", "prompt": "Q", "scores": [{"x": 1}, {"x": 2}, {"x": 3}]}
    data = read_rows(tmp_path, LIST, odd, pairs=PairRule(), on_error="skip")
    assert (sides(data), len(data.report.skipped)) == ([("b", "c")], 1)
    with pytest.raises(UserError, match="data.pairs: '.*x.jsonl': no row is a list of responses or a pair"):
        read_rows(tmp_path, {"prompt": "P", "completion": "a"}, pairs=PairRule())
    with pytest.raises(UserError, match=r"scores\[1\]': must be a number, got null"):
        read_rows(tmp_path, {**LIST, "scores": [1, None, 2]}, pairs=PairRule())
    with pytest.raises(UserError, match=r"field 'scores\[0\].x': must be finite|NaN is not valid JSON"):
        read_rows(tmp_path, {**LIST, "scores": [{"x": float("nan")}, 1, 2]})


def test_real_ranked_answers_become_pairs_in_the_order_of_their_scores(test_data: Path) -> None:
    path = test_data / "text/stories_ranked.jsonl"
    data = load(Jsonl(path=str(path), pairs=PairRule("all")))
    assert (data.report.rows, len(data.samples)) == (128, 128 * 6)  # scores fall strictly: no ties
    for sample in data.samples:
        better, worse = (sample.examples[role][0].labels["score"] for role in SIDES)
        assert better - worse == sample.labels["margin"] > 0


def test_a_rule_in_a_config_is_checked_and_written_back(tmp_path: Path) -> None:
    def built(**pairs: Any) -> Any:
        tree = {
            "model": {"adapter": "text", "path": "x"},
            "data": {"source": "jsonl", "path": "x.jsonl", "pairs": pairs},
            "objective": {"name": "dpo"},
            "train": {"steps": 1},
        }
        return from_tree(tree, "test")

    config = built(strategy="all", by=["hps", "pick"], policy="majority", min_gap=1)
    assert config.data[0][1].pairs == PairRule("all", ("hps", "pick"), (), "majority", 1.0)
    assert from_tree(to_tree(config), "again") == config
    with pytest.raises(UserError, match="data.pairs: unknown key margin; .*valid keys: strategy, by, fewer"):
        built(margin=1)
    with pytest.raises(UserError, match="data.pairs.policy: veto needs at least two scores in by"):
        built(policy="veto", by=["hps"])
    with pytest.raises(UserError, match="data.pairs.strategy: .*'best_worst', 'adjacent' or 'all'.* 'worst'"):
        built(strategy="worst")


def test_a_pair_that_is_turned_turns_its_labels_of_segments(tmp_path: Path) -> None:
    row = {"prompt": "P", "chosen": "a", "rejected": "b", "chosen_score": 1, "rejected_score": 2}
    (sample,) = read_rows(tmp_path, {**row, "segments": [1, -1, 0]}, pairs=PairRule("all")).samples
    assert answer_of(sample, "chosen") == "b" and sample.labels["segments"] == [-1, 1, 0]
