"""Scores, gradients and files of the text adapter against the models' own logits and PEFT."""

import json
from pathlib import Path
from typing import Any

import contract
import pytest
import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from tiny_lm import FAMILIES, ROLES, SAMPLES, chat, load_tiny, plain, sample
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Gemma2ForCausalLM

from mmalign.adapters import _distribution
from mmalign.adapters.text import Text
from mmalign.types import UserError


def case_of(adapter: Any, needs: frozenset[str] = frozenset()) -> contract.Case:
    return contract.Case(adapter, SAMPLES, ROLES, needs)


def add_lora(adapter: Any, targets: Any = "all-linear") -> None:
    """LoRA as the trainer injects it, with B moved off zero so that it acts."""
    adapter.policy.requires_grad_(False)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets)
    torch.manual_seed(1)
    inject_adapter_in_model(config, adapter.policy, adapter_name="policy")
    for name, weight in adapter.policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)


def plain_scores(adapter: Any, model: Any) -> dict[contract.Key, torch.Tensor]:
    """Row by row without padding: softmax of all logits, one token after the other."""
    scores = {}
    for one in SAMPLES:
        for row in adapter.prepare(one, ROLES).rows:
            ids = row.data["ids"]
            logits = model(input_ids=ids[None]).logits[0].double()
            places = range(int(row.data["start"]), len(ids))
            values = [torch.log_softmax(logits[place - 1], -1)[ids[place]] for place in places]
            scores[one.id, row.role, row.slot] = torch.stack(values).detach()
    return scores


# ---------------------------------------------------------------- scores


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_scores_like_its_own_logits(folders: dict[str, str], family: str) -> None:
    adapter = load_tiny(folders, family)
    case = case_of(adapter)
    contract.check_shapes(case)
    contract.check_same_draw_same_scores(case)
    contract.check_batching_does_not_matter(case, tolerance=1e-6 if family != "gemma2" else 2e-6)
    batch, scores = case.score()
    assert contract.gap(contract.by_row(batch, scores), plain_scores(adapter, adapter.policy)) <= 1e-5
    assert adapter.self_check(adapter.policy, batch, {}) < 1e-5
    assert float(scores.values[scores.mask].std()) > 0.1  # the models are not uniform


def test_attention_a_family_lacks_is_one_line(folders: dict[str, str]) -> None:
    if Gemma2ForCausalLM._supports_sdpa:
        pytest.skip("this transformers gives Gemma2 sdpa attention")
    with pytest.raises(UserError, match="Gemma2ForCausalLM does not support"):
        load_tiny(folders, "gemma2", attention="sdpa")


def test_kinds_of_attention_agree(folders: dict[str, str]) -> None:
    eager = load_tiny(folders, attention="eager")
    fast = load_tiny(folders, attention="sdpa")
    assert contract.gap(*(contract.by_row(*case_of(a).score()) for a in (eager, fast))) <= 1e-5


def test_the_window_of_mistral_and_gemma2_is_shorter_than_a_row(folders: dict[str, str]) -> None:
    longest = max(len(row.data["ids"]) for row in load_tiny(folders).prepare(SAMPLES[2], ROLES).rows)
    assert longest > 16


def test_self_check_sees_scaling_that_is_not_applied(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_distribution, "DIVIDES", ())
    adapter = load_tiny(folders, "granite")
    assert adapter.self_check(adapter.policy, case_of(adapter).batch(), {}) > 0.01


@pytest.mark.parametrize("rows", [1, 7])
def test_tiles_do_not_matter(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    adapter = load_tiny(folders)
    case = case_of(adapter)
    whole = case.score()[1].values
    monkeypatch.setattr(_distribution, "MIN_TILE_ROWS", rows)
    monkeypatch.setattr(_distribution, "TILE_BYTES", {"cpu": 0, "cuda": 0})
    assert torch.allclose(case.score()[1].values, whole, atol=1e-6)


def test_the_head_sees_response_positions_only(folders: dict[str, str]) -> None:
    adapter = load_tiny(folders)
    seen: list[int] = []
    adapter.policy.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    with torch.no_grad():
        _, scores = case_of(adapter).score()
    assert sum(seen) == int(scores.mask.sum())


def test_bfloat16_stays_near_float32(folders: dict[str, str]) -> None:
    exact, coarse = load_tiny(folders), load_tiny(folders, dtype="bfloat16")
    first, second = case_of(exact).score()[1], case_of(coarse).score()[1]
    assert second.values.dtype == torch.float32
    assert float((first.values - second.values).abs().max()) < 0.3
    assert coarse.self_check(coarse.policy, case_of(coarse).batch(), {}) < 5e-2


def test_roles_lists_and_places(folders: dict[str, str]) -> None:
    adapter = load_tiny(folders)
    samples = (
        sample("a", plain("the fox"), chosen=" ran", rejected=[" is no", " perhaps", " yes"]),
        sample("b", plain("the blue box"), chosen=" ran home"),
        sample("c", chat(("user", "red?")), chosen="yes", rejected=["no", "a box"]),
    )
    case = contract.Case(adapter, samples, ROLES)
    contract.check_batching_does_not_matter(case)
    batch, scores = case.score()
    rows = batch.rows_of("rejected")
    assert batch.row_sample[rows].tolist() == [0, 0, 0, 2, 2]
    assert batch.row_slot[rows].tolist() == [0, 1, 2, 0, 1]
    assert scores.take(rows).slot.tolist() == [0, 1, 2, 0, 1]
    only = adapter.collate([adapter.prepare(s, ROLES) for s in samples], ("rejected",))
    assert len(only.row_role) == 5
    with pytest.raises(UserError, match="no sample of this batch has a response in the roles rejected"):
        adapter.collate([adapter.prepare(samples[1], ROLES)], ("rejected",))


def test_distribution_is_attached_when_needed(folders: dict[str, str]) -> None:
    adapter = load_tiny(folders, "gemma2")
    batch, scores = case_of(adapter, frozenset({"distribution"})).score()
    assert scores.distribution is not None
    targets = torch.zeros(scores.mask.shape, dtype=torch.long)
    targets[scores.mask] = batch.inputs["target"]
    assert torch.allclose(scores.distribution.gather(targets), scores.values, atol=1e-6)
    rows = batch.rows_of("rejected")
    taken = scores.take(rows)
    assert taken.distribution is not None
    assert torch.allclose(taken.distribution.gather(targets[rows]), taken.values, atol=1e-6)
    most_likely = scores.distribution.gather(scores.distribution.argmax())
    assert bool((most_likely >= scores.values - 1e-6).all())
    assert case_of(adapter).score()[1].distribution is None


# ---------------------------------------------------------------- gradients


def plain_gradient(adapter: Any) -> dict[str, torch.Tensor]:
    adapter.policy.zero_grad()
    for one in SAMPLES:
        for row in adapter.prepare(one, ROLES).rows:
            ids = row.data["ids"]
            logp = adapter.policy(input_ids=ids[None]).logits[0].log_softmax(-1)
            start = int(row.data["start"])
            logp[start - 1 : -1].gather(-1, ids[start:, None]).sum().backward()
    return {n: p.grad.clone() for n, p in adapter.policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("targets", [None, "all-linear", ["q_proj", "lm_head"]])
def test_gradients_equal_plain_ones(folders: dict[str, str], targets: Any) -> None:
    adapter = load_tiny(folders)
    if targets is not None:
        add_lora(adapter, targets)
    contract.check_gradients_reach_the_policy_only(case_of(adapter))
    expected = plain_gradient(adapter)
    adapter.policy.zero_grad()
    case_of(adapter).score()[1].total().sum().backward()
    found = {n: p.grad for n, p in adapter.policy.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-4, rtol=1e-4), name
    assert any("lm_head" in n for n in found) == (targets != "all-linear")


@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "lm_head"]])
def test_gradients_under_autocast_stay_near(folders: dict[str, str], targets: list[str]) -> None:
    adapter = load_tiny(folders)
    add_lora(adapter, targets)
    found = []
    for enabled in (False, True):
        adapter.policy.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            scores = case_of(adapter).score()[1]
        assert scores.values.dtype == torch.float32
        scores.total().sum().backward()
        grads = [p.grad.flatten() for p in adapter.policy.parameters() if p.grad is not None]
        found.append(torch.cat(grads).clone())
    assert found[1].dtype == torch.float32
    assert float(torch.cosine_similarity(found[0], found[1], dim=0)) > 0.995


def test_checkpointing_changes_nothing(folders: dict[str, str]) -> None:
    gradients = []
    for checkpointing in (False, True):
        adapter = load_tiny(folders)
        add_lora(adapter)
        if checkpointing:
            adapter.enable_checkpointing()
        adapter.policy.train()
        calls: list[int] = []
        adapter.policy.model.layers[0].mlp.register_forward_pre_hook(lambda *args, seen=calls: seen.append(1))
        case_of(adapter).score()[1].total().sum().backward()
        assert len(calls) == (2 if checkpointing else 1)
        gradients.append([p.grad for p in adapter.policy.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def lora_flop_floor(rows: int, length: int, scored: int) -> int:
    """Forward and backward of the tiny llama with LoRA of rank 4 on its layers and everything else frozen.

    A product of [a, b] and [b, c] counts 2abc. Forward: every weight once, attention as two full products,
    the head at scored positions. Backward: frozen weights pass gradients to their input (not the first
    layer's q, k, v: the embedding is frozen), LoRA also takes its own, attention has five products (one
    recomputes the scores), the head passes gradients to its input.
    """
    hidden, inner, pairs, rank, layers, vocabulary = 32, 64, 16, 4, 2, 320
    attention = [(hidden, hidden), (hidden, pairs), (hidden, pairs)]
    others = [(hidden, hidden), (hidden, inner), (hidden, inner), (inner, hidden)]
    tokens = rows * length
    total = 0
    for layer in range(layers):
        for group in (attention, others):
            for width, out in group:
                frozen, lora = 2 * width * out, 2 * rank * (width + out)
                if layer == 0 and group is attention:
                    total += tokens * (frozen + lora + lora + 2 * rank * out)
                else:
                    total += tokens * (2 * frozen + 3 * lora)
        total += (2 + 5) * rows * 2 * length * length * hidden
    return total + 2 * scored * 2 * hidden * vocabulary


def test_executed_flops_stay_near_the_floor(folders: dict[str, str]) -> None:
    adapter = load_tiny(folders)
    add_lora(adapter)
    one = sample(
        "1", plain("the small red fox jumped"), chosen=" over a blue box", rejected=" over a blue box"
    )
    batch = contract.Case(adapter, (one, one), ROLES).batch()
    rows, length = batch.inputs["input_ids"].shape
    assert bool((batch.inputs["length"] == length).all())
    with FlopCounterMode(display=False) as counter:
        adapter.logprobs(adapter.policy, batch, {}, frozenset()).total().sum().backward()
    with FlopCounterMode(display=False) as attention:
        torch.nn.functional.scaled_dot_product_attention(*torch.ones(3, 1, 1, 4, 8))
    if not attention.get_total_flops():
        pytest.skip("this torch does not count attention on the CPU")
    floor = lora_flop_floor(rows, length, len(batch.inputs["target"]))
    assert floor <= counter.get_total_flops() <= 1.05 * floor


# ---------------------------------------------------------------- files


def test_whole_model_comes_back(folders: dict[str, str], tmp_path: Path) -> None:
    adapter = load_tiny(folders, "qwen3")
    with torch.no_grad():
        adapter.policy.lm_head.weight.mul_(1.1)

    def load(folder: Path) -> Any:
        again = Text(path=str(folder)).build(torch.device("cpu"))
        assert again.fingerprint() == adapter.fingerprint()
        return again.policy

    contract.check_reload(case_of(adapter), tmp_path, None, load)
    assert (tmp_path / "one" / "model.safetensors").exists()


@pytest.mark.parametrize(("family", "targets"), [("llama", "all-linear"), ("gpt2", ["c_attn", "lm_head"])])
def test_lora_comes_back_through_peft(
    folders: dict[str, str], tmp_path: Path, family: str, targets: Any
) -> None:
    adapter = load_tiny(folders, family)
    before = case_of(adapter).score()[1].total()
    add_lora(adapter, targets)
    assert float((case_of(adapter).score()[1].total() - before).abs().min()) > 1e-3

    def load(folder: Path) -> Any:
        base = AutoModelForCausalLM.from_pretrained(folders[family], dtype=torch.float32)
        return PeftModel.from_pretrained(base, folder).base_model.model

    contract.check_reload(case_of(adapter), tmp_path, "policy", load)
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    settings = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == folders[family]
    assert settings["target_modules"] == sorted(settings["target_modules"])
    with pytest.raises(ValueError, match="LoRA"):
        adapter.save(adapter.policy, tmp_path / "three", None)


def test_fingerprint_ignores_weights_and_folder(folders: dict[str, str]) -> None:
    assert load_tiny(folders, "llama").fingerprint() == load_tiny(folders, "qwen3").fingerprint()
    assert load_tiny(folders).fingerprint() != load_tiny(folders, max_length=20).fingerprint()
    assert load_tiny(folders).fingerprint() != load_tiny(folders, append_eos=False).fingerprint()
