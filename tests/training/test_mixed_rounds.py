"""Rounds that mix the data's own pairs in: their share, what trains, and runs that go on alike."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Bench, losses, metrics, same_files

from mmalign.config import RunConfig
from mmalign.training._held_prompts import held_out
from mmalign.training._online_sampling import Asked, Sampling
from mmalign.training.checks import check_config
from mmalign.training.console import Console
from mmalign.training.inspection.check import inspect
from mmalign.training.online import OnlineData
from mmalign.training.rows import load_data
from mmalign.training.run import run
from mmalign.training.world import World
from mmalign.types import PreferenceSample, UserError

ONLINE = {
    "judge": {"name": "test_online:Letters"},
    "prompts": 8,
    "n": 4,
    "steps": 2,
    "batch": 4,
    "offline": 0.5,
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Bench(tmp_path_factory.mktemp("mixed"))
    path = Path(bench.data["text"]["path"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps(row | {"bdhs": f" blind {row['id']}"}) for row in rows) + "\n")
    yield bench
    torch.set_num_threads(threads)


def config_of(bench: Bench, output: str, steps: int = 4, **sections: Any) -> RunConfig:
    settings: dict[str, Any] = {
        "objective": {"name": "dpo"},
        "model": {"generation": {"max_new_tokens": 8}},
        "train": {"steps": steps, "batch": 4, "lr": 1e-3},
        **sections,
        "online": ONLINE | sections.get("online", {}),
    }
    return bench.config("text", output, **settings)


def rounds_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(output.glob("rounds/*/round.json"))]


def round_samples(config: RunConfig, record: dict[str, Any]) -> list[PreferenceSample]:
    world = World(0, 1, torch.device("cpu"))
    console = Console(world, progress=False, quiet=True)
    data = OnlineData.of(load_data(config, world, console), console)
    data.current = record
    return data.round_samples(config)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_every_prompt_of_every_round_is_drawn_by_itself(bench: Bench, share: float) -> None:
    config = config_of(bench, "unused", online={"offline": share})
    drawn = []
    for number in range(2):
        sampling = Sampling(config, None, number)  # type: ignore[arg-type]
        asked = [Asked(place, f"row-{place % 24}", ()) for place in range(1000)]
        drawn.append([sampling.is_offline(one) for one in asked])
        assert drawn[-1] == [sampling.is_offline(one) for one in asked]
        assert abs(sum(drawn[-1]) / 1000 - share) < 3 * (share * (1 - share) / 1000) ** 0.5
    both = sum(a and b for a, b in zip(*drawn, strict=True)) / 1000
    assert abs(both - share**2) < 0.04, "rounds are drawn apart"
    plain = Sampling(config_of(bench, "unused", online={"offline": None}), None, 0)  # type: ignore[arg-type]
    assert not any(map(plain.is_offline, asked))


@pytest.mark.parametrize("objective", ["dpo", "bdhs"])
def test_pairs_of_the_data_train_beside_sampled_ones(bench: Bench, objective: str) -> None:
    config = config_of(bench, objective, objective={"name": objective})
    output = run(config)
    rows = {
        row["id"]: row for row in map(json.loads, Path(bench.data["text"]["path"]).read_text().splitlines())
    }
    kinds = []
    for record in rounds_of(output):
        for held, sample in zip(record["samples"], round_samples(config, record), strict=True):
            offline = held.get("offline", False)
            kinds.append(offline)
            row = rows[held["prompt"]]
            texts = {role: one.response[0].data for role, (one,) in sample.examples.items() if one.response}
            if offline:
                assert held["answers"] == {} and sample.weight == row["weight"]
                assert texts == {role: row[role] for role in ("chosen", "rejected", "bdhs")}
            else:
                own = {role: answer["text"] for role, answer in held["answers"].items()}
                assert own.keys() == {"chosen", "rejected"} and sample.weight == 1
                blind = {"bdhs": own["rejected"]} if objective == "bdhs" else {}
                assert texts == own | blind
    assert {True, False} == set(kinds)
    assert losses(output)[0] == pytest.approx(0.693147, abs=1e-5)


def test_a_run_stopped_inside_a_round_goes_on_bit_for_bit(bench: Bench) -> None:
    straight = run(config_of(bench, "straight"))
    run(config_of(bench, "resumed", steps=3))
    resumed = run(config_of(bench, "resumed"))
    assert losses(straight) == losses(resumed)
    same_files(straight / "final", resumed / "final")
    same_files(straight / "rounds", resumed / "rounds")


def test_held_out_pairs_are_scored_as_in_any_run(bench: Bench) -> None:
    train = {"steps": 2, "batch": 4, "lr": 1e-3, "eval_every": 1}
    config = config_of(bench, "measured", data={"heldout": 4}, train=train, evaluation={"grid": 1})
    lines = metrics(run(config))
    found = {line["step"]: line["heldout/loss"] for line in lines if "heldout/loss" in line}
    assert found.keys() == {0, 1, 2} and found[0] == pytest.approx(0.693147, abs=1e-5)
    plain = bench.config("text", "plain", data={"heldout": 4}, train={"steps": 1, "batch": 4, "lr": 1e-3})
    (start,) = (line["heldout/reward/margin"] for line in metrics(run(plain)) if line["step"] == 0)
    (ours,) = (line["heldout/reward/margin"] for line in lines if line["step"] == 0)
    assert ours == start
    unmeasured = run(config_of(bench, "unmeasured", 2, data={"heldout": 4}))
    same_files(Path(config.output) / "final", unmeasured / "final")
    told: list[str] = []
    assert inspect(config, told.extend).usable["held-out"] == 4
    assert any("held-out: 4 pairs, scored as in any run" in line for line in told)


def test_held_out_prompts_of_rounds_are_said_to_be_measured_by_nothing(bench: Bench) -> None:
    rows = bench.folder / "asked.jsonl"
    rows.write_text('{"id": "asked", "prompt": "why?"}\n')
    mixed = {"heldout": {"source": "jsonl", "path": str(rows)}}
    for name, sections in (
        ("alone", {"data": {"heldout": 4}, "online": {"offline": None}}),
        ("mixed", mixed),
    ):
        output = run(config_of(bench, name, 1, **sections))
        notes = json.loads((output / "run.json").read_text())["notes"]
        assert sum("rounds score none; mmalign evaluate answers" in note for note in notes) == 1
        assert not any(key.startswith("heldout/") for line in metrics(output) for key in line)
        train = {"steps": 1, "batch": 4, "eval_every": 1}
        with pytest.raises(UserError, match=r"^train.eval_every: .*; remove it, or set evaluation.grid"):
            run(config_of(bench, "never", 1, **sections, train=train))
    check_config(config_of(bench, "never", 1, **sections, train=train, evaluation={"grid": 1}))


def test_held_out_prompts_are_not_called_data(bench: Bench) -> None:
    config = bench.config("text", "unused")
    world = World(0, 1, torch.device("cpu"))
    samples = load_data(config, world, Console(world, progress=False, quiet=True)).pools[0].samples[:3]
    notes: list[str] = []
    assert len(held_out(samples, config, ("prompt",), notes)) == 3
    assert notes == ["held-out data: 3 different prompts of 3 rows; answers are not read"]


def test_the_check_samples_and_names_rows_that_are_no_pairs(bench: Bench) -> None:
    path = bench.folder / "odd.jsonl"
    text = Path(bench.data["text"]["path"]).read_text()
    path.write_text(text + json.dumps({"id": "odd", "prompt": "why?", "completion": " no"}) + "\n")
    config = config_of(bench, "checked", data={"path": str(path)})
    found = inspect(config, lambda lines: None)
    assert found.usable["training"] == 24 and found.round is not None and found.round.samples
    assert any("no chosen and rejected, which online.offline" in line for line in found.findings)
    with pytest.raises(UserError, match=r"odd.jsonl row 25.*online.offline trains on"):
        run(config)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"objective": {"name": "kto"}},
            "online.offline: mixes in pairs, and this objective learns from none",
        ),
        ({"objective": {"name": "bdhs"}, "online": {"offline": None}}, "and no 'bdhs'"),
        ({"online": {"offline": 1.0}}, r"online.offline: must lie in \(0, 1\), got 1.0"),
    ],
)
def test_what_cannot_work_is_refused(bench: Bench, sections: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        check_config(config_of(bench, "never", **sections))
    assert "\n" not in str(error.value)
