"""Training in rounds on what the policy samples: what a round holds, runs that gain and resume, refusals."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_runs import Bench, add_vision, losses, metrics, same_files

from mmalign.config import RunConfig
from mmalign.rewards._scoring import score_all
from mmalign.rewards.brightness import Brightness
from mmalign.training._online_making import Making, add_advantages
from mmalign.training.checks import check_config
from mmalign.training.finished import export, open_run
from mmalign.training.run import run
from mmalign.types import Message, Part, UserError

LORA = {"rank": 4, "targets": ["to_q", "to_k", "to_v", "to_out.0"]}
JUDGE = Brightness()
ONLINE: dict[str, Any] = {"judge": {"name": "brightness"}, "prompts": 4, "n": 2, "steps": 2, "batch": 2}
OBJECTIVES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "dpo": ({"name": "dpo", "beta": 2000}, {}, {}),
    "d3po": ({"name": "d3po", "beta": 100.0}, {}, {}),
    "ddpo": ({"name": "ddpo"}, {"reference": {"name": "ema", "decay": 0.0, "every": 2}}, {}),
    "spo": ({"name": "spo", "threshold": 0.0}, {}, {"unbranched": 1}),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("online"))
    torch.set_num_threads(threads)


def config_of(bench: Bench, name: str, output: str, steps: int = 4, **sections: Any) -> RunConfig:
    objective, extra, online = OBJECTIVES[name]
    train = {"steps": steps, "batch": 3, "micro_batch": 2, "lr": 0.01, **sections.pop("train", {})}
    settings: dict[str, Any] = {
        "lora": LORA,
        "objective": objective,
        "model": {"resolution": 16, "generation": {"steps": 4, "guidance": 2.0}},
        "online": {**ONLINE, **online, **sections.pop("online", {})},
        "train": train,
        **extra,
        **sections,
    }
    return bench.config("image", output, **settings)


def record_of(output: Path, number: int) -> dict[str, Any]:
    return dict(json.loads((output / "rounds" / f"{number:05d}" / "round.json").read_text()))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_run_stopped_inside_a_round_goes_on_bit_for_bit(bench: Bench, name: str) -> None:
    straight = run(config_of(bench, name, f"{name}-straight"))
    run(config_of(bench, name, f"{name}-resumed", steps=3))
    rounds = bench.folder / f"{name}-resumed" / "rounds"
    assert sorted(p.name for p in rounds.iterdir()) == ["00000", "00001"]
    resumed = run(config_of(bench, name, f"{name}-resumed"))
    same_files(straight / "final", resumed / "final")
    same_files(straight / "rounds", resumed / "rounds")
    assert losses(straight) == losses(resumed)
    told = [line["round/score"] for line in metrics(straight) if "round/score" in line]
    assert len(told) == 2 and [line.get("round/score") for line in metrics(resumed)] == [
        line.get("round/score") for line in metrics(straight)
    ]


@dataclass(frozen=True)
class InFull:
    """How bright a picture is; not to be asked under autocast, where its own products would be rounded."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> dict[str, float]:
        assert not torch.is_autocast_enabled("cpu")
        return dict(JUDGE.score(prompt, response))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_half_precision_is_the_policys_and_not_the_judges(bench: Bench, name: str) -> None:
    judge = {"judge": {"name": "test_online:InFull"}}
    run(config_of(bench, name, f"{name}-half", steps=1, train={"precision": "bf16"}, online=judge))


def test_a_run_in_half_precision_goes_on_inside_a_round_bit_for_bit(bench: Bench) -> None:
    """What a round remembers of its captions, a resumed run encodes anew."""

    def part(steps: int, output: str) -> RunConfig:
        return config_of(bench, "dpo", output, steps, train={"precision": "bf16"})

    straight = run(part(4, "half-straight"))
    run(part(3, "half-resumed"))
    resumed = run(part(4, "half-resumed"))
    assert losses(straight) == losses(resumed)
    same_files(straight / "final", resumed / "final")
    same_files(straight / "rounds", resumed / "rounds")


def test_two_samples_per_prompt_make_a_note_where_advantages_are_trained_on(bench: Bench) -> None:
    def notes(name: str, n: int) -> list[str]:
        found = check_config(config_of(bench, name, "notes", online={"n": n}))
        return [line for line in found if line.startswith("online.n: ")]

    (line,) = notes("ddpo", 2)
    assert "advantage 1 and the other -1" in line and "\n" not in line
    assert not notes("ddpo", 3) and not notes("ddpo", 1) and not notes("d3po", 2)


def brighter(folder: Path) -> float:
    """Share of pictures, of the same prompts and seeds, that training made brighter."""
    finished = open_run(folder)
    prompts = [(Message("text", (Part("text", f"cat {i}"),)),) for i in range(12)]
    scores = []
    for switch in (finished.base, finished.tuned):
        with switch() as model:
            pictures = finished.adapter.generate(model, prompts, range(12))
        scores.append([one["score"] for one in score_all(JUDGE, prompts, pictures)])
    return sum(after > before for before, after in zip(*scores, strict=True)) / 12


@pytest.mark.parametrize("name", ["dpo", "d3po", "spo"])
def test_answers_please_the_judge_more_after_some_rounds(bench: Bench, name: str) -> None:
    config = config_of(
        bench,
        name,
        f"{name}-gains",
        steps=5,
        train={"batch": 8, "micro_batch": 8, "lr": 0.003 if name == "dpo" else 0.03},
        online={"prompts": 8, "n": 3 if name == "dpo" else 2, "steps": 1},
    )
    assert brighter(run(config)) >= 0.75


def test_paths_of_more_reward_become_likelier(bench: Bench) -> None:
    """Steps on one round of DDPO: the density rises with the advantage, so the loss falls below its start,
    minus the mean advantage, which is 0."""
    config = config_of(
        bench,
        "ddpo",
        "one-round",
        steps=6,
        train={"batch": 16, "micro_batch": 16, "lr": 1e-3},
        online={"prompts": 8, "steps": 6},
        objective={"name": "ddpo", "clip": 0.5},
        reference={"name": "ema", "decay": 0.0, "every": 6},
    )
    found = losses(run(config))
    assert found[0] == pytest.approx(0, abs=1e-5)
    assert all(later < earlier for earlier, later in pairwise(found))


def test_a_round_is_made_once_and_only_by_the_weights_that_stand_then(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    original = Making.make

    def counted(self: Making, weights: str, identity: str) -> dict[str, Any]:
        made.append(self.index)
        return original(self, weights, identity)

    monkeypatch.setattr(Making, "make", counted)
    output = run(config_of(bench, "dpo", "once", steps=3, train={"save_every": 2}))
    assert made == [0, 1]  # the checks before the first step make no round of their own
    shutil.rmtree(output / "checkpoints" / "step-000003")
    run(config_of(bench, "dpo", "once", steps=3, train={"save_every": 2}))
    assert made == [0, 1]  # the second round stands on the disk, and the weights are those that made it
    shutil.rmtree(output / "checkpoints" / "step-000003")
    path = output / "rounds" / "00001" / "round.json"
    path.write_text(json.dumps(record_of(output, 1) | {"weights": "others"}))
    run(config_of(bench, "dpo", "once", steps=3, train={"save_every": 2}))
    assert made == [0, 1, 1]
    shutil.rmtree(output / "rounds" / "00001")
    with pytest.raises(UserError, match=r"00001 is gone, in the middle of which the run is to go on"):
        run(config_of(bench, "dpo", "once", steps=4, train={"save_every": 2}))


def test_a_round_holds_what_was_judged(bench: Bench) -> None:
    """Prompts follow each other through the data, samples name files, and the better side scores more."""
    output = run(config_of(bench, "d3po", "held", steps=4))
    first, second = record_of(output, 0), record_of(output, 1)
    assert (first["next_block"], second["next_block"]) == (1, 2)
    asked = [sample["prompt"] for sample in (*first["samples"], *second["samples"])]
    assert len(set(asked)) == 8  # of ten prompts: none comes again before all have been asked
    for sample in second["samples"]:
        gap = sample["scores"]["chosen"]["score"] - sample["scores"]["rejected"]["score"]
        assert gap > 0 and sample["labels"]["margin"] == pytest.approx(gap)
        tensors = load_file(output / "rounds" / "00001" / sample["paths"])
        assert tensors["chosen/path"].shape == (5, 4, 8, 8)
        assert not torch.equal(tensors["chosen/path"], tensors["rejected/path"])
        for role in ("chosen", "rejected"):
            picture = Image.open(output / "rounds" / "00001" / sample["answers"][role]["image"])
            score = JUDGE.score((), Part("image", picture))["score"]
            assert score == pytest.approx(sample["scores"][role]["score"], abs=1e-6)
    old = [p.name for p in (output / "rounds" / "00000").glob("*.safetensors")]
    assert not old  # no checkpoint comes back to the first round: its paths are let go


@pytest.mark.parametrize("name", ["d3po", "ddpo", "spo"])
def test_a_path_a_few_steps_at_a_time_has_the_gradient_of_the_whole(bench: Bench, name: str) -> None:
    whole = run(config_of(bench, name, f"{name}-whole", steps=2))
    parts = {"backward": "chunked", "step_chunk": 2, "micro_batch": 1}
    apart = run(config_of(bench, name, f"{name}-apart", steps=2, train=parts))
    assert losses(apart) == pytest.approx(losses(whole), rel=1e-3, abs=1e-4)
    norms = [[line["grad_norm"] for line in metrics(run) if "grad_norm" in line] for run in (whole, apart)]
    assert norms[0][0] > 0 and norms[1][0] == pytest.approx(norms[0][0], rel=1e-3)


def test_texts_are_answered_judged_and_trained_on(bench: Bench) -> None:
    for name, objective in (("dpo", {"name": "dpo"}), ("kto", {"name": "kto"})):

        def part(steps: int, output: str, objective: Any = objective) -> RunConfig:
            return bench.config(
                "text",
                output,
                objective=objective,
                model={"generation": {"max_new_tokens": 12}},
                online={**ONLINE, "judge": {"name": "test_online:Letters"}, "n": 4},
                train={"steps": steps, "batch": 4, "lr": 1e-3},
            )

        straight = run(part(4, f"text-{name}-straight"))
        run(part(3, f"text-{name}-resumed"))
        resumed = run(part(4, f"text-{name}-resumed"))
        same_files(straight / "final", resumed / "final")
        assert losses(straight) == losses(resumed)
        (sample, *_) = record_of(straight, 0)["samples"]
        assert sample["answers"]["chosen"]["text"].count("e") > sample["answers"]["rejected"]["text"].count(
            "e"
        )


@dataclass(frozen=True)
class Letters:
    """How often a text has the letter e."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> dict[str, float]:
        return {"score": float(response.data.count("e"))}


def test_a_judge_that_never_decides_stops_the_run(bench: Bench) -> None:
    config = config_of(bench, "dpo", "even", online={"judge": {"name": "test_online:Even"}})
    with pytest.raises(RuntimeError, match=r"32 prompts make 0 samples.*score alike': 32"):
        run(config)


@dataclass(frozen=True)
class Even:
    """The same for all."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> dict[str, float]:
        return {"score": 1.0}


def test_advantages_in_numbers() -> None:
    def samples(*scores: float) -> list[dict[str, Any]]:
        return [
            {"id": f"round 0/{i // 2}/p/{i % 2}", "labels": {"advantage": s}} for i, s in enumerate(scores)
        ]

    own = samples(1.0, 3.0, 5.0, 5.0)
    add_advantages(own, True)
    assert [one["labels"]["advantage"] for one in own] == pytest.approx([-1.0, 1.0, 0.0, 0.0], abs=1e-5)
    whole = samples(1.0, 3.0, 5.0, 7.0)
    add_advantages(whole, False)
    assert [one["labels"]["advantage"] for one in whole] == pytest.approx(
        [-1.3416408, -0.4472136, 0.4472136, 1.3416408], abs=1e-5
    )


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no-section": ("d3po", {"online": None}, "add section online"),
    "reference": ("ddpo", {"reference": {"name": "auto"}}, "ema, decay: 0, every: 2"),
    "epochs": ("dpo", {"train": {"steps": None, "epochs": 1.0}}, "train.epochs: rounds make"),
    "cached": (
        "dpo",
        {"reference": {"name": "cached"}, "train": {"draws": "fixed:1"}},
        "every round has new samples",
    ),
    "one": ("dpo", {"online": {"n": 1}}, "online.n: two or more"),
    "few": ("dpo", {"online": {"prompts": 2}}, "2 give at most 2 samples"),
    "strategy": ("spo", {"online": {"strategy": "all"}}, "online.strategy: not read"),
    "unbranched": ("dpo", {"online": {"unbranched": 1}}, "online.unbranched: not read"),
    "dropout": ("d3po", {"model": {"caption_dropout": 0.1}}, "model.caption_dropout: stored paths draw"),
    "deferred": (
        "d3po",
        {"train": {"backward": "deferred", "micro_batch": 1}},
        "only for an objective on the steps",
    ),
    "label": ("dpo", {"objective": {"name": "densedpo"}}, "label 'segments', which no round gives"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused(bench: Bench, case: str) -> None:
    name, sections, words = REFUSED[case]
    given = {key: value for key, value in sections.items() if key != "online"}
    config = config_of(bench, name, "refused", **given, online=sections.get("online") or {})
    if case == "no-section":
        config = replace(config, online=None)
    with pytest.raises(UserError, match=words):
        check_config(config)


def test_more_prompts_than_the_data_has_are_refused(bench: Bench) -> None:
    with pytest.raises(UserError, match="12 are more than the data has, 10"):
        run(config_of(bench, "dpo", "many", online={"prompts": 12}))


def test_heldout_prompts_are_answered_and_what_was_trained_is_exported(bench: Bench, tmp_path: Path) -> None:
    output = run(config_of(bench, "d3po", "evaluated", steps=2, data={"heldout": 2}, train={"eval_every": 1}))
    assert len(list((output / "evaluation" / "grid").rglob("*.png"))) > 0
    assert not any(name.startswith("heldout/") for line in metrics(output) for name in line)
    assert export(open_run(output), tmp_path / "lora", False, torch.float32) < 1e-4


def test_what_a_killed_process_left_is_made_anew(bench: Bench) -> None:
    """A folder with the beginnings of its first round and no config yet is no other run's."""
    folder = bench.folder / "killed"
    (folder / "rounds" / ".00000.tmp").mkdir(parents=True)
    (folder / "rounds" / ".00000.tmp" / "00000-000-chosen.png").write_bytes(b"torn")
    (folder / ".lock").touch()
    output = run(config_of(bench, "dpo", "killed", steps=1))
    assert not (output / "rounds" / ".00000.tmp").exists() and record_of(output, 0)["samples"]


def test_prompts_with_pictures_are_answered_too(bench: Bench) -> None:
    add_vision(bench, "llava")
    config = bench.config(
        "seeing",
        "seeing",
        model={"generation": {"max_new_tokens": 8}},
        online={**ONLINE, "judge": {"name": "test_online:Letters"}, "n": 4, "steps": 1},
        train={"steps": 2, "batch": 2, "lr": 1e-3},
    )
    assert losses(run(config))[0] == pytest.approx(0.693147, abs=1e-5)
