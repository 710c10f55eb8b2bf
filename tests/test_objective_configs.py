"""The configs of one objective each: every objective that an adapter trains has one, and the script that runs
them."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts" / "bench"))

import every_objective  # noqa: E402

from mmalign import api  # noqa: E402
from mmalign._names import KINDS, class_of, name_of, names  # noqa: E402
from mmalign.catalogue import lacking  # noqa: E402
from mmalign.config import from_tree, load  # noqa: E402
from mmalign.objectives._sum import WeightedSum  # noqa: E402
from mmalign.training.checks import check_config  # noqa: E402
from mmalign.types import UserError  # noqa: E402

PLACE = {"diffusion": "runs/objectives", "vlm": "runs/objectives/vlm", "video_lm": "runs/objectives/video_lm"}
RECIPES = {"tpo": "dpo", "mixed_dpo": "dpo", "online_bdhs": "bdhs"}
"""Published methods that are a sum of objectives, and the objective they begin with."""
SEEING = ("vlm", "video_lm")


@pytest.mark.parametrize("adapter", PLACE)
def test_every_objective_of_an_adapter_has_a_config_of_its_name(adapter: str) -> None:
    missing = every_objective.without_config(adapter)
    assert missing == []
    configs = every_objective.configs_of(adapter)
    assert len(configs) >= 15
    for name, path in configs.items():
        config = load(path)
        check_config(config)
        objective = config.objective
        first = objective.terms[0][2] if isinstance(objective, WeightedSum) else objective
        assert name_of(KINDS["objective"], type(first)) == RECIPES.get(name, name)
        assert config.output == f"{PLACE[adapter]}/{name}"
        assert name_of(KINDS["model"], type(config.model)) == adapter


def test_what_a_comment_has_overridden_goes_together() -> None:
    path = ROOT / "configs/objectives/vlm/online_bdhs.yaml"
    said = next(line for line in path.read_text().splitlines() if "on the data's pairs alone:" in line)
    overrides = said.partition("alone:")[2].split()
    config = load(path, overrides)
    assert config.online is not None and config.online.data_alone
    check_config(config)


def test_the_script_runs_a_config_and_fails_for_what_has_none(capfd: pytest.CaptureFixture[str]) -> None:
    assert every_objective.main(["--only", "sft", "--steps", "1"]) == 0
    assert "| ok |" in capfd.readouterr().out
    assert every_objective.main(["--only", "absent"]) == 1
    assert "| absent | | | no config in configs/objectives/diffusion |" in capfd.readouterr().out


def test_a_refusal_is_one_line_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (every_objective.CONFIGS / "diffusion" / "sft.yaml").read_text()
    (tmp_path / "simpo.yaml").write_text(text.replace("name: sft", "name: simpo"))
    monkeypatch.chdir(ROOT)
    one = every_objective.tried(tmp_path / "simpo.yaml", 1, tmp_path)
    assert one.fault is not None and one.fault.startswith("refused: ") and "\n" not in one.row


def refused(adapter: str) -> list[str]:
    """Objectives that ask for what the adapter has not got."""
    model: Any = class_of(KINDS["model"], adapter)
    every = names(KINDS["objective"])
    return [name for name in every if lacking(class_of(KINDS["objective"], name)().needs, model.offers)]


@pytest.mark.parametrize(
    ("adapter", "name"), [(adapter, name) for adapter in SEEING for name in refused(adapter)]
)
def test_an_objective_that_cannot_be_is_refused_before_weights_are_looked_for(
    adapter: str, name: str, tmp_path: Path
) -> None:
    config: dict[str, Any] = {
        "model": {"adapter": adapter, "path": str(tmp_path / "no-such-model")},
        "data": {"source": "jsonl", "path": str(tmp_path / "no-such-data.jsonl")},
        "objective": {"name": name},
        "train": {"steps": 1},
        "output": str(tmp_path / "out"),
    }
    with pytest.raises(UserError, match=rf"objective.*{name}.*needs ") as caught:
        check_config(from_tree(config, "test"))
    assert "\n" not in str(caught.value) and "no-such" not in str(caught.value)


def test_tpo_adds_the_mean_over_all_tokens_of_the_step(tmp_path: Path) -> None:
    """ln 2 at the start, and a tenth of the answers' summed negative log-likelihood over their tokens, which
    a split into micro-batches leaves as it is."""
    path = every_objective.configs_of("video_lm")["tpo"]
    overrides = ["train.steps=1", "train.warmup_steps=0", "train.batch=6", "train.micro_batch=2"]
    overrides += ["log={every: 1, progress: false}", "heldout=null", "data.limit=6", "cache=null"]
    run = api.train(path, *overrides, f"output={tmp_path / 'tpo'}")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if "loss" in line]
    tokens = -line["logp/chosen"] / line["length/chosen"]
    assert line["loss"] == pytest.approx(math.log(2) + 0.1 * tokens, abs=1e-5)
