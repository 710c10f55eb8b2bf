"""What a user may hand to the command line by mistake: exit code 2, one line that names it, no file."""

from __future__ import annotations

from pathlib import Path

import bad_configs
import pytest
from bad_inputs import GOOD, write_rows
from cli_runs import assert_refused, call, listing

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a call, with eight sound rows."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "pairs.jsonl", [GOOD | {"id": i, "prompt": f"Say {i}."} for i in range(8)])
    return tmp_path


def refused(capsys: Capture, work: Path, words: tuple[str, ...], *argv: str) -> None:
    """The call is refused with these words and leaves the working folder as it was."""
    before = listing(work)
    assert_refused(call(capsys, *argv), words)
    assert listing(work) == before


@pytest.mark.parametrize("name", bad_configs.EDITS)
def test_a_bad_config_is_refused_before_a_model_is_loaded(capsys: Capture, work: Path, name: str) -> None:
    old, new, words = bad_configs.EDITS[name]
    assert bad_configs.BASE.count(old) == 1
    (work / "config.yaml").write_text(bad_configs.BASE.replace(old, new))
    refused(capsys, work, words, "train", "config.yaml")


@pytest.mark.parametrize("name", bad_configs.FILES)
def test_a_file_that_is_no_config(capsys: Capture, work: Path, name: str) -> None:
    content, words = bad_configs.FILES[name]
    (work / "config.yaml").write_bytes(content)
    refused(capsys, work, words, "train", "config.yaml")


@pytest.mark.parametrize("name", bad_configs.OVERRIDES)
def test_a_bad_override(capsys: Capture, work: Path, name: str) -> None:
    override, words = bad_configs.OVERRIDES[name]
    (work / "config.yaml").write_text(bad_configs.BASE)
    refused(capsys, work, words, "train", "config.yaml", override)
