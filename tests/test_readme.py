"""What the README shows works as it stands."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmalign._names import KINDS, names
from mmalign.cli import app, main
from mmalign.config import from_tree, load

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.S)


def test_the_objective_of_your_own_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [body for language, body in BLOCKS if language == "python"]
    (tmp_path / "my_losses.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(ROOT)
    output = tmp_path / "run"
    overrides = ["objective.name=my_losses:Slope", "train.steps=2", "log.progress=false", "heldout=null"]
    overrides += [f"output={output}", f"cache={tmp_path / 'cache'}"]
    assert main(["train", "configs/quickstart/text.yaml", *overrides]) == 0
    assert (output / "final" / "model.safetensors").is_file()
    sys.modules.pop("my_losses", None)


def test_every_shown_command_parses() -> None:
    """Options and commands exist; the files named exist."""
    shown = [line.split("#")[0].strip() for language, body in BLOCKS for line in body.splitlines()]
    commands = [shlex.split(line) for line in shown if line.startswith("mmalign ")]
    assert len(commands) >= 8
    for command in commands:
        verb = command[1]
        assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0, verb
        for word in command:
            if word.startswith("configs/"):
                assert (ROOT / word).is_file(), word
    for script in ("scripts/quickstart.sh", "scripts/test.sh"):
        assert script in TEXT and (ROOT / script).is_file()


def test_the_shown_config_resolves() -> None:
    import yaml

    (body,) = [body for language, body in BLOCKS if language == "yaml"]
    config = from_tree(yaml.safe_load(body.replace("1e-5", "1.0e-5")), "README")
    assert config.objective.beta == 2000 and config.train.micro_batch == 4


def test_the_table_names_every_objective() -> None:
    for name in names(KINDS["objective"]):
        assert f"| `{name}`" in TEXT, name


CONFIGS = [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if path.parent.name != "build"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_config_resolves(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmalign.training.checks import check_config

    monkeypatch.chdir(ROOT)
    check_config(load(path))
