"""Two users who want the opposite: one run serves both, a new one costs a few pairs, and nothing is lost."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import tiny_sd
from cli_runs import call
from PIL import Image
from tiny_runs import largest_gap, losses, metrics, weights

import mmalign
from mmalign import api
from mmalign.config import RunConfig, from_tree
from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.shapes.sources import ImagePairs
from mmalign.training.checks import check_config
from mmalign.training.run import run
from mmalign.types import UserError

PAIRS = 10  # pictures of one light and one dark side
SMALL = {"resolution": 16}  # where nothing needs to be learned


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("users")
    tiny_sd.save_pipeline(base / "sd")
    for i in range(PAIRS):
        for name, level in (("light", 0.6), ("dark", 0.0)):
            pixels = np.asarray(tiny_sd.picture(i), dtype=np.float32) * 0.4 + 255 * level
            Image.fromarray(pixels.round().astype(np.uint8)).save(base / f"{name}-{i}.png")
    write(base / "both.jsonl", {"day": "light", "night": "dark"}, range(6))
    write(base / "held.jsonl", {"day": "light", "night": "dark"}, range(6, PAIRS))
    write(base / "new.jsonl", {"owl": "dark"}, range(4))
    write(base / "later.jsonl", {"owl": "dark", "day": "light", "stranger": "light"}, range(4, PAIRS))
    yield base
    torch.set_num_threads(threads)


def write(path: Path, wishes: dict[str, str], places: range) -> None:
    """Every pair once per user, who prefers the light or the dark side."""
    rows = []
    for user, wish in wishes.items():
        other = "dark" if wish == "light" else "light"
        for i in places:
            sides = {"chosen_image": f"{wish}-{i}.png", "rejected_image": f"{other}-{i}.png"}
            rows.append({"id": f"{user}-{i}", "prompt": f"cat {i}", "user": user, **sides})
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")


def config(folder: Path, output: str, rows: str = "both", **sections: Any) -> RunConfig:
    tree: dict[str, Any] = {
        "model": {
            "adapter": "diffusion",
            "path": str(folder / "sd"),
            "vae_sample": False,
            "timesteps": {"min": 0.5, "max": 0.7},
            "user": {"names": ["day", "night"], "tokens": 2, "width": 16, "dropout": 0.1},
            "generation": {"steps": 4, "guidance": 1.0},
        },
        "data": {"source": "jsonl", "path": str(folder / f"{rows}.jsonl")},
        "heldout": {"source": "jsonl", "path": str(folder / "held.jsonl")},
        "objective": {"name": "dpo", "beta": 1000},
        "lora": {"rank": 4},
        "train": {"steps": 20, "batch": 8, "lr": 2e-2},
        "log": {"every": 1, "progress": False},
        "evaluation": {"levels": 0, "grid": 0},
        "cache": str(folder / "cache"),
        "output": str(folder / output),
    }
    for name, value in sections.items():
        tree[name] = {**tree.get(name, {}), **value} if isinstance(value, dict) else value
    made = from_tree(tree, "test")
    check_config(made)
    return made


@pytest.fixture(scope="module")
def both(folder: Path) -> Path:
    return run(config(folder, "both"))


def heldout(output: Path, name: str) -> list[float]:
    """A held-out metric at the start and at the end."""
    return [line[f"heldout/{name}"] for line in metrics(output) if f"heldout/{name}" in line]


def test_one_run_serves_opposite_wishes(folder: Path, both: Path) -> None:
    """On pictures that never trained. Without users the same rows teach nothing: every pair is there in both
    orders, and what helps one user hurts the other as much."""
    assert losses(both)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert heldout(both, "implicit_acc/seen_users")[0] == 0.5
    assert heldout(both, "implicit_acc/seen_users")[-1] > 0.85
    assert heldout(both, "loss/seen_users")[-1] < 0.65
    without = run(config(folder, "without", model={"user": None}))
    assert heldout(without, "loss")[-1] > 0.69
    found = pictures(both, "day", {"day": 0.5, "night": 0.5}, "night")
    assert all((found[i] != found[j]).any() for i in range(3) for j in range(i))


def pictures(output: Path, *users: str | dict[str, float]) -> list[np.ndarray]:
    """The same pictures for each user."""
    finished, made = api.open_run(output), []
    for user in users:
        with api.for_user(finished, user):
            made.append(
                np.stack([np.asarray(part.data) for part in api.sample(finished, ["cat 1", "cat 2"])])
            )
    return made


def test_all_weights_train_from_the_same_start(folder: Path) -> None:
    """The reference is a copy that knows no users."""
    found = losses(run(config(folder, "whole", lora=None, model=SMALL, train={"steps": 3, "lr": 1e-3})))
    assert found[0] == pytest.approx(math.log(2), abs=1e-6) and found[2] != found[0]


def test_a_new_user_is_learned_from_four_pairs(folder: Path, both: Path) -> None:
    """Only a vector trains, and it makes dark pictures; held-out rows tell seen and unseen users apart."""
    made = config(
        folder,
        "few",
        "new",
        model={
            "user": {
                "names": ["owl"],
                "path": str(both / "final"),
                "learn": "vectors",
                "tokens": 2,
                "width": 16,
            }
        },
        lora={"rank": 4, "path": str(both / "final")},
        heldout={"path": str(folder / "later.jsonl")},
        train={"steps": 15, "batch": 4, "lr": 0.15},
    )
    output = run(made)
    assert {name: tuple(value.shape) for name, value in weights(output, 15).items()} == {
        "users.table": (1, 2, 16)
    }
    known = heldout(output, "implicit_acc/seen_users")
    assert known[-1] > 0.85 and known[-1] > known[0]
    assert heldout(output, "loss/seen_users")[-1] < min(0.65, heldout(output, "loss/seen_users")[0])
    assert len(heldout(output, "loss/unseen_users")) == 2  # "day" and a stranger have no vector in this run


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_recomputed_activations_know_the_user(folder: Path, lora: Any) -> None:
    train = {"steps": 4, "lr": 1e-3, "checkpointing": True}
    plain = run(
        config(folder, f"kept-{lora}", lora=lora, model=SMALL, train={**train, "checkpointing": False})
    )
    again = run(config(folder, f"recomputed-{lora}", lora=lora, model=SMALL, train=train))
    assert losses(again) == pytest.approx(losses(plain), abs=1e-4) and losses(plain)[3] != losses(plain)[0]


def test_half_precision_starts_at_ln_2_too(folder: Path) -> None:
    found = losses(
        run(config(folder, "half", model=SMALL, train={"steps": 2, "precision": "bf16", "lr": 1e-3}))
    )
    assert found[0] == pytest.approx(math.log(2), abs=1e-6) and math.isfinite(found[1])


def test_a_stopped_run_goes_on_with_equal_bits(folder: Path) -> None:
    whole = run(config(folder, "straight", model=SMALL, train={"steps": 4}))
    run(config(folder, "stopped", model=SMALL, train={"steps": 2}))
    parts = run(config(folder, "stopped", model=SMALL, train={"steps": 4}))
    assert largest_gap(weights(whole, 4), weights(parts, 4)) == 0.0
    assert any("user_out" in name for name in weights(whole, 4))


@pytest.mark.parametrize("merge", [False, True])
def test_exports_keep_the_users(folder: Path, both: Path, merge: bool) -> None:
    target = folder / f"export-{merge}"
    assert api.export(both, target, merge) < 1e-3
    assert (target / "users.safetensors").is_file()


def test_whom_pictures_are_for_on_the_command_line(
    folder: Path, both: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {}
    for user in ("day", "night", "day=0.5,night=0.5"):
        done = call(capsys, "sample", both, "--prompt", "cat 1", "--user", user, "--out", folder / user)
        assert done.code == 0, done.err
        places[user] = np.asarray(Image.open(folder / user / "tuned-000.png"))
    assert (places["day"] != places["night"]).any()
    done = call(capsys, "sample", both, "--prompt", "cat", "--user", "carl")
    assert done.code == 2 and "user 'carl': has no vector" in done.err
    done = call(capsys, "sample", both, "--prompt", "cat", "--user", "day", "--base")
    assert done.code == 2 and "the base model knows no users" in done.err


def test_a_model_without_users_cannot_speak_for_one(folder: Path) -> None:
    plain = run(config(folder, "plain", model={"user": None, **SMALL}, train={"steps": 1}))
    with pytest.raises(UserError, match="knows no users"), api.for_user(api.open_run(plain), "day"):
        pass


@pytest.mark.slow
def test_pictures_of_a_trained_model_are_lighter_for_one_and_darker_for_the_other(tmp_path: Path) -> None:
    """On the built-in model, which draws: the neutral mode stays near the base, a blend lies between."""
    rows, captions = [], []
    for k, sample in enumerate(load(ImagePairs(num=60)).samples[:48]):
        example = decode(sample).examples["chosen"][0]
        captions.append(" ".join(part.data for part in example.prompt[0].parts))
        pixels = np.asarray(example.response[0].data, dtype=np.float32) * 0.6
        for name, level in (("light", 102), ("dark", 0)):
            Image.fromarray((pixels + level).astype(np.uint8)).save(tmp_path / f"{name}-{k}.png")
        for user, wish, other in (("day", "light", "dark"), ("night", "dark", "light")):
            sides = {"chosen_image": f"{wish}-{k}.png", "rejected_image": f"{other}-{k}.png"}
            rows.append({"id": f"{user}-{k}", "prompt": captions[-1], "user": user, **sides})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    model = {
        "path": str(Path(mmalign.__file__).parent / "shapes" / "models" / "image"),
        "user": {"names": ["day", "night"], "tokens": 2, "width": 32},
        "generation": {"steps": 10, "guidance": 3.0},
        "timesteps": {},
    }
    output = run(
        config(
            tmp_path,
            "drawn",
            model=model,
            data={"path": str(tmp_path / "pairs.jsonl")},
            heldout=None,
            objective={"beta": 50},
            lora={"rank": 8, "init": "gaussian"},
            train={"steps": 120, "lr": 1e-3},
        )
    )
    finished = api.open_run(output)

    def level() -> float:
        return float(np.mean([np.asarray(part.data) for part in api.sample(finished, captions[:8])]))

    found = {"nobody": level()}
    for name, shares in {
        "day": {"day": 1.0},
        "both": {"day": 0.5, "night": 0.5},
        "night": {"night": 1.0},
    }.items():
        with api.for_user(finished, shares):
            found[name] = level()
    base = np.mean([np.asarray(part.data) for part in api.sample(finished, captions[:8], model="base")])
    assert found["day"] > base + 5 and found["night"] < base - 5, found
    assert found["night"] < found["both"] < found["day"] and abs(found["nobody"] - base) < 3, found
