"""The diffusion adapter's rows and scores on a tiny random pipeline."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import contract
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny_sd import build_pipeline, example, pair, pairs, picture, prompt, save_pipeline
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import Batch, Example, PreferenceSample

CPU = torch.device("cpu")
ROLES = ("chosen", "rejected")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("pipelines")
    return {name: save_pipeline(base / name, name) for name in ("epsilon", "v_prediction")}


@pytest.fixture(scope="module")
def adapter(folders: dict[str, Path]) -> Denoiser:
    return Diffusion(str(folders["epsilon"]), num_draws=2).build(CPU)


def with_lora(policy: nn.Module) -> nn.Module:
    """The policy with LoRA layers that already changed it."""
    config = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    torch.manual_seed(3)
    inject_adapter_in_model(config, policy, adapter_name="policy")
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape)
    return policy


@contextmanager
def switched_off(policy: nn.Module) -> Iterator[None]:
    layers = [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    yield
    for layer in layers:
        layer.enable_adapters(True)


def batch_of(adapter: Denoiser, *samples: PreferenceSample) -> Batch:
    return contract.Case(adapter, samples).batch()


# ---------------------------------------------------------------- contract


def test_shapes(adapter: Denoiser) -> None:
    contract.check_shapes(contract.Case(adapter, pairs()))


def test_same_draw_same_scores(adapter: Denoiser) -> None:
    contract.check_same_draw_same_scores(contract.Case(adapter, pairs()))


def test_batching_does_not_matter(adapter: Denoiser) -> None:
    contract.check_batching_does_not_matter(contract.Case(adapter, pairs()))


def test_gradients_reach_the_policy_only(adapter: Denoiser) -> None:
    contract.check_gradients_reach_the_policy_only(contract.Case(adapter, pairs()))


# ---------------------------------------------------------------- scores


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("vae_sample", [True, False])
def test_scores_equal_a_plain_loop_over_upstream(
    folders: dict[str, Path], prediction: str, vae_sample: bool
) -> None:
    config = Diffusion(
        str(folders[prediction]), num_draws=2, weighting="min_snr", gamma=3.0, vae_sample=vae_sample
    )
    adapter = config.build(CPU)
    samples = [pair(f"s{i}", f"a cat {i}", picture(i), picture(i + 10)) for i in range(2)]
    batch = batch_of(adapter, *samples)
    draw = adapter.draw(batch, [5, 6])
    scores = adapter.logprobs(adapter.policy, batch, draw, frozenset())
    pipeline = StableDiffusionPipeline.from_pretrained(folders[prediction])
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    for row in range(4):
        s, role = int(batch.row_sample[row]), ROLES[int(batch.row_role[row])]
        image = samples[s].examples[role][0].response[0].data
        values = plain_scores(pipeline, scheduler, image, f"a cat {s}", {k: v[s] for k, v in draw.items()})
        if not vae_sample:
            draw_mean = {k: v[s] for k, v in draw.items()} | {"latent_noise": torch.zeros(4, 16, 16)}
            values = plain_scores(pipeline, scheduler, image, f"a cat {s}", draw_mean)
        assert scores.values[row].tolist() == pytest.approx(values, abs=1e-5)


@torch.no_grad()
def plain_scores(pipeline: Any, scheduler: Any, image: Any, caption: str, draw: Any) -> list[float]:
    """Scores of one picture, draw by draw, with nothing but upstream's parts."""
    pixels = torch.tensor(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    latents = pipeline.vae.encode(pixels).latent_dist
    x0 = (latents.mean + latents.std * draw["latent_noise"]) * pipeline.vae.config.scaling_factor
    states, _ = pipeline.encode_prompt(caption, CPU, 1, False)
    scores = []
    for t, eps in zip(draw["timestep"], draw["noise"], strict=True):
        noised = scheduler.add_noise(x0, eps[None], t[None])
        answer = pipeline.unet(noised, t, encoder_hidden_states=states).sample
        snr = scheduler.alphas_cumprod[t] / (1 - scheduler.alphas_cumprod[t])
        if scheduler.config.prediction_type == "epsilon":
            target, weight = eps[None], min(float(snr), 3.0) / float(snr)
        else:
            target, weight = scheduler.get_velocity(x0, eps[None], t[None]), min(float(snr), 3.0) / (1 + snr)
        scores.append(float(-0.5 * weight * (answer - target).pow(2).mean()))
    return scores


def test_error_and_timestep_come_with_the_scores(adapter: Denoiser) -> None:
    batch = batch_of(adapter, *pairs(2))
    draw = adapter.draw(batch, [1, 2])
    scores = adapter.logprobs(adapter.policy, batch, draw, frozenset({"error"}))
    assert scores.error is not None and scores.timestep is not None
    assert torch.equal(scores.values, -0.5 * scores.error)
    assert torch.equal(scores.timestep, draw["timestep"][batch.row_sample] / 1000)
    assert scores.kind == "surrogate" and scores.unit == "draw"


def test_identical_pictures_have_exactly_equal_ratios(adapter: Denoiser) -> None:
    same = picture(4)
    batch = batch_of(adapter, pair("a", "cat", same, same), pair("b", "dog", picture(5), picture(6)))
    draw = adapter.draw(batch, [1, 2])
    other = build_pipeline(seed=1).unet
    with torch.no_grad():
        ours = adapter.logprobs(adapter.policy, batch, draw, frozenset())
        ratio = ours.ratio(adapter.logprobs(other, batch, draw, frozenset()))
    chosen, rejected = ratio[batch.rows_of("chosen")], ratio[batch.rows_of("rejected")]
    assert float(chosen[0]) == float(rejected[0]) != 0.0
    assert float(chosen[1]) != float(rejected[1])


def test_draws_differ_between_seeds_and_match_the_batch(adapter: Denoiser) -> None:
    draw = adapter.draw(batch_of(adapter, *pairs(2)), [1, 2])
    assert draw["noise"].shape == (2, 2, 4, 16, 16)
    assert draw["timestep"].shape == (2, 2) and draw["timestep"].dtype == torch.long
    assert draw["latent_noise"].shape == (2, 4, 16, 16) and draw["drop"].shape == (2,)
    assert not torch.equal(draw["noise"][0], draw["noise"][1])
    with pytest.raises(ValueError, match="2 samples need as many seeds, got 1"):
        adapter.draw(batch_of(adapter, *pairs(2)), [1])


def test_a_dropped_caption_is_the_empty_one_for_all_roles(folders: dict[str, Path]) -> None:
    adapter = Diffusion(str(folders["epsilon"]), caption_dropout=0.5).build(CPU)
    sides = {
        "chosen": (example("cat", picture(1)),),
        "rejected": (example("a dog", picture(2)),),  # roles may differ in caption
    }
    nothing = {role: (Example(prompt(""), sides[role][0].response),) for role in ROLES}
    batch = batch_of(adapter, PreferenceSample("a", sides))
    empty = batch_of(adapter, PreferenceSample("a", nothing))
    seen = set()
    for seed in range(8):
        draw = adapter.draw(batch, [seed])
        kept = {**draw, "drop": torch.tensor([False])}
        with torch.no_grad():
            ours, without, full = (
                adapter.logprobs(adapter.policy, b, d, frozenset()).values
                for b, d in ((batch, draw), (empty, kept), (batch, kept))
            )
        dropped = bool(draw["drop"][0])
        assert torch.equal(ours, without if dropped else full)
        assert not bool((without == full).any())
        seen.add(dropped)
    assert seen == {True, False}


def test_one_forward_scores_all_roles_and_timesteps_stay_integers(folders: dict[str, Path]) -> None:
    adapter = Diffusion(str(folders["epsilon"]), num_draws=2, dtype="bfloat16").build(CPU)
    calls: list[tuple[Any, ...]] = []
    adapter.policy.register_forward_pre_hook(lambda module, arguments: calls.append(arguments))
    batch = batch_of(adapter, *pairs(2))
    adapter.logprobs(adapter.policy, batch, adapter.draw(batch, [1, 2]), frozenset())
    assert len(calls) == 1
    noised, timestep = calls[0]
    assert noised.shape == (8, 4, 16, 16) and noised.dtype == torch.bfloat16
    assert timestep.dtype == torch.long


def test_a_bfloat16_model_is_compared_in_float32(folders: dict[str, Path]) -> None:
    adapter = Diffusion(str(folders["epsilon"])).build(CPU, torch.bfloat16)
    assert next(adapter.policy.parameters()).dtype == torch.bfloat16
    named = Diffusion(str(folders["epsilon"]), dtype="float32").build(CPU, torch.bfloat16)
    assert next(named.policy.parameters()).dtype == torch.float32  # the config wins
    answers: list[torch.Tensor] = []
    adapter.policy.register_forward_hook(lambda module, inputs, output: answers.append(output.sample))
    batch = batch_of(adapter, *pairs(2))
    draw = adapter.draw(batch, [1, 2])
    error = adapter.logprobs(adapter.policy, batch, draw, frozenset()).error
    assert error is not None and error.dtype == torch.float32
    assert batch.inputs["mean"].dtype == batch.inputs["states"].dtype == torch.float32
    target = draw["noise"][batch.row_sample][:, 0]
    exact = (answers[0].double() - target.double()).pow(2).flatten(1).mean(1)
    assert float((error[:, 0] - exact).detach().abs().max()) < 1e-6


def test_lora_off_is_the_base_exactly_also_over_bfloat16(folders: dict[str, Path]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        adapter = Diffusion(str(folders["epsilon"])).build(CPU, dtype)
        batch = batch_of(adapter, *pairs(2))
        draw = adapter.draw(batch, [1, 2])
        with torch.no_grad():
            base = adapter.logprobs(adapter.policy, batch, draw, frozenset()).values
            with_lora(adapter.policy)
            changed = adapter.logprobs(adapter.policy, batch, draw, frozenset()).values
            with switched_off(adapter.policy):
                off = adapter.logprobs(adapter.policy, batch, draw, frozenset()).values
        assert torch.equal(off, base)
        assert not torch.equal(changed, base)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_self_check_agrees_and_notices_a_wrong_target(folders: dict[str, Path], prediction: str) -> None:
    adapter = Diffusion(str(folders[prediction]), num_draws=2, caption_dropout=0.5).build(CPU)
    batch = batch_of(adapter, *pairs(2))
    for seeds in ([1, 2], [3, 4], [5, 6]):
        assert adapter.self_check(adapter.policy, batch, adapter.draw(batch, seeds)) < 1e-5
    assert adapter.self_check(adapter.policy, batch) < 1e-5
    wrong = {"epsilon": "v_prediction", "v_prediction": "epsilon"}[prediction]
    adapter._schedule = dataclasses.replace(adapter._schedule, prediction=wrong)
    assert adapter.self_check(adapter.policy, batch) > 1e-3


def test_checkpointing_recomputes_and_keeps_gradients(folders: dict[str, Path]) -> None:
    adapter = Diffusion(str(folders["epsilon"])).build(CPU)
    batch = batch_of(adapter, *pairs(1))
    draw = adapter.draw(batch, [1])

    def run() -> tuple[torch.Tensor, int]:
        adapter.policy.zero_grad()
        with FlopCounterMode(display=False) as counter:
            adapter.logprobs(adapter.policy, batch, draw, frozenset()).total().sum().backward()
        return adapter.policy.get_parameter("conv_in.weight").grad.clone(), counter.get_total_flops()  # type: ignore[union-attr]

    gradient, flops = run()
    adapter.enable_checkpointing()
    recomputed, more = run()
    assert torch.allclose(gradient, recomputed, rtol=1e-4, atol=1e-7)
    assert more > 1.1 * flops


def test_a_step_on_encoded_rows_runs_nothing_but_the_denoiser(folders: dict[str, Path]) -> None:
    adapter = Diffusion(str(folders["epsilon"])).build(CPU)
    reference = Diffusion(str(folders["epsilon"])).build(CPU).policy
    encoded = adapter.encode([adapter.prepare(sample, ROLES) for sample in pairs(1)])

    with FlopCounterMode(display=False) as counter:
        batch = adapter.collate(encoded, ROLES)
        draw = adapter.draw(batch, [1])
        with torch.no_grad():
            theirs = adapter.logprobs(reference, batch, draw, frozenset())
        ours = adapter.logprobs(adapter.policy, batch, draw, frozenset())
        ours.ratio(theirs).sum().backward()
    step = counter.get_total_flops()

    x, t, states = torch.randn(2, 4, 16, 16), torch.tensor([1, 2]), torch.randn(2, 77, 32)
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            reference(x, t, encoder_hidden_states=states)
        adapter.policy(x, t, encoder_hidden_states=states).sample.sum().backward()
    assert 0 < step <= 1.05 * counter.get_total_flops()
