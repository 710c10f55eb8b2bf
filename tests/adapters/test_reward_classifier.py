"""Sequence classifiers as reward models: scored, saved and refused as their own library has them."""

import json
from pathlib import Path

import contract
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_lm import SAMPLES
from tiny_reward import CPU, config, fresh, save_classifier, saved
from transformers import AutoModelForSequenceClassification

from mmalign.adapters.reward_head import RewardHead
from mmalign.adapters.text import Text
from mmalign.types import UserError


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_a_classifier_scores_as_its_own_library_has_it(tmp_path: Path, family: str) -> None:
    folder = save_classifier(tmp_path / "m", family=family)
    adapter = config(folder).build(CPU)
    batch, scores = contract.Case(adapter, SAMPLES).score()
    upstream = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = batch.inputs["input_ids"]
    mask = torch.arange(inputs.shape[1]) < batch.inputs["length"][:, None]
    with torch.no_grad():
        expected = upstream(input_ids=inputs, attention_mask=mask.long()).logits
    assert torch.allclose(scores.values, expected, atol=1e-5)
    assert adapter.self_check(adapter.policy, batch, {}) < 1e-5


def test_a_classifier_that_pads_with_the_end_token_is_read_as_its_library_reads_it(tmp_path: Path) -> None:
    """There the last token that is no padding is the one before the end token."""
    folder = save_classifier(tmp_path / "m")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"pad_token_id": settings["eos_token_id"]}))
    adapter = config(folder).build(CPU)
    batch, scores = contract.Case(adapter, SAMPLES).score()
    assert adapter.self_check(adapter.policy, batch, {}) < 1e-5
    upstream = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    shifted = 0
    for row, length in enumerate(batch.inputs["length"].tolist()):
        ids = batch.inputs["input_ids"][row : row + 1, :length]
        with torch.no_grad():
            assert torch.allclose(scores.values[row], upstream(ids).logits[0], atol=1e-5)
        shifted += int(adapter.backbone.ends(batch)[row]) < length - 1
    assert shifted > 0


def test_a_trained_classifier_goes_back_to_its_library(tmp_path: Path) -> None:
    adapter = config(save_classifier(tmp_path / "m")).build(CPU)
    with torch.no_grad():
        adapter.policy.get_submodule("score").get_parameter("weight").mul_(-2)
    batch, scores = contract.Case(adapter, SAMPLES).score()
    folder = saved(adapter, tmp_path / "out")
    upstream, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids = batch.inputs["input_ids"][:1, : int(batch.inputs["length"][0])]
    with torch.no_grad():
        assert float(upstream.eval()(ids).logits) == pytest.approx(float(scores.values[0]), abs=1e-5)
    opened = RewardHead.open(folder, CPU)
    assert torch.equal(contract.Case(opened, SAMPLES).score()[1].values, scores.values)


def test_a_classifier_whose_score_is_missing_is_refused(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    del state["score.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"are missing \(they would be random\): score.weight"):
        config(folder).build(CPU)


def test_classifiers_that_no_head_here_can_be(tmp_path: Path) -> None:
    one, three = save_classifier(tmp_path / "one"), save_classifier(tmp_path / "three", labels=3)
    with pytest.raises(UserError, match=r"model.aspects: .*three gives 3 scores, but 1 are named"):
        config(three).build(CPU)
    with pytest.raises(UserError, match=r"model.head.type: .* linear score; use linear"):
        fresh(one, type="mlp")
    named = RewardHead.open(three, CPU)
    assert named.config.aspects == ("score_0", "score_1", "score_2")
    with pytest.raises(UserError, match=r"sequence classifier .*use model.adapter: reward_head"):
        Text(str(one)).build(CPU)
