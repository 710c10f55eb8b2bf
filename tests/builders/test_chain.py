"""Builds by the command line on tiny models of every kind that answers, and training on what they made."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from builders.builds import content
from cli_runs import assert_refused, call
from training.ranks import in_ranks

import mmalign
from mmalign.builders._candidates import Builder
from mmalign.builders._config import dump, from_tree, load
from mmalign.cli import main
from mmalign.data._media import decode
from mmalign.data._sources import load as load_data
from mmalign.data.jsonl import Jsonl
from mmalign.types import UserError

if TYPE_CHECKING:
    from training.tiny_runs import Bench

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]
LETTERS = "cli_runs:Letters"


def tree_of(bench: "Bench", kind: str, output: Path, **sections: Any) -> dict[str, Any]:
    """A build on a tiny model whose prompts are those of its training rows."""
    few = {"steps": 3, "guidance": 2.0} if kind == "image" else {"max_new_tokens": 6}
    tree: dict[str, Any] = {
        "builder": {"name": "best_of_n", "n": 3},
        "model": {**bench.model[kind], "generation": few},
        "prompts": dict(bench.data[kind]),
        "num_prompts": 4,
        "judge": "mmalign.shapes.judges:ImageJudge" if kind == "image" else LETTERS,
        "batch": 2,
        "log": {"progress": False},
        "output": str(output),
    }
    return tree | sections


def written(folder: Path, tree: dict[str, Any]) -> Path:
    path = folder / "build.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["text", "image", "vlm"])
def test_what_was_built_can_be_trained_on(bench: "Bench", tmp_path: Path, capsys: Capture, kind: str) -> None:
    out = tmp_path / "out"
    judge = "builders.builds:Red" if kind == "image" else LETTERS
    called = call(capsys, "build", written(tmp_path, tree_of(bench, kind, out, judge=judge)))
    assert called.code == 0, called.err
    assert called.out == f"{out}/pairs.jsonl\n" and "pairs from" in called.err
    found = rows(out)
    assert 2 <= len(found) <= 4 and all(row["chosen_score"] > row["rejected_score"] for row in found)
    data = {"source": "jsonl", "path": str(out / "pairs.jsonl")}
    samples = [decode(sample) for sample in load_data(Jsonl(path=data["path"])).samples]
    originals = {s.id: decode(s) for s in load_data(Jsonl(path=bench.data[kind]["path"])).samples}
    for sample, row in zip(samples, found, strict=True):
        original = originals[row["built"]["prompt_id"]].examples["chosen"][0].prompt
        assert [turn.speaker for turn in sample.examples["chosen"][0].prompt] == [t.speaker for t in original]
        ours, theirs = (
            [p for turn in turns for p in turn.parts]
            for turns in (sample.examples["chosen"][0].prompt, original)
        )
        assert [p.data if p.kind == "text" else p.data.tobytes() for p in ours] == [
            p.data if p.kind == "text" else p.data.tobytes() for p in theirs
        ]
    train = {"steps": 1, "batch": 2, "lr": 1e-3}
    tree = bench.tree(kind, "", data=None, train=train) | {"data": data, "output": str(tmp_path / "run")}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(tree))
    trained = call(capsys, "train", tmp_path / "train.yaml")
    assert trained.code == 0, trained.err
    assert "columns not used" not in trained.err, "how a build came to its rows is known"


def test_a_recorded_seed_gives_the_answer_again(bench: "Bench", tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    tree = tree_of(bench, "text", out, num_prompts=2)
    assert call(capsys, "build", written(tmp_path, tree)).code == 0
    config = from_tree(tree, "test", allow_code=True)
    adapter = config.model.build(torch.device("cpu"), torch.float32)
    for sample, row in zip(load_data(Jsonl(path=str(out / "pairs.jsonl"))).samples, rows(out), strict=True):
        prompt = sample.examples["chosen"][0].prompt
        for side in ("chosen", "rejected"):
            (part,) = adapter.generate(adapter.policy, [prompt], [row["built"]["seeds"][row["built"][side]]])
            assert part.data == row[side]


def test_a_run_answers_with_its_trained_weights(
    bench: "Bench", runs: Path, tmp_path: Path, capsys: Capture
) -> None:
    trees = {
        "base": tree_of(bench, "text", tmp_path / "base"),
        "tuned": {**tree_of(bench, "text", tmp_path / "tuned"), "run": str(runs / "text-lora")},
    }
    del trees["tuned"]["model"]
    found = {}
    for name, tree in trees.items():
        called = call(capsys, "build", written(tmp_path, tree))
        assert called.code == 0, called.err
        found[name] = rows(tmp_path / name)[0]["built"]
    assert found["tuned"]["model"]["run"] == "text-lora" and found["tuned"]["model"]["step"] == 4
    assert found["tuned"]["model"]["weights"] != found["base"]["model"]["weights"]
    assert found["tuned"]["seeds"] == found["base"]["seeds"]
    assert str(runs) not in json.dumps(found)


def test_prompts_of_a_text_file(bench: "Bench", tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "prompts.txt").write_text("why is the sky blue?\n\na happy girl\nwhy is the sky blue?\n")
    tree = tree_of(bench, "text", tmp_path / "out", prompts=str(tmp_path / "prompts.txt"))
    called = call(capsys, "build", written(tmp_path, tree))
    assert called.code == 0, called.err
    assert "prompts: 2 different ones" in called.err
    assert rows(tmp_path / "out")[0]["prompt"] == [{"role": "user", "content": "why is the sky blue?"}]


def test_rank_and_sift_by_name(bench: "Bench", tmp_path: Path, capsys: Capture) -> None:
    builder = {"name": "rank_and_sift", "n": 4}
    tree = tree_of(bench, "text", tmp_path / "out", builder=builder)
    assert call(capsys, "build", written(tmp_path, tree)).code == 0
    for row in rows(tmp_path / "out"):
        assert (
            row["chosen_score"] > row["rejected_score"] and row["built"]["builder"]["name"] == "rank_and_sift"
        )


REFUSALS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "misspelt section": ({"promts": "x"}, ("unknown key promts", "did you mean prompts?")),
    "misspelt field": ({"builder": {"name": "best_of_n", "m": 3}}, ("unknown key m", "valid keys: n,")),
    "no such builder": ({"builder": {"name": "best_of_m"}}, ("did you mean best_of_n?",)),
    "bad value": ({"builder": {"name": "best_of_n", "n": 1}}, ("builder.n: must be 2 or more, got 1",)),
    "no judge": ({"judge": None}, ("section judge is missing",)),
    "model and run": ({"run": "runs/x"}, ("give exactly one of model and run",)),
    "no run there": ({"run": "runs/x", "model": None}, ("runs/x: holds no run",)),
    "no prompts there": ({"prompts": "none.txt"}, ("there is no file none.txt",)),
    "batch": ({"batch": 0}, ("batch: must be above 0, got 0",)),
    "no model there": ({"model": {"adapter": "text", "path": "./gone"}}, ("gone",)),
    "a judge without scores": ({"judge": "builders.groups:Talking"}, ("Talking has no method score",)),
    "training config": ({"objective": {"name": "dpo"}, "builder": None}, ("a config for `mmalign train`",)),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_mistakes_are_refused_before_anything_is_written(
    bench: "Bench", work: Path, capsys: Capture, name: str
) -> None:
    changes, words = REFUSALS[name]
    tree = {k: v for k, v in (tree_of(bench, "text", work / "out") | changes).items() if v is not None}
    called = call(capsys, "build", written(work, tree))
    assert_refused(called, words)
    assert not (work / "out").exists()


def test_show_config_writes_defaults_out(bench: "Bench", tmp_path: Path, capsys: Capture) -> None:
    path = written(tmp_path, tree_of(bench, "text", tmp_path / "out"))
    called = call(capsys, "show-config", path, "builder.n=5", "seed=3")
    assert called.code == 0, called.err
    tree = yaml.safe_load(called.out)
    assert tree["builder"]["n"] == 5 and tree["seed"] == 3 and tree["builder"]["strategy"] == "best_worst"
    assert not (tmp_path / "out").exists()


def test_a_refusal_loads_no_model_library() -> None:
    program = (
        "import sys; from mmalign import api\n"
        "try: api.build('configs/build/best_of_n_text.yaml', 'builder.nn=3')\n"
        "except ValueError as error: assert 'unknown key nn' in str(error)\n"
        "else: raise SystemExit('was not refused')\n"
        "print([m for m in ('transformers', 'diffusers', 'peft', 'accelerate') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stderr


def test_a_reward_model_and_prompts_with_pictures_are_refused(bench: "Bench", tmp_path: Path) -> None:
    reward = {"adapter": "reward_head", "backbone": dict(bench.model["text"])}
    tree = tree_of(bench, "text", tmp_path / "out", model=reward)
    with pytest.raises(UserError, match="adapter reward_head scores answers and gives none"):
        mmalign.build(from_tree(tree, "test", allow_code=True))
    tree = tree_of(bench, "text", tmp_path / "out", prompts=dict(bench.data["vlm"]), num_prompts=None)
    with pytest.raises(UserError, match="holds images, and the model reads none"):
        mmalign.build(from_tree(tree, "test", allow_code=True))


def forked(arguments: argparse.Namespace) -> None:
    """What the launch asks of torchrun, by processes that start faster."""
    assert (arguments.module, arguments.training_script) == (True, "mmalign")
    argv, size = arguments.training_script_args, int(arguments.nproc_per_node)
    code, output = in_ranks(main, argv, folder=Path.cwd(), size=size)
    assert code == 0, output


@pytest.mark.multiprocess
def test_two_processes_write_the_files_of_one(
    bench: "Bench", tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {name: tmp_path / name for name in ("one", "two")}
    for folder in places.values():
        folder.mkdir()
        path = written(folder, tree_of(bench, "image", Path("out"), judge="builders.builds:Red"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes below
    monkeypatch.chdir(places["one"])
    alone = call(capsys, "build", path.name)
    torch.set_num_threads(threads)
    assert alone.code == 0, alone.err
    monkeypatch.chdir(places["two"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # else the launch would set it for the tests that follow
    monkeypatch.setattr("torch.distributed.run.run", forked)
    both = call(capsys, "launch", "--processes", "2", "build", path.name)
    assert both.code == 0, both.err
    made = {name: content(folder / "out") for name, folder in places.items()}
    assert len(made["one"]) > 6 and made["two"] == made["one"]


# ---------------------------------------------------------------- the shipped configs

BUILDS = [path for path in sorted((ROOT / "configs/build").glob("*.yaml")) if "builder:" in path.read_text()]
TRAININGS = sorted((ROOT / "configs/build").glob("train_on_*.yaml"))
BUILT_IN = [  # those that need nothing but this repository
    path
    for path in BUILDS
    if "mmalign/shapes/models" in path.read_text() or "mmalign.shapes.sources" in path.read_text()
    if load(path).run is None
]


def test_every_shipped_config_is_one_or_the_other() -> None:
    assert len(BUILDS) >= 10 and len(BUILT_IN) >= 9 and len(TRAININGS) >= 2
    others = set((ROOT / "configs/build").glob("*.yaml")) - {*BUILDS}
    assert set(TRAININGS) <= others and all("\nobjective:" in path.read_text() for path in others)


@pytest.mark.parametrize("path", BUILT_IN, ids=lambda path: path.stem)
def test_shipped_builds_resolve_and_make_pairs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = load(path)
    assert dump(from_tree(yaml.safe_load(dump(config)), "again")) == dump(config)
    assert config.output == f"runs/build/{path.stem}"
    torch.set_num_threads(1)
    few = ["num_prompts=2", "prompts.limit=8", "log.progress=false", f"output={tmp_path / 'out'}"]
    few += ["builder.n=3"] if isinstance(config.builder, Builder) and config.builder.asks_judge else []
    surrogate = config.model is not None and config.model.kind == "surrogate"
    short = ["model.generation.steps=4"] if surrogate else []
    folder = mmalign.build(path, *few, *short)
    record = json.loads((folder / "build.json").read_text())
    assert record["prompts"]["count"] == 2 and record["kept"]["pairs"] == len(rows(folder))


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.stem)
def test_shipped_trainings_read_what_a_build_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmalign import config as configs
    from mmalign.training.checks import check_config

    monkeypatch.chdir(ROOT)
    config = configs.load(path)
    check_config(config)
    source = path.with_name(path.name.removeprefix("train_on_"))
    built = load(source)
    assert config.data[0][1].path == f"{built.output}/pairs.jsonl"
    assert config.model.path == (built.model.path if built.run is None else f"{built.run}/final")
