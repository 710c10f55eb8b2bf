"""Rounds of objective bdhs: answers written blind by the policy as it stands, for every pair of a round."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from blind_rounds import BLIND, Make
from test_schema import WHOLE, valid
from tiny_runs import losses, same_files, weights

from mmalign.blind.answers import Blind, BlindWriter, Subject
from mmalign.config import RunConfig, from_tree, to_tree
from mmalign.data._prompts import decode_prompts
from mmalign.rewards._alike import Likeness
from mmalign.training._state import trainable_tensors
from mmalign.training.checks import check_config
from mmalign.training.console import Console
from mmalign.training.inspection._reading import read
from mmalign.training.inspection.check import inspect
from mmalign.training.online import OnlineData
from mmalign.training.rows import load_data
from mmalign.training.run import run
from mmalign.training.setup import build_policy
from mmalign.training.world import World
from mmalign.types import PreferenceSample, UserError, derive_seed

WITHOUT = "answers written blind, without which their pairs train (rows without a picture or clip)"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return Make.in_folder(tmp_path_factory.mktemp("blind"))


@pytest.fixture(scope="module")
def straight(make: Make) -> Path:
    """A run of two rounds."""
    return run(make("straight"))


def records(output: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(output.glob("rounds/*/round.json"))]


def round_samples(config: RunConfig, record: dict[str, Any]) -> list[PreferenceSample]:
    console = Console(world := World(0, 1, torch.device("cpu")), progress=False, quiet=True)
    data = OnlineData.of(load_data(config, world, console), console)
    data.current = record
    return data.round_samples(config)


def told(sample: PreferenceSample) -> dict[str, str]:
    return {role: one.response[0].data for role, (one,) in sample.examples.items() if role != "prompt"}


def test_every_pair_about_a_picture_has_a_new_answer(make: Make, straight: Path) -> None:
    given = make.rows()
    kinds = set()
    for record in records(straight):
        lacking = 0
        for held, sample in zip(record["samples"], round_samples(make("straight"), record), strict=True):
            row, own, said = given[held["prompt"]], held.get("offline", False), told(sample)
            seen, new = "image" in json.dumps(row["prompt"]), held["answers"].get("bdhs")
            assert (new is not None) == (held.get("told") is not None)
            assert new is None or (seen and said["bdhs"] == new["text"] != said["chosen"])
            assert seen or new is None
            lacking += new is None
            if own:
                assert said["chosen"] == row["chosen"]
                assert set(held["answers"]) <= {"bdhs"} and "before" not in said["bdhs"].split() or not seen
                alone = "rejected" not in row
                assert said["rejected"] == (said["bdhs"] if alone else row["rejected"])
            else:
                assert {"chosen", "rejected"} <= set(held["answers"])
            if new is None:
                assert said["bdhs"] == said["rejected"]
            else:
                assert held["told"]["bdhs"]["hidden"] <= held["told"]["bdhs"]["places"] > 0
            if row["chosen"] == "yes" and own:
                assert said["bdhs"] == "no"
            kinds.add((own, seen, row["chosen"]))
        assert sum(n for why, n in record["left_out"].items() if "written blind" in why) == lacking
        assert record["left_out"].get(WITHOUT, 0) == sum(
            "image" not in json.dumps(given[held["prompt"]]) for held in record["samples"]
        )
    assert {(own, seen) for own, seen, _ in kinds} == {(a, b) for a in (True, False) for b in (True, False)}
    assert (True, True, "yes") in kinds and (True, True, "a blue box. it is old") in kinds
    assert losses(straight)[0] == pytest.approx(0.693147, abs=1e-5)


def test_it_is_written_by_the_policy_as_it_stands(make: Make, straight: Path) -> None:
    """The second round's by the weights after two steps, by nothing but seed, round and sample."""
    config, record = make("straight"), records(straight)[1]
    adapter = build_policy(config, torch.device("cpu"))
    held = {one["id"]: one["answers"]["bdhs"]["text"] for one in record["samples"] if "told" in one}
    samples = {one.id: one for one in round_samples(config, record) if one.id in held}
    turns = decode_prompts(
        [
            (
                name,
                one.examples["prompt"][0].prompt
                if "prompt" in one.examples
                else one.examples["chosen"][0].prompt,
            )
            for name, one in samples.items()
        ],
        adapter.frames,
    )
    subjects = [Subject(name, prompt, samples[name].examples["chosen"][0].response) for name, prompt in turns]

    def texts(seed: int) -> dict[str, Any]:
        likeness = Likeness(None, "", adapter.device)
        writer = BlindWriter(Blind(**BLIND), likeness, adapter, adapter.policy)  # type: ignore[arg-type]
        found = writer.write(subjects, seed)
        return {one.id: getattr(w, "text", None) for one, w in zip(subjects, found, strict=True)}

    seed = derive_seed(config.seed, 1, "", "blind")
    before = texts(seed)
    for name, value in trainable_tensors(adapter.policy).items():
        value.data.copy_(weights(straight, 2)[name])
    assert texts(seed) == held and len(held) > 4
    assert before != held and texts(seed + 1) != held


def test_a_run_stopped_inside_a_round_goes_on_bit_for_bit(make: Make, straight: Path) -> None:
    run(make("resumed", steps=3))
    resumed = run(make("resumed"))
    assert losses(straight) == losses(resumed)
    same_files(straight / "final", resumed / "final")
    same_files(straight / "rounds", resumed / "rounds")


@pytest.mark.parametrize(
    ("online", "words"),
    [
        ({"offline": 1.0, "judge": None}, "12 pairs, all to train on"),
        ({}, "12 pairs, some to train on and some for their prompts"),
    ],
)
def test_it_is_said_which_pairs_train(make: Make, online: dict[str, Any], words: str) -> None:
    config = make("said", online=online)
    console = Console(world := World(0, 1, torch.device("cpu")), progress=False, quiet=True)
    assert f"data: {words}" in load_data(config, world, console).notes
    assert f"training: {words}" in read(config).notes


def test_with_nothing_sampled_the_datas_own_pairs_train(make: Make) -> None:
    alone = {"offline": 1.0, "judge": None}
    output = run(make("alone", steps=2, online=alone, objective={"name": "bdhs", "gamma": 0.0}))
    (record,) = records(output)
    assert all(held["offline"] for held in record["samples"]) and record["scores"] == []
    assert len(record["samples"]) == 12 and sum("told" in held for held in record["samples"]) >= 6
    found = losses(output)
    assert found[0] == pytest.approx(0.693147, abs=1e-5) and found[1] != found[0]


@pytest.mark.parametrize("online", [{}, {"offline": 1.0, "judge": None}])
def test_the_check_writes_them_too(make: Make, online: dict[str, Any]) -> None:
    said: list[str] = []
    found = inspect(make("checked", online=online), said.extend)
    assert found.round is not None and found.trial is not None and found.sound, found.findings
    assert found.round.left_out[WITHOUT] > 0 and any(WITHOUT in line for line in said)
    assert any("pairs of the data" in line for line in said) == (online.get("offline") == 1)
    assert {one.role for sample in found.samples for one in sample.responses} == {
        "chosen",
        "rejected",
        "bdhs",
    }


def test_white_space_around_the_chosen_answer_is_around_the_blind_one(make: Make) -> None:
    """Else it would tell the two apart."""
    rows = list(make.rows().values())[:4]
    for row, (before, after) in zip(rows, [(" ", "\n"), ("", "\n\n"), ("\n ", ""), (" ", " ")], strict=True):
        row["chosen"] = before + row["chosen"] + after
    alone = {"offline": 1.0, "judge": None, "prompts": 4}
    config = make("spaces", steps=1, online=alone, data=make.write("spaces.jsonl", rows))
    (record,) = records(run(config))
    for held, sample in zip(record["samples"], round_samples(config, record), strict=True):
        said = told(sample)
        bare = said["bdhs"].strip()
        assert bare and said["bdhs"] == said["chosen"].replace(said["chosen"].strip(), bare), held["id"]
        assert said["chosen"] in [row["chosen"] for row in rows]


def test_an_answer_that_is_cut_is_not_written_on(make: Make) -> None:
    """The model could take no token behind what stands before a cut."""
    rows = list(make.rows().values())[:4]
    for row in rows[:2]:
        row["chosen"] = "red fox. " * 60
    output = run(
        make(
            "long",
            steps=1,
            online={"offline": 1.0, "judge": None, "prompts": 4},
            data=make.write("long.jsonl", rows),
            model={"max_length": 64, "over_long": "cut_response"},
        )
    )
    (record,) = records(output)
    assert record["left_out"] == {
        WITHOUT.replace("rows without a picture or clip", "rows whose answer is cut to fit the model"): 2
    }
    assert sum("told" in held for held in record["samples"]) == 2


def test_what_may_stand_in_is_checked_before_the_first_step(make: Make) -> None:
    """Without a picture the rejected answer is the third one, even where gamma scores no rejected ones."""
    rows = list(make.rows().values())
    rows[4]["rejected"] = "red fox. " * 60
    config = make(
        "unfit",
        online={"offline": 1.0, "judge": None},
        objective={"name": "bdhs", "gamma": 0.0},
        data=make.write("unfit.jsonl", rows),
        model={"max_length": 64},
    )
    with pytest.raises(UserError, match=r"unfit.jsonl row 5.*rejected"):
        run(config)
    assert not Path(config.output, "rounds").exists()


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"objective": {"name": "dpo"}}, "^online.blind: objective bdhs learns from what is written blind"),
        ({"online": {"blind": None, "offline": None}}, "and no 'bdhs'; add online.blind"),
        ({"online": {"blind": BLIND | {"rho": 2}}}, r"online.blind.rho: must lie in \[0, 1\], got 2"),
        ({"online": {"blind": BLIND | {"roh": 0.9}}}, "online.blind: unknown key roh; did you mean"),
        ({"online": {"blind": BLIND | {"encoder": "./nowhere"}}}, "online.blind.encoder: there is no folder"),
        ({"online": {"offline": 1.0}}, "online.judge: nothing is sampled and judged with offline 1"),
        ({"online": {"judge": None}}, "online.judge: this field is required"),
        *(
            ({"online": {"offline": 1.0, "judge": None, name: value}}, f"^online.{name}: .* with offline: 1")
            for name, value in {"n": 7, "strategy": "all", "min_gap": 1.0}.items()
        ),
        ({"online": {"offline": 1.0, "judge": None, "n": 1}}, "^online.n: .* with offline: 1"),
        ({"online": {"offline": 1.0, "judge": None, "unbranched": 1}}, "^online.unbranched: not read by"),
        ({"model": {"adapter": "text"}}, "online.blind: adapter text reads no pictures or clips"),
        (
            {
                "data": {"source": "jsonl", "path": "x", "flip": 0.5},
                "objective": {"name": "bdhs", "gamma": 0},
            },
            "data.flip: ",
        ),
        (
            {"objective": [{"name": "bdhs"}, {"name": "kto"}], "online": {"offline": None}},
            "takes their sides apart",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(
    make: Make, sections: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words) as error:
        check_config(make("never", **sections))
    assert "\n" not in str(error.value)


def test_rows_without_a_picture_are_refused(make: Make) -> None:
    wordy = make.write("wordy.jsonl", [row for row in make.rows().values() if "image" not in json.dumps(row)])
    with pytest.raises(UserError, match="online.blind: no row of the data has a picture or clip to hide"):
        run(make("wordy", data=wordy, online={"prompts": 4}))


def test_without_the_section_it_is_said_what_sampled_pairs_train_as(make: Make) -> None:
    notes = check_config(make("never", online={"blind": None}))
    assert any(note.startswith("online.blind: is not given") for note in notes)
    assert not any("online.blind" in note for note in check_config(make("never")))


def test_the_schema_knows_the_section(make: Make) -> None:
    for online in ({}, {"offline": 1.0, "judge": None}):
        config = make("never", online=online)
        tree = to_tree(config)
        assert valid(WHOLE, tree) and from_tree(tree, "again", allow_code=True) == config
        tree["online"]["blind"]["roh"] = 0.9
        assert not valid(WHOLE, tree)
