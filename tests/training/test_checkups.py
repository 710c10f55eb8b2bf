"""What a run measures beside training: fixed noise levels and answers; and that neither disturbs it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Bench, losses, metrics, same_files

from mmalign.config import RunConfig
from mmalign.evaluation import over_training
from mmalign.training.checkups import untouched_randomness
from mmalign.training.console import Console
from mmalign.training.finished import open_run
from mmalign.training.rows import load_data
from mmalign.training.run import run
from mmalign.training.setup import build_policy
from mmalign.training.world import World
from mmalign.types import UserError, derive_seed

SECTION = {"levels": 3, "level_pairs": 2, "grid": 2}
LORA = {"rank": 4, "init": "gaussian"}
MODEL = {"generation": {"steps": 2, "guidance": 2.0}}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("bench"))
    torch.set_num_threads(threads)


def config(bench: Bench, output: str, kind: str = "image", **sections: Any) -> RunConfig:
    base: dict[str, Any] = {"data": {"heldout": 4}, "evaluation": SECTION}
    if kind == "image":
        base |= {"lora": LORA, "model": MODEL}
    base["train"] = {"eval_every": 2, "steps": 4, "lr": 1e-2} | sections.pop("train", {})
    return bench.config(kind, output, **(base | sections))


@pytest.fixture(scope="module")
def done(bench: Bench) -> Path:
    return run(config(bench, "whole"))


def held(folder: Path) -> list[dict[str, float]]:
    return [line for line in metrics(folder) if any(name.startswith("heldout/") for name in line)]


def test_levels_are_measured_at_every_evaluation_with_the_same_noise(done: Path) -> None:
    lines = held(done)
    assert [line["step"] for line in lines] == [0, 2, 4]
    levels = {name.split("/")[2] for name in lines[0] if name.startswith("heldout/level/0")}
    assert levels == {"0.167", "0.500", "0.833"}
    for level in levels:
        for side in "wl":
            errors = {line[f"heldout/level/{level}/ref_err_{side}"] for line in lines}
            assert len(errors) == 1, "the reference is frozen and so is the noise"
            assert lines[0][f"heldout/level/{level}/err_{side}"] in errors
        assert lines[0][f"heldout/level/{level}/implicit_acc"] == 0.5
    first, last = lines[0], lines[-1]
    assert (first["heldout/level/Dw"], first["heldout/level/Dl"], first["heldout/level/Dw/std"]) == (0, 0, 0)
    assert first["heldout/level/pairs"] == 2 and first["heldout/level/pair_acc"] == 0.5
    gap = last["heldout/level/err_w"] - last["heldout/level/ref_err_w"]
    assert last["heldout/level/Dw"] == pytest.approx(gap, abs=1e-6) and abs(gap) > 1e-5


def test_errors_are_those_of_the_model_at_that_level(bench: Bench, done: Path) -> None:
    made = config(bench, "whole")
    adapter = build_policy(made, torch.device("cpu"))
    world = World(0, 1, torch.device("cpu"))
    data = load_data(made, world, Console(world, progress=False, quiet=True))
    items = data.heldout_items(adapter, made)[:2]
    batch = adapter.collate(adapter.encode([item.prepared for item in items]), ("chosen", "rejected"))
    for number, level in enumerate(("0.167", "0.500", "0.833")):
        draw = dict(adapter.draw(batch, [derive_seed(0, 0, i.id, f"heldout/level/{number}") for i in items]))
        draw["timestep"] = torch.full((2, 1), (166, 500, 832)[number])  # of 1000 levels
        scored = adapter.logprobs(adapter.policy.eval(), batch, draw, frozenset())
        assert scored.error is not None
        for side, role in (("w", "chosen"), ("l", "rejected")):
            expected = float(scored.error[batch.rows_of(role)].mean())
            assert held(done)[0][f"heldout/level/{level}/err_{side}"] == pytest.approx(expected, rel=1e-5)


def test_what_a_pair_of_errors_says_is_always_logged(done: Path) -> None:
    first, *_ = [line for line in metrics(done) if "loss" in line]
    assert {"Dw", "Dl", "z", "z/std", "grad_weight"} <= first.keys()
    assert first["Dw"] == first["Dl"] == first["z"] == 0 and first["grad_weight"] == 0.5
    last = held(done)[-1]
    gap = last["heldout/error/chosen"] - last["heldout/reference_error/chosen"]
    assert last["heldout/Dw"] == pytest.approx(gap, abs=1e-6)
    assert last["heldout/z"] == last["heldout/reward/margin"] and last["heldout/z/std"] > 0


def test_measuring_leaves_training_as_it_was(bench: Bench, done: Path) -> None:
    bare = run(config(bench, "bare", evaluation={"levels": 0, "grid": 0}))
    assert losses(bare) == losses(done)
    same_files(bare / "final", done / "final")
    assert not (bare / "evaluation").exists()
    assert all("level" not in name for line in metrics(bare) for name in line)


def test_a_resumed_run_measures_the_same(bench: Bench, done: Path) -> None:
    run(config(bench, "resumed", train={"steps": 3}))
    grid = bench.folder / "resumed" / "evaluation" / "grid"
    assert {path.name for path in grid.glob("*.json")} == {f"step-00000{i}.json" for i in (0, 2, 3)}
    resumed = run(config(bench, "resumed"))
    assert [line for line in held(resumed) if line["step"] != 3] == held(done)
    for path in (done / "evaluation" / "grid").iterdir():
        assert (grid / path.name).read_bytes() == path.read_bytes(), path.name
    same_files(done / "final", resumed / "final")


def test_pictures_over_training_start_as_the_base_model_draws(bench: Bench, done: Path) -> None:
    snapshots = over_training.read(done)
    assert [one.step for one in snapshots] == [0, 2, 4]
    assert all(one.ids == snapshots[0].ids and len(one.answers) == 2 for one in snapshots)
    finished = open_run(done)
    seeds = [derive_seed(0, 0, name, "sample") for name in snapshots[0].ids]
    by_id = {
        s.id: s
        for pool in load_data(
            finished.config,
            World(0, 1, torch.device("cpu")),
            Console(World(0, 1, torch.device("cpu")), progress=False, quiet=True),
        ).heldout
        for s in pool.samples
    }
    turns = [by_id[name].examples["chosen"][0].prompt for name in snapshots[0].ids]
    for one, switch in ((snapshots[0], finished.base), (snapshots[-1], finished.tuned)):
        with switch() as model:
            again = finished.adapter.generate(model, turns, seeds)
        assert [a.data.tobytes() for a in one.answers] == [b.data.tobytes() for b in again]


def test_text_models_have_no_levels_and_answer_only_if_asked(bench: Bench) -> None:
    quiet = run(config(bench, "text-quiet", "text", evaluation={"levels": 3}))
    assert all("level" not in name for line in metrics(quiet) for name in line)
    assert not (quiet / "evaluation").exists()
    model = {"generation": {"max_new_tokens": 4}}
    prompts = bench.folder / "asked.txt"
    prompts.write_text("why?\nwhat is red?\nwho?\n")
    section = {"grid": 3, "prompts": str(prompts)}
    spoken = run(config(bench, "text-asked", "text", model=model, evaluation=section, data={}))
    snapshots = over_training.read(spoken)
    assert [one.step for one in snapshots] == [0, 2, 4] and snapshots[0].texts == (
        "why?",
        "what is red?",
        "who?",
    )
    assert all(part.kind == "text" for one in snapshots for part in one.answers)


def test_a_cached_reference_is_live_at_the_levels_where_lora_is_off(bench: Bench, done: Path) -> None:
    cached = run(config(bench, "off", reference={"name": "cached"}, train={"draws": "fixed:2"}))
    for name, value in held(done)[0].items():
        if "level" in name:
            assert held(cached)[0][name] == pytest.approx(value, rel=1e-6), name
    assert held(cached)[-1]["heldout/level/Dw"] != 0


def test_a_cached_reference_was_not_scored_at_the_levels(bench: Bench) -> None:
    train = {"draws": "fixed:2"}
    cached = run(
        config(
            bench,
            "cached",
            lora=None,
            reference={"name": "cached"},
            train=train,
            evaluation={"levels": 2, "grid": 0},
        )
    )
    names = {name for name in held(cached)[0] if "level" in name}
    assert "heldout/level/0.250/err_w" in names and not any("ref" in n or "Dw" in n for n in names)
    notes = json.loads((cached / "run.json").read_text())["notes"]
    assert any("at fixed noise levels only the policy's errors" in note for note in notes)


MOVING = {"name": "ema", "decay": 0.0, "every": 1}  # right behind the policy: it hides every rise


def test_against_a_reference_that_moves_errors_are_compared_with_their_start(bench: Bench) -> None:
    whole = held(run(config(bench, "moving", reference=MOVING)))
    first, _, last = whole
    assert first["heldout/level/rise_w"] == first["heldout/level/rise_w/std"] == 0
    for line in whole:
        for side in "wl":
            rise = line[f"heldout/level/err_{side}"] - first[f"heldout/level/err_{side}"]
            assert line[f"heldout/level/rise_{side}"] == pytest.approx(rise, abs=1e-6)
        assert line["heldout/level/start_err_w"] == pytest.approx(first["heldout/level/err_w"], rel=1e-6)
        assert line["heldout/level/Dw"] == 0, "the reference is the policy"
    assert abs(last["heldout/level/rise_w"]) > 1e-5 and last["heldout/level/rise_w/std"] > 0


def test_a_resumed_run_knows_the_errors_at_its_start(bench: Bench) -> None:
    whole = held(run(config(bench, "moving", reference=MOVING)))
    run(config(bench, "moving-resumed", reference=MOVING, train={"steps": 3}))
    resumed = run(config(bench, "moving-resumed", reference=MOVING))
    assert [line for line in held(resumed) if line["step"] != 3] == whole
    run(config(bench, "moving-other", reference=MOVING, train={"steps": 3}))
    other = run(config(bench, "moving-other", reference=MOVING, evaluation=SECTION | {"levels": 2}))
    assert "heldout/level/rise_w" not in held(other)[-1] and "heldout/level/Dw" in held(other)[-1]
    notes = json.loads((other / "run.json").read_text())["notes"]
    assert any("the errors at the start of the run are not known at these levels" in note for note in notes)


def test_the_split_into_micro_batches_changes_no_level(bench: Bench, done: Path) -> None:
    train = {"micro_batch": 1}
    small = run(config(bench, "small", train=train, evaluation={**SECTION, "grid": 0}))
    for ours, theirs in zip(held(small)[:1], held(done)[:1], strict=True):
        for name in (name for name in theirs if "level" in name):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-7), name


def test_refusals(bench: Bench) -> None:
    with pytest.raises(UserError, match="evaluation.grid: there are no prompts; add section heldout"):
        run(config(bench, "never", data={}, train={"eval_every": None}))
    assert not (bench.folder / "never" / "run.json").exists()
    for field, value, rule in (
        ("levels", -1, "0 or more"),
        ("grid", -2, "0 or more"),
        ("level_pairs", 0, "above 0"),
    ):
        with pytest.raises(UserError, match=f"evaluation.{field}: must be {rule}, got {value}"):
            config(bench, "never", evaluation={field: value})


def test_randomness_goes_on_as_if_nothing_had_been_drawn() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with untouched_randomness(torch.device("cpu")):
        torch.rand(17)
    assert torch.equal(torch.rand(4), expected)


def test_levels_that_never_train_are_not_measured(bench: Bench) -> None:
    for timesteps, wanted in (
        ({"levels": [249, 499, 749, 999]}, {"0.249", "0.499", "0.750", "1.000"}),
        ({"max": 0.2}, {"0.012", "0.037", "0.062", "0.087", "0.112", "0.137", "0.162", "0.187"}),
    ):
        folder = run(
            bench.config(
                "image",
                f"levels-{len(wanted)}",
                data={"heldout": 2},
                model={"timesteps": timesteps},
                train={"steps": 1},
                evaluation={"levels": 8, "grid": 0},
            )
        )
        line = metrics(folder)[0]
        assert {
            name.split("/")[2] for name in line if name.startswith(("heldout/level/0", "heldout/level/1"))
        } == wanted
