"""Reward models that write critiques, in whole runs: both heads learn, the judge writes before it scores."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Bench, largest_gap, losses, metrics, same_files, weights

from mmalign.config import RunConfig
from mmalign.data._records import read_record
from mmalign.data._sides import flipped
from mmalign.messages import CRITIQUE, criticised
from mmalign.rewards.reward_model import RewardModel
from mmalign.training.checks import check_config
from mmalign.training.inspection.check import inspect
from mmalign.training.run import run
from mmalign.types import Example, Message, Part, PreferenceSample, UserError

CRITIC: dict[str, Any] = {"name": "critique_rm"}
ROW = {"id": "one", "prompt": [{"role": "user", "content": "what?"}], "chosen": "a", "rejected": "b"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Bench(tmp_path_factory.mktemp("bench"))
    path = Path(bench.data["text"]["path"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for i, row in enumerate(rows):
        said = (" a happy answer", " no, the sky is blue") if i % 4 else (None, None)
        row |= dict(zip(("chosen_critique", "rejected_critique"), said, strict=True))
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    backbone = {**bench.model["text"], "generation": {"max_new_tokens": 4, "temperature": 0.0}}
    head = {"init": "fresh"}
    bench.model["text"] = {"adapter": "reward_head", "critiques": True, "backbone": backbone, "head": head}
    yield bench
    torch.set_num_threads(threads)


def config(bench: Bench, output: str, **sections: Any) -> RunConfig:
    settings = {"objective": CRITIC, "train": {"steps": 2}, **sections}
    return bench.config("text", output, **settings)


def told(model: Any, prompt: tuple[Message, ...], answer: Part) -> PreferenceSample:
    """What a model would score: the answer with the critique that it writes of it."""
    asked = criticised(prompt, (answer,))
    (written,) = model.critiques(model.policy, [asked], [0])  # greedy: the seed does not matter
    return PreferenceSample("x", {"response": (Example(asked, (written,)),)})


@pytest.mark.parametrize("lora", [{"rank": 4}, None], ids=["lora", "full"])
def test_both_heads_learn_and_the_judge_writes_before_it_scores(
    bench: Bench, lora: dict[str, int] | None
) -> None:
    name = "lora" if lora else "full"
    output = run(config(bench, name, lora=lora, train={"steps": 12, "lr": 1e-2}))
    lines = [line for line in metrics(output) if "loss" in line]
    assert lines[-1]["critique_nll"] < lines[0]["critique_nll"] - 0.05
    assert lines[-1]["loss/score"] < lines[0]["loss/score"]
    moved = weights(output, 12)
    assert any(("lm_head" in key or "embed" in key) for key in moved) == (lora is None)

    judge = RewardModel(str(output))
    prompts = [(Message("user", (Part("text", f"why {i}?"),)),) for i in range(3)]
    answers = [Part("text", text) for text in ("the sky", "no", "a red fox ran")]
    found = [one["score"] for one in judge.score_many(prompts, answers)]
    model = judge._adapter
    assert model.config.critiques and model.config.part.generation.max_new_tokens == 4
    expected = []
    for prompt, answer in zip(prompts, answers, strict=True):
        sample = told(model, prompt, answer)
        rows = model.collate([model.prepare(sample, ("response",))], ("response",))
        expected.append(float(model.logprobs(model.policy, rows, {}, frozenset()).total()))
    assert found == pytest.approx(expected, abs=1e-5)
    assert [judge.score(p, a)["score"] for p, a in zip(prompts, answers, strict=True)] == pytest.approx(
        found, abs=1e-5
    )
    bare = RewardModel("unused")
    bare.__dict__["_adapter"] = plain = RewardModel(str(output))._adapter
    object.__setattr__(plain, "config", plain.config.__class__(plain.config.backbone, plain.config.head))
    assert [one["score"] for one in bare.score_many(prompts, answers)] != pytest.approx(found, abs=1e-3)


def test_a_resumed_run_and_one_of_small_batches_are_the_same(bench: Bench) -> None:
    train = {"steps": 2, "save_every": 1}
    whole = run(config(bench, "whole", train=train))
    run(config(bench, "resumed", train=train | {"steps": 1}))
    resumed = run(config(bench, "resumed", train=train))
    assert losses(whole) == losses(resumed) and largest_gap(weights(whole, 2), weights(resumed, 2)) == 0
    same_files(whole / "final", resumed / "final")
    small = run(config(bench, "small", train=train | {"micro_batch": 2}))
    assert losses(small) == pytest.approx(losses(whole), abs=1e-5)


def test_what_is_scored_is_the_answer_and_then_the_critique() -> None:
    row = ROW | {"chosen_critique": "good", "rejected_critique": "bad"}
    sample = read_record(row, "rows.jsonl row 1", 0, "/").sample
    (side,) = sample.examples["rejected_critique"]
    assert [turn.speaker for turn in side.prompt] == ["user", "assistant", "user"]
    assert side.prompt[1].parts[0].data == "b" and side.prompt[2].parts[0].data == CRITIQUE
    assert side.response[0].data == "bad" and sample.examples["rejected"][0].response[0].data == "b"
    (turned,), _ = flipped([sample], 1.0)
    assert turned.examples["chosen_critique"] == sample.examples["rejected_critique"]
    assert turned.examples["rejected_critique"] == sample.examples["chosen_critique"]
    (plain,) = read_record(ROW | row | {"prompt": "p"}, "r", 0, "/").sample.examples["chosen_critique"]
    assert "".join(p.data for p in plain.prompt[0].parts) == f"pa\n{CRITIQUE}\n"


def test_a_lone_critique_stays_with_its_answer_when_sides_are_swapped() -> None:
    sample = read_record(ROW | {"rejected_critique": "bad"}, "r", 0, "/").sample
    (turned,), _ = flipped([sample], 1.0)
    assert set(turned.examples) == {"chosen", "rejected", "chosen_critique"}
    assert turned.examples["chosen_critique"] == sample.examples["rejected_critique"]


def test_the_check_shows_what_is_scored(bench: Bench) -> None:
    found = inspect(config(bench, "checked", train={"steps": 2, "batch": 8}))
    assert not found.findings and found.trial is not None
    shown = [one for sample in found.samples for one in sample.responses]
    assert {one.role for one in shown} == {"chosen_critique", "rejected_critique"}
    assert any(CRITIQUE in one.text and "a happy answer" in one.scored for one in shown)


def test_a_row_without_critiques_is_refused(bench: Bench) -> None:
    path = bench.folder / "bare.jsonl"
    path.write_text(json.dumps({"prompt": "a", "chosen": " b", "rejected": " c"}) + "\n")
    with pytest.raises(UserError, match="needs the role 'chosen_critique'"):
        run(config(bench, "bare", data={"path": str(path)}, train={"steps": 1, "batch": 1}))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"objective": {"name": "bt"}}, "model.critiques: is true under objective bt"),
        ({"model": {"critiques": False}}, "model.critiques: is false under objective critique_rm"),
        (
            {"train": {"steps": 1, "backward": "chunked"}},
            "beside the score that is read behind it cannot be chunked",
        ),
    ],
)
def test_what_does_not_go_together(bench: Bench, sections: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        check_config(config(bench, "never", **sections))
    assert "\n" not in str(error.value)
