"""A wrong place of a model is told in one line, before any row of the data is read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Bench, add_vision

from mmalign.builders import _run
from mmalign.builders._config import from_tree as build_config
from mmalign.config import from_tree
from mmalign.training import run as training
from mmalign.training.inspection import check
from mmalign.training.world import World
from mmalign.types import UserError


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Bench(tmp_path_factory.mktemp("glance"))
    add_vision(bench)
    holes = bench.folder / "no-weights"
    holes.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (holes / name).write_text((Path(bench.model["text"]["path"]) / name).read_text())
    (bench.folder / "nothing").mkdir()
    yield bench
    torch.set_num_threads(threads)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads a row fails."""

    def read(*given: Any, **named: Any) -> Any:
        raise AssertionError("rows were read")

    monkeypatch.setattr(training, "load_data", read)
    monkeypatch.setattr(check, "read", read)
    monkeypatch.setattr(_run, "load_prompts", read)


def section(bench: Bench, kind: str, place: str) -> dict[str, Any]:
    """Section model of a kind, with the folder of another."""
    folder = str(bench.folder / place) if place not in bench.model else bench.model[place]["path"]
    if kind != "reward":
        return bench.model[kind] | {"path": folder}
    return {"adapter": "reward_head", "backbone": bench.model["text"] | {"path": folder}}


CASES = [
    ("text", "absent", r"^model\.path: there is no folder .*absent"),
    ("text", "image", "holds a diffusion pipeline .*; use model.adapter: diffusion"),
    ("text", "vlm", "use model.adapter: vlm or video_lm"),
    ("text", "no-weights", "no-weights: no weights; expected model.safetensors"),
    ("vlm", "text", "reads text only; use model.adapter: text"),
    ("vlm", "nothing", "nothing/config.json: the file is missing"),
    ("image", "text", "holds a language model, no pipeline"),
    ("image", "absent", r"^model\.path: there is no folder .*absent"),
    ("image", "nothing", "model_index.json: missing"),
    ("reward", "absent", r"^model\.backbone\.path: there is no folder .*absent"),
    ("reward", "text", "holds no reward head"),
]


@pytest.mark.parametrize(("kind", "place", "words"), CASES)
@pytest.mark.usefixtures("unread")
def test_training_and_its_check_look_first(bench: Bench, kind: str, place: str, words: str) -> None:
    tree = bench.tree("text" if kind == "reward" else kind, "never")
    tree["model"] = section(bench, kind, place)
    if kind == "reward":
        tree["objective"] = {"name": "bt"}
    config = from_tree(tree, "test")
    for command in (training.run, check.inspect):
        with pytest.raises(UserError, match=words) as error:
            command(config)
        assert "\n" not in str(error.value)
    assert not (bench.folder / "never").exists()


@pytest.mark.usefixtures("unread")
def test_sound_folders_pass_on_to_the_rows(bench: Bench) -> None:
    for kind in ("text", "vlm", "image"):
        with pytest.raises(AssertionError, match="rows were read"):
            training.run(bench.config(kind, "never"))


@pytest.mark.usefixtures("unread")
def test_builds_look_first_unless_they_are_done(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {
        "builder": {"name": "best_of_n", "n": 2},
        "judge": {"name": "brightness"},
        "model": section(bench, "image", "text"),
        "prompts": {"source": "jsonl", "path": "rows.jsonl"},
        "output": str(bench.folder / "built"),
    }
    config = build_config(tree, "test")
    world = World(0, 1, torch.device("cpu"))
    with pytest.raises(UserError, match="holds a language model, no pipeline"):
        _run.build(config, world)
    done = {"status": "finished", "prompts": {}}
    monkeypatch.setattr(_run.Store, "read", lambda store: json.loads(json.dumps(done)))
    with pytest.raises(AssertionError, match="rows were read"):
        _run.build(config, world)
