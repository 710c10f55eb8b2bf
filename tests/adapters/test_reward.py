"""The reward adapter: one score per row at its last token, whatever stands beside it, and its files."""

import json
import shutil
from pathlib import Path
from typing import Any

import contract
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_lm import FAMILIES, ROLES, SAMPLES, plain, sample, save_tiny
from tiny_reward import CPU, config, fresh, save_classifier, saved
from transformers import AutoModelForCausalLM

from mmalign.adapters._score_head import Head
from mmalign.adapters.reward_head import RewardHead
from mmalign.types import UserError

# ---------------------------------------------------------------- scores


@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_is_the_head_on_the_last_token_of_the_row_alone(
    folders: dict[str, str], family: str
) -> None:
    adapter = fresh(folders[family])
    upstream = AutoModelForCausalLM.from_pretrained(folders[family], dtype=torch.float32).eval()
    weight = adapter.policy.get_submodule("score").get_parameter("weight")
    batch, scores = contract.Case(adapter, SAMPLES).score()
    assert scores.values.shape == (len(batch.row_role), 1) and scores.kind == "reward"
    lengths = batch.inputs["length"].tolist()
    assert len(set(lengths)) > 2, "rows of different lengths, so that some are padded"
    with torch.no_grad():
        for row, length in enumerate(lengths):
            ids = batch.inputs["input_ids"][row : row + 1, :length]
            states = upstream(ids, output_hidden_states=True).hidden_states[-1]
            expected = float(states[0, length - 1] @ weight[0])
            assert float(scores.values[row, 0]) == pytest.approx(expected, abs=1e-5)
            assert float(scores.total()[row]) == float(scores.values[row, 0])


def test_what_stands_in_the_padding_is_never_read(folders: dict[str, str]) -> None:
    adapter = fresh(folders["llama"])
    batch, before = contract.Case(adapter, SAMPLES).score()
    ids, lengths = batch.inputs["input_ids"], batch.inputs["length"]
    ids[torch.arange(ids.shape[1]) >= lengths[:, None]] = 17
    after = adapter.logprobs(adapter.policy, batch, {}, frozenset())
    assert torch.equal(before.values, after.values)
    last = ids[torch.arange(len(lengths)), lengths - 1]
    ids[torch.arange(len(lengths)), lengths - 1] = (last + 1) % 300
    moved = adapter.logprobs(adapter.policy, batch, {}, frozenset())
    assert bool((moved.values != before.values).all()), "the last token itself is read"


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_contract(folders: dict[str, str], kind: str) -> None:
    case = contract.Case(fresh(folders["llama"], type=kind), SAMPLES)
    contract.check_shapes(case)
    contract.check_same_draw_same_scores(case)
    contract.check_batching_does_not_matter(case, 1e-6)
    contract.check_gradients_reach_the_policy_only(case)


def test_every_weight_that_trains_takes_part(folders: dict[str, str]) -> None:
    """The vocabulary head of an untied model takes none and must not train."""
    for family in ("llama", "gpt2"):  # untied and tied
        adapter = fresh(folders[family], type="mlp")
        contract.Case(adapter, SAMPLES).score()[1].total().sum().backward()
        missed = [n for n, p in adapter.policy.named_parameters() if p.requires_grad and p.grad is None]
        assert missed == []


@pytest.mark.parametrize("classifier", [False, True])
def test_self_check_sees_wrong_states(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classifier: bool
) -> None:
    adapter = fresh(save_classifier(tmp_path / "m") if classifier else folders["llama"])
    batch, _ = contract.Case(adapter, SAMPLES).score()
    assert adapter.self_check(adapter.policy, batch, {}) < 1e-5
    states = adapter.backbone.hidden(adapter.policy, batch).detach()
    monkeypatch.setattr(adapter.backbone, "hidden", lambda model, batch: states.roll(1, dims=1))
    assert adapter.self_check(adapter.policy, batch, {}) > 1e-3


def test_the_head_computes_in_float32_under_autocast(folders: dict[str, str]) -> None:
    adapter = fresh(folders["llama"], type="mlp")
    head = adapter.policy.get_submodule("score")
    hidden = torch.randn(4, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(hidden), head(hidden).float()) and head(hidden).dtype == torch.float32
        mixed = head(hidden)
    assert torch.equal(mixed, head(hidden))


def test_fresh_heads_differ_by_seed_only(folders: dict[str, str]) -> None:
    one, same, other = (fresh(folders["llama"], seed=seed).policy.score.weight for seed in (0, 0, 1))  # type: ignore[union-attr]
    assert torch.equal(one, same) and not torch.equal(one, other)  # type: ignore[arg-type]


def test_several_aspects_and_their_mean(folders: dict[str, str]) -> None:
    section = config(folders["llama"], ("help", "harm"), init="fresh")
    _, scores = contract.Case(section.build(CPU), SAMPLES).score()
    assert scores.values.shape[1] == 2
    assert torch.allclose(scores.total(), scores.values.mean(-1))


def test_a_reward_model_writes_nothing(folders: dict[str, str]) -> None:
    adapter = fresh(folders["llama"])
    with pytest.raises(UserError, match="scores responses and writes none"):
        adapter.generate(adapter.policy, [plain("the fox")], [0])


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_saved_and_loaded_again(folders: dict[str, str], tmp_path: Path, kind: str) -> None:
    adapter = fresh(folders["llama"], type=kind)
    again = adapter.config.at(str(tmp_path / "one"))
    contract.check_reload(
        contract.Case(adapter, SAMPLES), tmp_path, None, lambda folder: again.build(CPU).policy
    )
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "one", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert "score" in dict(adapter.policy.named_children()), "saving puts the head back"


def test_a_saved_folder_says_how_its_rows_are_made(folders: dict[str, str], tmp_path: Path) -> None:
    section = {"adapter": "text", "path": folders["llama"], "append_eos": False, "max_length": 40}
    adapter = RewardHead(section, Head(init="fresh")).build(CPU)
    opened = RewardHead.open(saved(adapter, tmp_path / "m"), CPU)
    assert opened.config.part.append_eos is False and opened.config.part.max_length == 40
    ours, theirs = (contract.Case(a, SAMPLES).score()[1].values for a in (adapter, opened))
    assert torch.equal(ours, theirs)


def test_a_model_without_a_head_is_refused_unless_a_fresh_one_is_asked_for(folders: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"holds no reward head .*model.head.init=fresh") as error:
        config(folders["llama"]).build(CPU)
    assert "\n" not in str(error.value)
    assert fresh(folders["llama"]).config.head.init == "fresh"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("gone", "head.safetensors"),
        ("cut", "head.safetensors"),
        ("nan", "weight holds NaN"),
        ("unknown", "weight other is unknown"),
        ("shape", r"weight has shape \[2, 32\], not \[1, 32\]"),
        ("format", "its format is 9"),
        ("json", "not valid JSON"),
        ("fields", "must hold type"),
        ("wide", "hidden size is 64 there, but 32 here"),
        ("mlp", "model.head.type is mlp there, but linear here"),
        ("aspects", r"model.aspects is \['a', 'b'\] there"),
    ],
)
def test_broken_and_foreign_heads(folders: dict[str, str], tmp_path: Path, fault: str, words: str) -> None:
    folder = saved(fresh(folders["llama"]), tmp_path / "m")
    file, settings = folder / "head.safetensors", json.loads((folder / "head.json").read_text())
    weight = load_file(file)["weight"]
    states = {
        "nan": {"weight": weight * torch.nan},
        "unknown": {"weight": weight, "other": weight.clone()},
        "shape": {"weight": torch.cat([weight, weight])},
    }
    changes: dict[str, dict[str, Any]] = {
        "format": {"format": 9},
        "fields": {"type": "cubic"},
        "wide": {"hidden_size": 64},
        "mlp": {"type": "mlp"},
        "aspects": {"aspects": ["a", "b"]},
    }
    if fault == "gone":
        file.unlink()
    elif fault == "cut":
        file.write_bytes(file.read_bytes()[:20])
    elif fault == "json":
        (folder / "head.json").write_text("{")
    elif fault in states:
        save_file(states[fault], file)
    (folder / "head.json").write_text(
        "{" if fault == "json" else json.dumps(settings | changes.get(fault, {}))
    )
    with pytest.raises(UserError, match=words) as error:
        config(folder).build(CPU)
    assert "\n" not in str(error.value)


def test_folders_without_a_reward_model_are_refused(folders: dict[str, str], tmp_path: Path) -> None:
    for folder in (Path(folders["llama"]), tmp_path):
        with pytest.raises(UserError, match="holds no reward model; expected head.json"):
            RewardHead.open(folder, CPU)


def test_a_head_of_another_folder(folders: dict[str, str], tmp_path: Path) -> None:
    folder = saved(fresh(folders["llama"], seed=5), tmp_path / "m")
    other = tmp_path / "head only"
    other.mkdir()
    for name in ("head.json", "head.safetensors"):
        shutil.copy(folder / name, other / name)
    adapter = config(folders["llama"], path=str(other)).build(CPU)
    expected = fresh(folders["llama"], seed=5)
    ours, theirs = (contract.Case(a, SAMPLES).score()[1].values for a in (adapter, expected))
    assert torch.equal(ours, theirs)


# ---------------------------------------------------------------- the section


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"backbone": {"path": "m"}}, "backbone.adapter: name the adapter"),
        ({"backbone": {"adapter": "txt", "path": "m"}}, "no adapter is called 'txt'; did you mean text"),
        ({"backbone": {"adapter": "diffusion", "path": "m"}}, "diffusion has no hidden states"),
        ({"backbone": {"adapter": "own:Thing", "path": "m"}}, "must be an adapter of this package"),
        ({"backbone": {"adapter": "text", "pth": "m"}}, "backbone: unknown key pth; did you mean"),
        ({"backbone": {"adapter": "text"}}, "backbone.path: this field is required"),
        ({"aspects": ()}, "aspects: must be one or more different names"),
        ({"aspects": ("a", "a")}, "aspects: must be one or more different names"),
        ({"aspects": (" ",)}, "aspects: a name must not be empty"),
    ],
)
def test_sections_that_cannot_work(section: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RewardHead(**({"backbone": {"adapter": "text", "path": "m"}} | section))


def test_a_fresh_head_has_no_path() -> None:
    with pytest.raises(ValueError, match="path: only read with init load"):
        Head(init="fresh", path="m")


def test_refusals_of_the_backbone_name_its_own_fields(folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model.backbone.path: there is no folder"):
        config(tmp_path / "nowhere", init="fresh").build(CPU)
    folder = Path(save_tiny(tmp_path / "m"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no weights; expected model.safetensors or"):
        config(folder, init="fresh").build(CPU)
    long = sample("9", plain("the fox"), chosen=" zq" * 128)
    with pytest.raises(UserError, match=r"rows.jsonl row 9: chosen: .* more than the 128 allowed"):
        fresh(folders["llama"]).check(long, ROLES[:1])


def test_a_frozen_bfloat16_backbone_keeps_a_float32_head(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    adapter = config(folder, init="fresh").build(CPU, torch.bfloat16)
    assert {p.dtype for n, p in adapter.policy.named_parameters() if n != "score.weight"} == {torch.bfloat16}
    assert adapter.policy.get_submodule("score").get_parameter("weight").dtype == torch.float32
    assert contract.Case(adapter, SAMPLES).score()[1].values.dtype == torch.float32
