"""The configs of one objective each: every objective of a denoiser has one, and the script that runs them."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts" / "bench"))

import every_objective  # noqa: E402

from mmalign._names import KINDS, name_of  # noqa: E402
from mmalign.config import load  # noqa: E402


def test_every_objective_of_a_denoiser_has_a_config_of_its_name() -> None:
    assert every_objective.without_config("diffusion") == []
    configs = every_objective.configs_of("diffusion")
    assert len(configs) >= 18
    for name, path in configs.items():
        config = load(path)
        assert name_of(KINDS["objective"], type(config.objective)) == name
        assert config.output == f"runs/objectives/{name}"


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
