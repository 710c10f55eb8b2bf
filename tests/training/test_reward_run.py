"""Reward models through whole runs: learning, resuming, LoRA with a head, export, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_runs import call
from peft import PeftModel
from ranks import in_ranks
from safetensors.torch import load_file
from tiny_runs import WORDS, Bench, largest_gap, losses, metrics, same_files, weights
from transformers import AutoModelForCausalLM
from two_processes import run_files

from mmalign.config import RunConfig, dump, from_tree, to_tree
from mmalign.rewards.reward_model import RewardModel
from mmalign.training.checks import check_config
from mmalign.training.finished import export, open_run
from mmalign.training.run import run
from mmalign.types import Message, Part, UserError

LORA = {"rank": 4, "alpha": 8}
HEAD = "score.weight"


def write_kind_pairs(path: Path, count: int = 96) -> Path:
    """The chosen answer says no where the rejected one says yes; all other words are the same, the last too.
    The fresh head happens to like yes better."""
    with path.open("w") as file:
        for i in range(count):
            rest = [WORDS[(i * k) % 6] for k in (1, 3, 5)]
            answers = {
                role: " " + " ".join([*rest[: i % 3], word, *rest[i % 3 :]])
                for role, word in (("chosen", "no"), ("rejected", "yes"))
            }
            prompt = f"{WORDS[i % 7]} {i}?"
            row = {"id": f"r{i}", "prompt": prompt, **answers, "margin": 0.5, "tie": i % 2 == 1}
            file.write(json.dumps(row) + "\n")
    return path


def write_criticised(path: Path) -> None:
    """Pairs of which every other one has critiques."""
    with path.open("w") as file:
        for i in range(12):
            row: dict[str, Any] = {"id": f"c{i}", "prompt": f"{i}?", "chosen": " no", "rejected": " yes"}
            said = (" right", f" {WORDS[i % 6]} is wrong") if i % 2 else (None, None)
            row |= dict(zip(("chosen_critique", "rejected_critique"), said, strict=True))
            file.write(json.dumps(row) + "\n")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Bench(tmp_path_factory.mktemp("reward"))
    write_kind_pairs(bench.folder / "kind.jsonl")
    yield bench
    torch.set_num_threads(threads)


def tree(bench: Bench, output: str, **sections: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "objective": {"name": "bt", "centre": 0.01},
        "train": {"steps": 4, "batch": 8, "lr": 3e-3},
        "model": {"head": {"init": "fresh"}},
    }
    merged = base | sections
    model = {"adapter": "reward_head", "backbone": bench.model["text"], **merged.pop("model")}
    whole = bench.tree("text", output, **merged)
    return whole | {"model": model}


def config(bench: Bench, output: str, **sections: Any) -> RunConfig:
    return from_tree(tree(bench, output, **sections), "test", allow_code=True)


def kind_data(bench: Bench) -> dict[str, Any]:
    return {"path": str(bench.folder / "kind.jsonl"), "heldout": 24, "ties": "keep"}


@pytest.fixture(scope="module")
def done(bench: Bench) -> dict[str, Path]:
    """Twenty steps with all weights, and with LoRA."""
    train = {"steps": 20, "batch": 16, "lr": 1e-2}
    return {
        name: run(config(bench, name, data=kind_data(bench), train=train, lora=lora))
        for name, lora in (("full", None), ("lora", LORA))
    }


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("name", ["full", "lora"])
def test_twenty_steps_learn_a_toy_preference(done: dict[str, Path], name: str) -> None:
    heldout = [line for line in metrics(done[name]) if "heldout/accuracy" in line]
    assert heldout[0]["heldout/accuracy"] < 0.5 and heldout[-1]["heldout/accuracy"] > 0.9
    assert heldout[-1]["heldout/loss"] < 0.5 * heldout[0]["heldout/loss"]
    assert heldout[-1]["heldout/brier"] < 0.1
    assert not any("logp" in key for line in metrics(done[name]) for key in line), "scores are no likelihoods"


def test_with_lora_the_head_trains_whole_and_the_backbone_not_at_all(bench: Bench) -> None:
    found = run(config(bench, "few", lora=LORA, train={"steps": 2, "save_every": 1}))
    first, second = weights(found, 1), weights(found, 2)
    assert {name for name in first if "lora_" not in name} == {HEAD}
    assert first[HEAD].dtype == torch.float32 and not torch.equal(first[HEAD], second[HEAD])
    moved = [name for name in first if not torch.equal(first[name], second[name])]
    assert len(moved) > len(first) / 2


def test_margins_and_ties_reach_the_loss(bench: Bench) -> None:
    objectives = {"plain": {}, "margin": {"margin": "label"}, "ties": {"ties": "label"}}
    first = {
        name: losses(
            run(
                config(
                    bench, name, data=kind_data(bench), objective={"name": "bt", **fields}, train={"steps": 1}
                )
            )
        )[0]
        for name, fields in objectives.items()
    }
    assert first["margin"] > first["plain"], "every margin is above 0"
    assert first["ties"] < first["plain"], "the head prefers the rejected side; a tie takes half of that away"


# ---------------------------------------------------------------- resuming


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_resumed_run_is_the_uninterrupted_one(bench: Bench, lora: dict[str, int] | None) -> None:
    name = "lora" if lora else "full"
    train = {"save_every": 2, "schedule": "linear", "schedule_steps": 8, "micro_batch": 4}
    straight = run(config(bench, f"straight-{name}", lora=lora, train=train | {"steps": 4}))
    run(config(bench, f"resumed-{name}", lora=lora, train=train | {"steps": 2}))
    resumed = run(config(bench, f"resumed-{name}", lora=lora, train=train | {"steps": 4}))
    assert largest_gap(weights(straight, 4), weights(resumed, 4)) == 0
    assert losses(straight) == losses(resumed)
    same_files(straight / "final", resumed / "final")


def test_micro_batches_and_chunks_give_the_same_gradient(bench: Bench) -> None:
    whole = run(config(bench, "whole", train={"steps": 2}))
    for name, change in (("micro", {}), ("chunked", {"backward": "chunked"})):
        split = run(config(bench, name, train={"steps": 2, "micro_batch": 3, **change}))
        assert losses(split) == pytest.approx(losses(whole), abs=1e-6), name


@pytest.mark.multiprocess
def test_two_processes_equal_one(bench: Bench) -> None:
    """Every weight that trains gets a gradient in both, the vocabulary head only where critiques are written,
    and the heads agree."""
    train = {"steps": 3, "lr": 1e-4, "eps": 1e-3, "batch": 6, "micro_batch": 2}
    head = {"head": {"init": "fresh", "type": "mlp"}}
    write_criticised(bench.folder / "criticised.jsonl")
    writes = {"model": head | {"critiques": True}, "objective": {"name": "critique_rm"}}
    writes["data"] = {"path": str(bench.folder / "criticised.jsonl")}
    cases: dict[str, dict[str, Any]] = {"full": {}, "lora": {"lora": LORA}, "critiques": writes}
    cases = {name: {"train": train, "model": head, **case} for name, case in cases.items()}
    files = []
    for name, case in cases.items():
        file = bench.folder / f"two-{name}.yaml"
        file.write_text(yaml.safe_dump(tree(bench, f"two-{name}", **case)))
        files.append(str(file))
    code, output = in_ranks(run_files, files, folder=bench.folder)
    assert code == 0, output[-3000:]
    for name, case in cases.items():
        one, two = run(config(bench, f"one-{name}", **case)), f"two-{name}"
        assert largest_gap(weights(one, 3), weights(bench.folder / two, 3)) < 2e-6
        assert losses(bench.folder / two) == pytest.approx(losses(one), abs=2e-6)


def test_bf16_and_checkpointing(bench: Bench) -> None:
    found = run(
        config(bench, "half", lora=LORA, train={"precision": "bf16", "checkpointing": True, "steps": 2})
    )
    assert all(torch.isfinite(torch.tensor(losses(found))))
    assert all(value.dtype == torch.float32 for value in weights(found, 2).values())


# ---------------------------------------------------------------- final weights


def scores_of(found: Path) -> list[float]:
    """Scores of four answers by the run's own adapter with the checkpoint in it, one row at a time."""
    opened = open_run(found)
    judge = RewardModel("unused")
    judge.__dict__["_adapter"] = opened.adapter  # the cached property, filled from the checkpoint
    return [judge.score(PROMPT, answer)["score"] for answer in ANSWERS]


PROMPT = (Message("text", (Part("text", "red fox 1?"),)),)
TEXTS = (" no red fox blue box", " yes red fox blue box", " the sky no the sky", " the sky yes the sky")
ANSWERS = [Part("text", text) for text in TEXTS]


@pytest.mark.parametrize("name", ["full", "lora"])
def test_final_run_folder_and_checkpoint_score_alike(done: dict[str, Path], name: str) -> None:
    expected = scores_of(done[name])
    for place in (done[name], done[name] / "final"):
        listed = RewardModel(str(place), batch=3).score_many([PROMPT] * 4, ANSWERS)
        assert [one["score"] for one in listed] == pytest.approx(expected, abs=1e-5)
    assert expected[0] > expected[1] and expected[2] > expected[3]


def test_final_is_upstream_format(bench: Bench, done: dict[str, Path]) -> None:
    _, info = AutoModelForCausalLM.from_pretrained(done["full"] / "final", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    base = AutoModelForCausalLM.from_pretrained(bench.model["text"]["path"])
    peft = PeftModel.from_pretrained(base, done["lora"] / "final")
    merged = {name for name, _ in peft.named_parameters() if "lora_B" in name}
    assert merged and all(bool(dict(peft.named_parameters())[name].abs().sum() > 0) for name in merged)
    for name in done:
        head = load_file(done[name] / "final" / "head.safetensors")["weight"]
        assert torch.equal(head, weights(done[name], 20)[HEAD])


def test_export(done: dict[str, Path], tmp_path: Path) -> None:
    for name, merge in (("full", False), ("lora", False), ("lora", True)):
        folder = tmp_path / f"{name}-{merge}"
        assert export(open_run(done[name]), folder, merge, torch.float32) < 1e-4
        answers = RewardModel(str(folder)).score_many([PROMPT] * 4, ANSWERS)
        assert [a["score"] for a in answers] == pytest.approx(scores_of(done[name]), abs=1e-4)


def test_training_goes_on_from_a_saved_model(bench: Bench, done: dict[str, Path]) -> None:
    """From the whole model, and from LoRA with its head: before the first step they know what was learned."""
    final = {name: str(folder / "final") for name, folder in done.items()}
    full = {"backbone": {"adapter": "text", "path": final["full"]}, "head": {}}
    lora = {"head": {"path": final["lora"]}}
    cases: list[tuple[str, dict[str, Any]]] = [
        ("again-full", {"model": full}),
        ("again-lora", {"model": lora, "lora": LORA | {"path": final["lora"]}}),
    ]
    for name, sections in cases:
        found = run(config(bench, name, data=kind_data(bench), **sections))
        start = next(line for line in metrics(found) if "heldout/accuracy" in line)
        assert start["heldout/accuracy"] > 0.9, name


# ---------------------------------------------------------------- refusals and the section


def refusal(made: RunConfig) -> str:
    with pytest.raises(UserError) as error:
        check_config(made)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"objective": {"name": "dpo"}}, "objective dpo needs ratio (log-likelihood ratios"),
        ({"objective": {"name": "sft"}}, "objective sft needs likelihood (log-likelihoods of responses)"),
        ({"objective": [{"name": "bt"}, {"name": "sft"}]}, "objective sft needs likelihood"),
        ({"transforms": {"name": "length_desensitized"}}, "transforms length_desensitized needs units"),
        ({"reference": {"name": "copy"}}, "this objective takes no reference"),
        ({"train": {"steps": 1, "draws": "fixed:2"}}, "train.draws=fixed:K"),
        ({"model": {"aspects": ["a", "b"]}}, "model.aspects: 2 are named, but objective bt trains one score"),
    ],
)
def test_what_cannot_run_on_a_reward_model(bench: Bench, sections: dict[str, Any], words: str) -> None:
    assert words in refusal(config(bench, "never", **sections))
    assert not (bench.folder / "never").exists()


def test_bradley_terry_on_a_language_model_says_what_to_use(bench: Bench) -> None:
    line = refusal(bench.config("text", "never", objective={"name": "bt"}))
    assert line.startswith("objective bt needs reward (") and "reward_head" in line


def test_a_row_without_the_label_is_named(bench: Bench) -> None:
    data = {**bench.tree("text", "never")["data"], "ties": "keep"}
    made = config(bench, "never", data=data, objective={"name": "bt", "ties": "label"})
    with pytest.raises(UserError, match=r"pairs.jsonl.* the objective needs the label 'tie'"):
        run(made)


def test_ties_that_are_dropped_cannot_be_learned_from(bench: Bench) -> None:
    data = {**kind_data(bench), "ties": "drop"}
    line = refusal(config(bench, "never", data=data, objective={"name": "bt", "ties": "label"}))
    assert line.startswith("data.ties=drop")


def test_the_section_survives_being_written_and_read(bench: Bench) -> None:
    made = config(bench, "x", model={"head": {"init": "fresh", "type": "mlp"}, "aspects": ["help"]})
    written = to_tree(made)
    assert written["model"]["backbone"]["append_eos"] is True, "defaults of the backbone are written out"
    assert from_tree(written, "test") == made and "max_new_tokens" in dump(made)


def test_one_run_judges_another_from_the_command_line(
    bench: Bench, done: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"generation": {"max_new_tokens": 6}}
    judged = run(bench.config("text", "judged", data=kind_data(bench), model=model, train={"steps": 2}))
    judge = f"{{name: reward_model, path: {done['lora']}, batch: 5}}"
    shown = call(capsys, "evaluate", judged, "--prompts", "4", "--judge", judge, "--json")
    assert shown.code == 0, shown.err
    assert set(json.loads(shown.out)["means"]) == {"score"}
    for row in json.loads((judged / "evaluation" / "results.json").read_text())["rows"]:
        assert row["base_scores"].keys() == row["tuned_scores"].keys() == {"score"}
    refused = call(capsys, "evaluate", judged, "--judge", "{name: reward_model, pth: x}")
    assert refused.code == 2 and "--judge: unknown key pth" in refused.refusal
    refused = call(capsys, "evaluate", done["lora"], "--prompts", "2")
    assert refused.code == 2 and "scores responses and writes none" in refused.refusal
