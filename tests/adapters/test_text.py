"""Settings and limits of the text adapter, and a real checkpoint with published figures."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import contract
import pytest
import torch
from tiny_lm import POSITIONS, ROLES, load_tiny, plain, sample

from mmalign.adapters._text_sampling import Sampling, sample_ids
from mmalign.adapters.text import Text
from mmalign.types import UserError

CPU = torch.device("cpu")


# ---------------------------------------------------------------- limits and settings


def test_rows_longer_than_the_positions_are_refused(folders: dict[str, str]) -> None:
    long = sample("9", plain("the fox"), chosen=" zq" * POSITIONS)
    with pytest.raises(UserError, match=f"rows.jsonl row 9: chosen: .* more than the {POSITIONS} allowed"):
        load_tiny(folders).check(long, ("chosen",))
    adapter = load_tiny(folders, over_long="cut_response")
    assert adapter.check(long, ("chosen",)) == ("responses cut to fit",)
    batch = adapter.collate(adapter.encode([adapter.prepare(long, ("chosen",))]), ("chosen",))
    assert batch.inputs["input_ids"].shape == (1, POSITIONS)
    with pytest.raises(UserError, match=f"model.max_length: 999 is more than the {POSITIONS} positions"):
        load_tiny(folders, max_length=999)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"path": " "}, "path: must name"),
        ({"path": "x", "max_length": 1}, "max_length: must be 2 or more, got 1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Text(**settings)


def test_reading_the_config_class_imports_no_heavy_library() -> None:
    heavy = "{'transformers', 'peft', 'diffusers', 'accelerate'}"
    code = f"import sys, mmalign.adapters.text; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


# ---------------------------------------------------------------- a real checkpoint


@pytest.fixture(scope="module")
def stories() -> tuple[str, dict[str, Any]]:
    root = os.environ.get("MMALIGN_TEST_DATA")
    if not root:
        pytest.skip("MMALIGN_TEST_DATA is not set: it names the folder with models/stories260K")
    models = Path(root) / "models"
    return str(models / "stories260K"), json.loads((models / "stories260K_reference.json").read_text())


def test_stories_pair_has_its_published_log_probabilities(stories: tuple[str, dict[str, Any]]) -> None:
    folder, reference = stories
    adapter = Text(path=folder, append_eos=False).build(CPU)
    pair = reference["pair"]
    texts = {role: pair[role].removeprefix(pair["prompt"]) for role in ROLES}
    batch, scores = contract.Case(adapter, (sample("1", plain(pair["prompt"]), **texts),)).score()
    prompt = sample("1", plain("Once"), chosen=pair["prompt"].removeprefix("Once"))
    _, head = contract.Case(adapter, (prompt,), ("chosen",)).score()
    first = sample("1", plain(""), chosen="Once")
    _, start = contract.Case(adapter, (first,), ("chosen",)).score()
    shared = float((head.total() + start.total()).detach())
    for role in ROLES:
        total = float(scores.take(batch.rows_of(role)).total().detach()) + shared
        assert total == pytest.approx(pair[f"sum_logprob_{role}"], abs=2e-5)


def test_stories_tokens_and_continuations(stories: tuple[str, dict[str, Any]]) -> None:
    folder, reference = stories
    adapter = Text(path=folder, append_eos=False).build(CPU)
    for known in reference["cases"]:
        ids = known["input_ids"]
        settings = Sampling(max_new_tokens=len(known["greedy_64_ids"]) - len(ids), temperature=0)
        (new,) = sample_ids(adapter.policy, [ids], [0], settings, adapter.end_ids, None)
        ended = [*ids, *new]
        assert ended == known["greedy_64_ids"][: len(ended)]
        if not known["text"]:
            continue
        _, scores = contract.Case(
            adapter, (sample("1", plain(""), chosen=known["text"]),), ("chosen",)
        ).score()
        assert torch.allclose(scores.values[0], torch.tensor(known["token_logprobs"]), atol=1e-5)
