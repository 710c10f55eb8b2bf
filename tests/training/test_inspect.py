"""`check`: every unusable row by its rule, repeats and leaks, tokens, the samples shown, and one step."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import listing
from tiny_runs import Bench
from transformers import AutoTokenizer

from mmalign.adapters._causal_lm import CausalLM
from mmalign.config import RunConfig
from mmalign.training.inspection import _counts as counts
from mmalign.training.inspection.check import Inspection, inspect
from mmalign.types import UserError

CONTROL = "<|im_end|>"
KTO = {"name": "kto", "baseline": "batch"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("bench"))
    torch.set_num_threads(threads)


def pair(number: int, **changes: Any) -> dict[str, Any]:
    """A sound row unlike those of other numbers; a field changed to None is left out."""
    row = {
        "id": f"r{number}",
        "prompt": f"say {number}",
        "chosen": f" yes {number}",
        "rejected": f" no {number}",
    }
    return {name: value for name, value in {**row, **changes}.items() if value is not None}


def write(path: Path, rows: Sequence[Mapping[str, Any] | str]) -> Path:
    """Rows as JSON lines; a str stands as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def text_config(bench: Bench, path: Path, heldout: Path | None = None, **sections: Any) -> RunConfig:
    """A run on rows of texts."""
    data = {"source": "jsonl", "path": str(path), **sections.pop("data", {})}
    if heldout is not None:
        sections["heldout"] = {"source": "jsonl", "path": str(heldout)}
    train = {"batch": 4, **sections.pop("train", {})}
    return bench.config("text", "never", data=data, train=train, **sections)


def inspect_rows(bench: Bench, folder: Path, rows: Sequence[Any], **sections: Any) -> Inspection:
    return inspect(text_config(bench, write(folder / "rows.jsonl", rows), **sections))


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


def test_the_step_is_that_of_the_run(bench: Bench, tmp_path: Path) -> None:
    found = inspect_rows(bench, tmp_path, [pair(i) for i in range(8)])
    trial = found.trial
    assert trial is not None and trial.samples == 4
    assert trial.loss == pytest.approx(math.log(2), abs=1e-6)
    assert trial.expected_loss == pytest.approx(math.log(2), abs=1e-6)
    assert trial.reward_margin == 0.0 and trial.gradient_norm > 0
    adapter = bench.config("text", "never").model.build(torch.device("cpu"), torch.float32)
    assert trial.trainable == trial.weights == sum(p.numel() for p in adapter.policy.parameters())
    assert trial.optimizer_bytes == 8 * trial.trainable
    assert trial.peak_bytes > 10 * 2**20 and trial.step_seconds > 0

    from mmalign.training.run import run

    config = text_config(bench, tmp_path / "rows.jsonl", train={"steps": 1})
    folder = run(replace(config, output=str(tmp_path / "run"), cache=str(tmp_path / "cache")))
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert line["grad_norm"] == pytest.approx(trial.gradient_norm, rel=1e-5)


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
    with pytest.raises(UserError, match="train.batch 4 is larger"):  # no row is to blame: the config is
        inspect_rows(bench, tmp_path, rows[:3])


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


@pytest.mark.parametrize(("longer", "warned"), [(13, False), (14, True)])
def test_longer_chosen_responses(bench: Bench, tmp_path: Path, longer: int, warned: bool) -> None:
    """13 of 20 are 65 %, which is not yet too many."""
    rows = [pair(i, chosen=" yes yes yes" if i < longer else " y", rejected=" no no") for i in range(20)]
    found = inspect_rows(bench, tmp_path, rows)
    assert found.sides is not None and found.sides.chosen_longer == longer
    assert any("length" in one for one in found.warnings) == warned


def test_leaks(bench: Bench, tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [pair(i) for i in range(6)])
    held = [pair(2, id="h0"), pair(9, prompt="say 3"), pair(10), pair(11, chosen=" yes 4", rejected=" no 4")]
    found = inspect(text_config(bench, path, write(tmp_path / "held.jsonl", held)))
    sample, prompt = found.leaks
    assert (sample.what, sample.count, sample.rows) == (
        "sample",
        1,
        ("held.jsonl row 1 = train.jsonl row 3",),
    )
    assert (prompt.what, prompt.count, prompt.rows) == (
        "prompt",
        1,
        ("held.jsonl row 2 = train.jsonl row 4",),
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


# ---------------------------------------------------------------- samples and the step


def test_the_samples_are_those_of_the_first_step(bench: Bench, tmp_path: Path) -> None:
    rows = [pair(i, margin=0.5) for i in range(8)]
    config = text_config(bench, write(tmp_path / "rows.jsonl", rows))
    found = inspect(config)
    assert len(found.samples) == 3
    for one in found.samples:
        number = one.id.removeprefix("r")
        chosen, rejected = one.responses
        assert (chosen.role, chosen.text, chosen.scored) == (
            "chosen",
            f"say {number}",
            f" yes {number}{CONTROL}",
        )
        assert rejected.scored == f" no {number}{CONTROL}"
        assert one.labels == {"margin": 0.5} and one.origin.startswith("rows.jsonl row ")
    from mmalign.training.console import Console
    from mmalign.training.rows import load_data
    from mmalign.training.world import World

    world = World(0, 1, torch.device("cpu"))
    adapter = config.model.build(world.device, torch.float32)
    data = load_data(config, world, Console(world, progress=False, quiet=True))
    first = next(iter(data.loader(adapter, config).steps(0, 1)))
    assert [one.id for one in found.samples] == [item.id for item in first[:3]]


def test_a_failing_first_check_is_a_finding(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CausalLM, "self_check", lambda self, model, batch, draw: 0.5)
    found = inspect_rows(bench, tmp_path, [pair(i) for i in range(6)])
    assert found.trial is None and len(found.samples) == 3
    assert found.findings == (
        "the first step fails: first-batch check: scores differ by 0.5 from the model's own computation",
    )


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"objective": {"name": "simpo"}}, False),
        ({"objective": {"name": "sft"}}, False),
        ({"lora": {"rank": 2}, "reference": {"name": "cached"}}, True),
        ({"objective": KTO, "train": {"micro_batch": 2}}, True),
        ({"objective": [{"name": "dpo", "weight": 0.5}, {"name": "ipo", "weight": 2}]}, True),
    ],
)
def test_the_expected_loss(bench: Bench, tmp_path: Path, sections: dict[str, Any], expected: bool) -> None:
    found = inspect_rows(bench, tmp_path, [pair(i) for i in range(8)], **sections)
    assert found.sound and found.trial is not None
    assert (found.trial.expected_loss is not None) == expected
    if expected:
        assert found.trial.expected_loss == pytest.approx(found.trial.loss, abs=1e-5)
    if "lora" in sections:
        assert found.trial.trainable < found.trial.weights / 2
        assert not (tmp_path / "cache").exists()


def test_a_reward_model(bench: Bench, tmp_path: Path) -> None:
    tree = bench.tree("text", "never", train={"batch": 4}, objective={"name": "bt"})
    tree["model"] = {"adapter": "reward_head", "backbone": tree["model"], "head": {"init": "fresh"}}
    tree["data"] = {"source": "jsonl", "path": str(write(tmp_path / "r.jsonl", [pair(i) for i in range(6)]))}
    from mmalign.config import from_tree

    found = inspect(from_tree(tree, "test"))
    assert found.sound and found.trial is not None and found.trial.expected_loss is None
    assert found.samples[0].responses[0].scored.endswith(CONTROL)


def test_an_output_that_is_taken_is_a_finding(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    config = text_config(bench, write(tmp_path / "rows.jsonl", [pair(i) for i in range(6)]))
    found = inspect(replace(config, output=str(tmp_path / "taken")))
    assert len(found.findings) == 1 and "holds no run" in found.findings[0]
    assert found.trial is not None


# ---------------------------------------------------------------- pictures


def test_image_rows(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(bench.folder / "pictures", folder)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    (folder / "chosen-2.png").write_bytes(b"")
    (folder / "chosen-5.png").write_bytes(b"")
    rows[7]["prompt"] = "a very long caption " * 30
    shutil.copy(folder / "chosen-0.png", folder / "copy-c.png")
    shutil.copy(folder / "rejected-0.png", folder / "copy-r.png")
    other = {
        "prompt": rows[0]["prompt"],
        "chosen": {"image": "copy-c.png"},
        "rejected": {"image": "copy-r.png"},
    }
    path = write(folder / "pairs.jsonl", rows)
    held = write(folder / "held.jsonl", [other | {"id": "h"}])
    data = {"source": "jsonl", "path": str(path)}
    found = inspect(bench.config("image", "never", data=data, heldout={**data, "path": str(held)}))
    (reason,) = found.reasons
    assert reason.count == 2 and "role 'chosen', image '…': the file is empty" in reason.rule
    (leak,) = found.leaks
    assert leak.what == "sample", "files of other names hold the same pictures"
    assert found.shortened["captions cut to fit"] == 2
    spread = {(one.what, one.kind): one for one in found.tokens}
    assert spread["chosen", "caption"].maximum == found.limit
    assert {one.what for one in found.media} == {"image"}
    assert found.sides is not None and found.sides.chosen_longer is None
    shown = found.samples[0].responses[0]
    assert shown.scored == "" and {"image-1", "model-1"} == set(shown.pictures)
    side = shown.pictures["model-1"].size
    assert f"the model reads picture: {side[0]}x{side[1]}" in shown.media
    assert found.trial is not None and found.trial.loss == pytest.approx(math.log(2), abs=1e-5)
