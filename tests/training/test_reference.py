"""The frozen source given by its path: what is accepted, what is refused and how it is named."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families, tiny_lm
from tiny_runs import Bench

from mmalign.training.reference import make_switch
from mmalign.training.setup import build_policy
from mmalign.types import Adapter, UserError


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("reference"))
    torch.set_num_threads(threads)


def against(bench: Bench, path: str, kind: str = "text", **model: Any) -> tuple[Adapter, Any]:
    """An adapter, and the switch to the reference at a path."""
    config = bench.config(kind, "none", model=model, reference={"name": "path", "path": path})
    adapter = build_policy(config, torch.device("cpu"))
    return adapter, make_switch("path", adapter, config, torch.float32)


def score(adapter: Adapter, model: torch.nn.Module, prompts: Sequence[str]) -> torch.Tensor:
    samples = [tiny_lm.sample(str(i), tiny_lm.plain(p), chosen=" yes") for i, p in enumerate(prompts)]
    batch = adapter.collate([adapter.prepare(one, ("chosen",)) for one in samples], ("chosen",))
    return adapter.logprobs(model, batch, {}, frozenset()).total()


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_reference_that_is_not_there_is_named_by_its_own_section(bench: Bench, kind: str) -> None:
    gone = str(bench.folder / "gone")
    with pytest.raises(UserError, match=f"^reference.path: there is no folder {gone}"):
        against(bench, gone, kind)
    file = bench.folder / "file"
    file.write_text("")
    with pytest.raises(UserError, match=f"^reference.path: {file} is a file"):
        against(bench, str(file), kind)


@pytest.mark.parametrize("positions", [tiny_lm.POSITIONS * 2, tiny_lm.POSITIONS // 2])
def test_a_reference_may_place_more_or_fewer_tokens(bench: Bench, tmp_path: Path, positions: int) -> None:
    path = tiny_lm.save_tiny(tmp_path / "other", max_position_embeddings=positions)
    adapter, switch = against(bench, path)
    with switch() as other, torch.no_grad():
        assert other is not adapter.policy and not other.training
        theirs = score(adapter, other, ["why is the sky?"])
        assert torch.equal(theirs, score(adapter, adapter.policy.eval(), ["why is the sky?"]))


def test_a_row_that_the_reference_cannot_place_is_refused(bench: Bench, tmp_path: Path) -> None:
    path = tiny_lm.save_tiny(tmp_path / "short", max_position_embeddings=8)
    adapter, switch = against(bench, path)
    long = ["the small red fox jumped over a blue box and the girl ran home"]
    with switch() as other, torch.no_grad():
        assert score(adapter, adapter.policy, long).isfinite().all()
        with pytest.raises(UserError, match=r"the reference can place only 8; set model.max_length: 8"):
            score(adapter, other, long)
    with pytest.raises(UserError, match="^model.max_length: 20 is more than the 8 positions"):
        against(bench, path, max_length=20)


def test_another_way_to_read_rows_is_refused(bench: Bench, tmp_path: Path) -> None:
    path = tiny_lm.save_tiny(tmp_path / "bare", template=None)
    with pytest.raises(UserError, match="^reference.path .*bare: its tokenizer"):
        against(bench, path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prediction_type": "v_prediction"}, "it predicts v_prediction, the policy epsilon"),
        ({"num_train_timesteps": 500}, "it has 500 noise levels, the policy 1000"),
        ({"beta_end": 0.02}, "its noise levels have another signal, 0.*at level .*, the policy's 0"),
    ],
)
def test_a_reference_of_other_noise_is_refused(
    bench: Bench, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    """Its frozen encoders are the policy's: rows are read alike, but errors are not those it has learnt."""
    other = shutil.copytree(bench.model["image"]["path"], tmp_path / "other")
    against(bench, str(other), "image")
    file = other / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(UserError, match=f"^reference.path {other}: {words}") as refusal:
        against(bench, str(other), "image")
    assert "\n" not in str(refusal.value)


def test_a_reference_of_another_family_is_refused(bench: Bench, tmp_path: Path) -> None:
    other = tiny_families.FAMILIES["sd3"](tmp_path / "sd3")
    words = "it is a StableDiffusion3Pipeline, the policy a StableDiffusionPipeline"
    with pytest.raises(UserError, match=f"^reference.path {other}: {words}"):
        against(bench, str(other), "image", resolution=16)
