"""Builds whose judge is a language model: what cannot be read, what the judge is told, published pairs."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from adapters import tiny_lm
from builders.groups import group
from rewards.test_green_judge import verdict
from writers import own_writers

import mmalign
from mmalign.builders import _config
from mmalign.builders._candidates import Group, Made, Paired
from mmalign.builders.best_of_n import ALIKE, BestOfN
from mmalign.builders.best_of_n import UNREAD as NO_VERDICT
from mmalign.builders.rank_and_sift import UNRANKED, UNRATED, UNREAD, UNSIFTED, RankAndSift
from mmalign.rewards.green import Green
from mmalign.rewards.llm_judge import LlmJudge
from mmalign.types import Message, Part, UserError, derive_seed

ROOT = Path(__file__).parents[2]


def function(name: str) -> dict[str, Any]:
    return {"name": "python_function", "function": f"writers.own_writers:{name}"}


def judge(name: str = "graded", **changes: Any) -> LlmJudge:
    return LlmJudge(function(name), **({"template": "{response}", "high": 100.0} | changes))


RANKS = judge("numeric", template="rate {response}", compare_template="1: {first} 2: {second}")


# ---------------------------------------------------------------- best of n


def test_answers_without_a_verdict_count_for_nothing() -> None:
    builder = BestOfN(n=2)
    builder.ready(judge())
    mixed, one, alike = builder.pair(
        [
            group("says no|", "a b c", "refused", "a", "a b"),
            group("says no|", "a", name="q"),
            group("says no|", "a", "b", name="r"),
        ],
        judge(),
        0,
    )
    assert mixed.pairs == (Made(1, 3, 2.0),) and mixed.counts == {NO_VERDICT: 2}
    assert [own is None for own in mixed.scores] == [True, False, True, False, False]
    assert one == Paired((None, {"score": 1.0}), counts=one.counts) and one.counts == {NO_VERDICT: 1}
    assert alike.pairs == () and alike.counts == {NO_VERDICT: 1, ALIKE: 1}


def test_reports_are_paired_by_green(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four reports: the largest score is chosen, the smallest rejected, whatever comes first as text."""
    said = {"a": verdict(matched="9"), "b": verdict(matched="10"), "c": verdict(matched="0"), "d": "perfect"}
    asked: list[str] = []

    def write(turns: tuple[Message, ...], seed: int) -> str:
        asked.append(turns[0].parts[0].data)
        return said[asked[-1].partition("Candidate: ")[2][0]]

    monkeypatch.setattr(own_writers, "graded", write)
    builder, green = BestOfN(n=4, min_gap=1e-8), Green(function("graded"))
    builder.ready(green)
    whole = group("a", "b", "c", "d")
    told = Group(whole.id, whole.prompt, whole.answers, whole.seeds, told={"reference": "No Effusion"})
    (paired,) = builder.pair([told], green, 0)
    assert paired.pairs == (Made(1, 2, pytest.approx(10 / 13)),) and paired.counts == {NO_VERDICT: 1}
    assert all("Reference: no effusion" in text for text in asked)


# ---------------------------------------------------------------- rank and sift


def published() -> Group:
    """Ten answers whose twos, as they are drawn, are (6, 5), (9, 3), (10, 6), (7, 3) and (8, 7)."""
    order = list(range(10))
    random.Random(derive_seed(0, 0, "p", "rank")).shuffle(order)
    answers = dict(zip(order, (6, 5, 3, 9, 10, 6, 7, 3, 8, 7), strict=True))
    return group(*(f"{answers[place]} answer-{place}" for place in range(10)))


def test_the_published_pair() -> None:
    own_writers.ASKED.clear()
    whole = published()
    RankAndSift().ready(RANKS)
    (paired,) = RankAndSift().pair([whole], RANKS, 0)
    (pair,) = paired.pairs
    texts = [whole.answers[place].data for place in (pair.chosen, pair.rejected)]
    assert texts[0].startswith("10 ") and texts[1].startswith("3 ") and pair.gap == 7.0
    order = list(range(10))
    random.Random(derive_seed(0, 0, "p", "rank")).shuffle(order)
    assert pair.rejected == order[2]  # the first of the two worst
    assert len(own_writers.ASKED) == 20  # every two in both orders, every answer once
    assert not paired.counts


def test_numbers_are_no_texts() -> None:
    """As texts, "9" is more than "10": winner and loser would change places."""
    (paired,) = RankAndSift(n=2).pair([group("9 a", "10 b")], RANKS, 0)
    assert paired.pairs == (Made(1, 0, 1.0),)


def test_what_cannot_be_read_is_counted_and_never_first() -> None:
    (paired,) = RankAndSift(n=2).pair([group("9 mute", "10 b")], RANKS, 0)
    assert paired.pairs == () and paired.counts == {UNREAD: 1, UNRANKED: 1}
    wide = judge("numeric", template="rate {response}", compare_template="1: {first} 2: {second}", high=9.0)
    (paired,) = RankAndSift(n=2).pair([group("9 a", "10 b")], wide, 0)
    assert paired.counts == {UNRATED: 1, UNSIFTED: 1}


def test_a_judge_without_a_template_to_compare_ranks_by_its_scores() -> None:
    own_writers.ASKED.clear()
    builder = RankAndSift(n=2, even=0.5)
    builder.ready(judge())
    (paired,) = builder.pair([group("a b c", "a")], judge(), 0)
    assert paired.pairs == (Made(0, 1, 2.0),) and len(own_writers.ASKED) == 2
    (paired,) = builder.pair([group("says no|", "a")], judge(), 0)
    assert paired.counts == {UNREAD: 1, UNRANKED: 1}
    with pytest.raises(UserError, match="builder.even: 0.5 is read only where scores rank"):
        builder.ready(RANKS)


# ---------------------------------------------------------------- whole builds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_lm.save_tiny(tmp_path_factory.mktemp("written") / "lm")


def tree(folder: str, work: Path, rows: list[dict[str, Any]], **sections: Any) -> dict[str, Any]:
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = {"name": "llm_judge", "writer": function("graded"), "template": "{reference}|{response}"}
    return {
        "builder": {"name": "best_of_n", "n": 4},
        "model": {"adapter": "text", "path": folder, "generation": {"max_new_tokens": 12}},
        "prompts": {"source": "jsonl", "path": str(work / "rows.jsonl")},
        "judge": judge | {"low": 0.0, "high": 100.0},
        "log": {"progress": False},
        "output": str(work / "out"),
    } | sections


def built(tree: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder = mmalign.build(_config.from_tree(tree, "test", allow_code=True))
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    return json.loads((folder / "build.json").read_text()), [json.loads(line) for line in lines]


ROWS = [
    {"id": "a", "prompt": "why is the sky?", "completion": "it is"},
    {"id": "b", "prompt": "the red box", "chosen": "is red", "rejected": "no"},
]


def test_a_judge_is_told_the_rows_answer(folder: str, tmp_path: Path) -> None:
    own_writers.ASKED.clear()
    record, rows = built(tree(folder, tmp_path, ROWS))
    assert {text.partition("|")[0] for text in own_writers.ASKED} == {"it is", "is red"}
    assert record["prompts"]["count"] == 2 and rows
    assert all(row["chosen_score"] > row["rejected_score"] for row in rows)
    assert record["judge"]["writer"] == function("graded")


def test_prompts_without_an_answer_to_tell_are_refused(folder: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("why?\n")
    wanted = tree(folder, tmp_path, ROWS, prompts={"path": str(tmp_path / "prompts.txt")})
    with pytest.raises(UserError, match="prompts: the judge is told the rows' answers; name a data source"):
        built(wanted)
    wanted = tree(folder, tmp_path, ROWS)
    wanted["judge"]["template"] = "{caption} {response}"
    with pytest.raises(UserError, match="judge: llm_judge wants the caption of every prompt"):
        built(wanted)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cxr_judge", "rank_and_sift_vlm", "llava_hound"])
def test_shipped_configs_ask_what_their_builder_tells(name: str) -> None:
    config = _config.load(ROOT / f"configs/build/{name}.yaml")
    assert config.output == f"runs/build/{name}" and config.judge.unchecked
    assert config.judge.wants <= config.builder.tells
    assert config.builder.reads_answers(config.judge) == (name != "rank_and_sift_vlm")
    assert _config.dump(_config.from_tree(_config.to_tree(config), "again")) == _config.dump(config)


def test_the_config_for_reports_runs(folder: str, tmp_path: Path) -> None:
    """With tiny models in the places of the large ones: nothing that the judge says can be read."""
    rows = [row | {"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    small = {"adapter": "text", "path": folder, "generation": {"max_new_tokens": 8}}
    ending = small | {"generation": {"max_new_tokens": 100, "stop": ["e"]}}  # at a letter: not cut off
    shipped = _config.to_tree(_config.load(ROOT / "configs/build/cxr_judge.yaml"))
    wanted = tree(folder, tmp_path, rows, builder=shipped["builder"], model=small)
    long = Part("text", "Reference: {reference} Candidate: {response}").data
    wanted["judge"] = shipped["judge"] | {
        "writer": {"name": "local", "model": ending}, "cache": str(tmp_path / "kept"), "template": long,
    }  # fmt: skip
    record, made = built(wanted)
    assert made == [] and record["left_out"][NO_VERDICT] >= 4
    assert record["judge"]["cache"] == "kept" and len(list((tmp_path / "kept").rglob("*.json"))) >= 4
