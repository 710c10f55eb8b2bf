"""Rows with a prompt alone: read from every kind of file where prompts are enough, refused where not."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from tiny_runs import Bench, losses

from mmalign.config import from_tree
from mmalign.data._sources import load
from mmalign.data.csv import Csv
from mmalign.data.jsonl import Jsonl
from mmalign.data.parquet import Parquet
from mmalign.data.prompts import Prompts
from mmalign.training.inspection.check import inspect
from mmalign.training.run import run
from mmalign.types import UserError

TEXTS = [f"cat {i}" for i in range(10)]
ONLINE = {"judge": {"name": "brightness"}, "prompts": 4, "n": 2, "steps": 2, "batch": 2}
SMALL = {"resolution": 16, "generation": {"steps": 3, "guidance": 2.0}}
LORA = {"rank": 4, "targets": ["to_q", "to_k", "to_v", "to_out.0"]}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Bench(tmp_path_factory.mktemp("prompts"))
    files = {kind: bench.folder / f"prompts.{kind}" for kind in ("txt", "jsonl", "csv", "parquet")}
    files["txt"].write_text("\n".join([*TEXTS, "", TEXTS[0]]) + "\n")
    files["jsonl"].write_text("\n".join(json.dumps({"prompt": text}) for text in TEXTS) + "\n")
    with files["csv"].open("w", newline="") as stream:
        csv.writer(stream).writerows([["prompt"], *([text] for text in TEXTS)])
    pyarrow.parquet.write_table(pyarrow.table({"prompt": TEXTS}), files["parquet"])
    yield bench
    torch.set_num_threads(threads)


def source(bench: Bench, kind: str) -> dict[str, Any]:
    name = {"txt": "prompts"}.get(kind, kind)
    return {"source": name, "path": str(bench.folder / f"prompts.{kind}")}


def texts(found: Any) -> list[str]:
    return [sample.examples["prompt"][0].prompt[0].parts[0].data for sample in found.samples]


@pytest.mark.parametrize(
    ("kind", "cls"), [("txt", Prompts), ("jsonl", Jsonl), ("csv", Csv), ("parquet", Parquet)]
)
def test_prompts_are_read_from_every_file(bench: Bench, kind: str, cls: Any) -> None:
    path = str(bench.folder / f"prompts.{kind}")
    found = load(cls(path=path), prompts=True)
    assert texts(found) == TEXTS and len({sample.id for sample in found.samples}) == 10
    kept, away = (load(cls(path=path, heldout=3), which, prompts=True) for which in ("train", "heldout"))
    assert len(texts(kept)) == 7 and sorted(texts(kept) + texts(away)) == TEXTS
    with pytest.raises(
        UserError, match=rf"^prompts\.{kind} .*no chosen and rejected.* a prompt alone serves"
    ):
        load(cls(path=path))
    skipping = load(cls(path=path), every_fault=True)
    assert skipping.samples == [] and len(skipping.report.skipped) == 10


def test_forms_of_benchmarks_and_turns_of_a_chat(tmp_path: Path) -> None:
    rows = [
        {"tag": "counting", "include": [], "prompt": "two cats"},
        {"tag": "colors", "include": [], "prompt": "a"},
    ]
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    (first, _) = load(Prompts(path=str(path), chat=True), prompts=True).samples
    assert (first.id, first.origin) == ("geneval-0001", "evaluation_metadata.jsonl geneval-0001")
    assert first.examples["prompt"][0].prompt[0].speaker == "user"
    with pytest.raises(UserError, match="no prompt file is called 'geneva'; did you mean geneval"):
        load(Prompts(path=str(path), form="geneva"), prompts=True)


def test_rows_with_answers_and_prompts_alone_stand_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "a"}, {"prompt": "b", "chosen": "c", "rejected": "d"}, {"prompt": ""}, {"other": 1}]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = load(Jsonl(path=str(path), on_error="skip"), prompts=True)
    assert [sorted(sample.examples) for sample in found.samples] == [["prompt"], ["chosen", "rejected"]]
    third, fourth = found.report.skipped
    assert third.reason.startswith("rows.jsonl row 3, field 'prompt'")
    assert fourth.reason.startswith("rows.jsonl row 4: no chosen and rejected")


def test_rounds_on_prompts_are_those_on_pairs_with_the_same_prompts(bench: Bench) -> None:
    found = []
    for kind in ("jsonl", "pairs"):
        data = source(bench, kind) if kind == "jsonl" else dict(bench.data["image"])
        named = [{"id": f"p{i}", "prompt": text} for i, text in enumerate(TEXTS)]
        if kind == "jsonl":
            rows = [json.loads(line) for line in Path(bench.data["image"]["path"]).read_text().splitlines()]
            named = [{"id": row["id"], "prompt": row["prompt"]} for row in rows]
            alone = bench.folder / "alone.jsonl"
            alone.write_text("\n".join(map(json.dumps, named)))
            data["path"] = str(alone)
        train = {"steps": 2, "batch": 3, "lr": 0.01}
        sections: dict[str, Any] = {"model": SMALL, "lora": LORA, "online": ONLINE, "train": train}
        tree = bench.tree("image", f"rounds-{kind}", objective={"name": "dpo", "beta": 2000}, **sections)
        tree["data"] = data
        found.append(losses(run(_resolved(tree))))
    assert found[0] == found[1] and len(found[0]) == 2


def _resolved(tree: dict[str, Any]) -> Any:
    return from_tree(tree, "test", allow_code=True)


def config(bench: Bench, kind: str, objective: Any, **sections: Any) -> Any:
    objective = {"name": objective} if isinstance(objective, str) else objective
    train = {"steps": 1, "batch": 2, "lr": 1e-3}
    tree = bench.tree(
        "image", f"{kind}-{objective['name']}", objective=objective, model=SMALL, lora=LORA, train=train
    )
    tree["data"] = source(bench, kind) | sections.pop("data", {})
    return _resolved(tree | sections)


def test_an_objective_with_a_reward_reads_a_list_of_lines(bench: Bench) -> None:
    tree = config(bench, "txt", "draft", reward={"name": "brightness"})
    assert len(losses(run(tree))) == 1


def test_pairs_are_asked_for_where_they_are_needed(bench: Bench) -> None:
    with pytest.raises(UserError, match=r"^prompts\.txt line-0001: no chosen and rejected"):
        run(config(bench, "txt", "dpo"))
    assert not (bench.folder / "txt-dpo").exists()


# ---------------------------------------------------------------- check


def test_check_samples_a_small_round_and_writes_nothing(bench: Bench) -> None:
    online = {**ONLINE, "prompts": 8}
    objective = {"beta": 2000, "name": "dpo"}
    train = {"steps": 4, "batch": 6, "micro_batch": 2, "lr": 1e-3}
    checked = config(bench, "txt", objective, online=online, train=train, data={"heldout": 2})
    lines: list[str] = []
    found = inspect(checked, lines.extend)
    assert found.sound, found.findings
    assert found.usable == {"training": 8, "held-out": 2}
    made = found.round
    assert made is not None and (made.prompts, made.answers, made.samples) == (2, 4, 2)
    assert (made.whole_prompts, made.steps, made.batch) == (8, 2, 6)
    assert made.round_seconds == pytest.approx(4 * made.seconds)
    assert 0 < made.lowest <= made.mean <= made.highest < 1
    assert found.trial is not None and found.trial.samples == 2
    assert found.trial.loss == pytest.approx(found.trial.expected_loss, abs=1e-6)
    assert found.trial.gradient_norm > 0 and found.trial.peak_bytes > 0
    assert len(found.samples) == 2 and {one.role for one in found.samples[0].responses} == {
        "chosen",
        "rejected",
    }
    told = "\n".join(lines)
    assert (
        "held-out: 2 different prompts of 2 rows" in told
        and "a whole step, of 6 samples, takes about" in told
    )
    assert not Path(checked.output).exists()


@pytest.mark.parametrize(
    ("objective", "more"),
    [
        ({"name": "d3po", "beta": 100.0}, {}),
        ({"name": "ddpo"}, {"reference": {"name": "ema", "decay": 0.0, "every": 2}}),
        ({"name": "spo", "threshold": 0.0}, {"online": {**ONLINE, "unbranched": 1}}),
    ],
)
def test_check_of_objectives_on_paths(bench: Bench, objective: Any, more: dict[str, Any]) -> None:
    sections: dict[str, Any] = {"online": ONLINE, "train": {"steps": 2, "batch": 2, "lr": 1e-3}, **more}
    found = inspect(config(bench, "jsonl", objective, **sections))
    assert found.sound and found.round is not None and found.trial is not None
    assert found.trial.gradient_norm > 0 and found.usable == {"training": 10}
    assert found.samples and all(one.responses[0].pictures for one in found.samples)


def test_check_counts_prompts_that_both_splits_have(bench: Bench, tmp_path: Path) -> None:
    """Three held-out rows of two prompts, one of which trains, too."""
    path = tmp_path / "heldout.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": text}) for text in (TEXTS[0], "a dog", "a dog")))
    heldout = {"source": "jsonl", "path": str(path)}
    found = inspect(config(bench, "jsonl", "dpo", online=ONLINE, heldout=heldout))
    assert found.usable == {"training": 10, "held-out": 2}
    (leak,) = found.leaks
    assert (leak.what, leak.count) == ("prompt", 1)


def test_check_of_an_objective_with_a_reward_reads_prompts(bench: Bench) -> None:
    found = inspect(config(bench, "txt", "draft", reward={"name": "brightness"}))
    assert found.sound and found.round is None and found.trial is not None
    assert found.usable == {"training": 10} and found.tokens[0].what == "prompt"


def test_check_tells_of_a_round_that_gives_nothing(bench: Bench) -> None:
    even = {**ONLINE, "judge": {"name": "test_online:Even"}}
    found = inspect(config(bench, "txt", "dpo", online=even))
    assert found.trial is None and found.round is None
    (finding,) = found.findings
    assert (
        finding.startswith("the first round fails: round 0: the answers to") and "make 0 samples" in finding
    )


def test_check_refuses_more_prompts_than_there_are(bench: Bench) -> None:
    found = inspect(config(bench, "txt", "dpo", online={**ONLINE, "prompts": 12}))
    assert not found.sound and found.trial is None
    (finding,) = found.findings
    assert "no step can be made: online.prompts: 12 are more than the data has, 10" in finding


def test_check_of_rounds_of_texts_shows_what_was_answered(bench: Bench) -> None:
    online = {**ONLINE, "judge": {"name": "test_online:Letters"}, "n": 4}
    tree = bench.tree(
        "text",
        "texts",
        objective={"name": "dpo"},
        model={"generation": {"max_new_tokens": 12}},
        online=online,
        train={"steps": 2, "batch": 2, "lr": 1e-3},
    )
    tree["data"] = source(bench, "jsonl")
    found = inspect(_resolved(tree))
    assert found.sound and found.trial is not None and found.tokens == ()
    assert found.trial.loss == pytest.approx(0.693147, abs=1e-5)
    chosen, rejected = found.samples[0].responses
    assert chosen.text in TEXTS and chosen.scored.count("e") > rejected.scored.count("e")


def test_a_pair_is_checked_for_where_the_objective_needs_one(bench: Bench) -> None:
    """Four pairs of pictures and a prompt."""
    rows = Path(bench.data["image"]["path"]).read_text().splitlines()[:4]
    mixed = Path(bench.data["image"]["path"]).with_name("mixed.jsonl")
    mixed.write_text("\n".join([*rows, json.dumps({"prompt": "a dog"})]))
    found = inspect(config(bench, "jsonl", "dpo", data={"path": str(mixed)}))
    (reason,) = found.reasons
    assert (
        reason.count == 1 and reason.rows == ("mixed.jsonl row 5",) and "a prompt alone serves" in reason.rule
    )
