"""Training on the reward of sampled pictures: gradients, what is held, runs that gain, refusals."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_runs import Bench, losses, metrics, same_files

from mmalign.adapters._rollout import first_steps
from mmalign.config import RunConfig
from mmalign.training.checks import check_config
from mmalign.training.console import Console
from mmalign.training.rows import load_data
from mmalign.training.run import run
from mmalign.training.setup import build_engine, build_policy, micro_batches, start
from mmalign.training.step import Engine, Micro, compute_gradients
from mmalign.types import Rollout, UserError

LORA = {"rank": 4, "targets": ["to_q", "to_k", "to_v", "to_out.0"]}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "refl": {"name": "refl", "steps": 6, "first": 3, "last": 5, "scale": 1.0, "target": 1.0},
    "draft": {"name": "draft", "steps": 4, "last": 2, "guidance": 2.0},
    "alignprop": {"name": "alignprop", "steps": 6, "mean": 4.0, "deviation": 1.0, "scale": 1.0},
    "longalign": {"name": "longalign", "steps": 6, "every": 3, "guidance": 2.0},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("rewards"))
    torch.set_num_threads(threads)


def config_of(bench: Bench, objective: Any, output: str = "none", **sections: Any) -> RunConfig:
    settings = {"lora": LORA, "reward": {"name": "brightness"}, "model": {"resolution": 16}, **sections}
    return bench.config("image", output, objective=objective, **settings)


def engine_of(config: RunConfig) -> tuple[Engine, list[Micro]]:
    accelerator, world = start()
    console = Console(world, progress=False, quiet=True)
    data = load_data(config, world, console)
    adapter = build_policy(config, world.device)
    data.admit(adapter, config, console)
    engine, encoder, _ = build_engine(config, accelerator, world, adapter, data, console)
    torch.manual_seed(1)
    for name, parameter in adapter.policy.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    items = next(iter(data.loader(adapter, config).steps(0, 1)))
    return engine, micro_batches(engine, encoder, items, config.train)


def loss_and_gradient(engine: Engine, micros: list[Micro]) -> tuple[float, torch.Tensor]:
    engine.adapter.policy.zero_grad()
    result = compute_gradients(engine, micros, {}, 0)
    grads = [p.grad.flatten() for p in engine.adapter.policy.parameters() if p.grad is not None]
    return float(result.loss), torch.cat(grads)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_reward_rises_and_the_run_resumes_bit_for_bit(bench: Bench, name: str) -> None:
    def part(steps: int, output: str) -> RunConfig:
        train = {"steps": steps, "lr": 0.02, "batch": 4, "micro_batch": 2}
        sections = {"data": {"heldout": 2}, "evaluation": {"grid": 0}}
        return config_of(bench, OBJECTIVES[name], f"{name}-{output}", train=train, **sections)

    straight = run(part(3, "straight"))
    run(part(2, "resumed"))
    resumed = run(part(3, "resumed"))
    same_files(straight / "final", resumed / "final")
    assert losses(straight) == losses(resumed)
    heldout = [line["heldout/reward"] for line in metrics(straight) if "heldout/reward" in line]
    assert heldout[-1] > heldout[0] + 1e-4


@pytest.mark.parametrize("name", ["refl", "draft"])
def test_gradients_are_those_of_finite_differences(bench: Bench, name: str) -> None:
    """Along the gradient itself; steps before the first one with a gradient see another model, so they are
    left out by taking the gradient from the first step on."""
    whole = {
        "refl": {**OBJECTIVES["refl"], "steps": 1, "first": 0, "last": 0},
        "draft": {**OBJECTIVES["draft"], "steps": 3, "last": 3},
    }
    engine, micros = engine_of(config_of(bench, whole[name], train={"batch": 2}))
    trained = [p for p in engine.adapter.policy.parameters() if p.requires_grad]
    _, gradient = loss_and_gradient(engine, micros)
    unit, place = gradient / gradient.norm(), 0
    found = []
    for sign in (1, -1):
        for parameter in trained:
            size = parameter.numel()
            parameter.data += sign * 1e-2 * unit[place : place + size].reshape(parameter.shape)
            place += size
        found.append(loss_and_gradient(engine, micros)[0])
        place = 0
        for parameter in trained:
            size = parameter.numel()
            parameter.data -= sign * 1e-2 * unit[place : place + size].reshape(parameter.shape)
            place += size
        place = 0
    assert (found[0] - found[1]) / 2e-2 == pytest.approx(float(gradient.norm()), rel=0.02)


def test_a_batch_samples_like_its_samples_alone(bench: Bench) -> None:
    engine, (micro,) = engine_of(config_of(bench, OBJECTIVES["refl"], train={"batch": 4}))
    adapter, rollout = engine.adapter, engine.objective.rollout
    assert rollout is not None
    batch = adapter.collate(micro.encoded, ["prompt"])
    together = adapter.roll_out(adapter.policy, batch, rollout, [1, 2, 3, 4])
    assert together.shape == (4, 3, 16, 16) and together.requires_grad
    for place in range(4):
        alone = adapter.collate(micro.encoded[place : place + 1], ["prompt"])
        single = adapter.roll_out(adapter.policy, alone, rollout, [place + 1])
        assert torch.allclose(single[0], together[place], atol=1e-5)


def test_pictures_stay_in_float32_under_mixed_precision(bench: Bench) -> None:
    """Half precision would leave 8 bits of every pixel to the reward, and some autoencoders overflow."""
    config = config_of(bench, OBJECTIVES["refl"], train={"batch": 2, "precision": "bf16"})
    engine, (micro,) = engine_of(config)
    batch = engine.adapter.collate(micro.encoded, ["prompt"])
    walk = engine.objective.rollout
    pixels = engine.scorer(batch, {}, engine.needs, "policy", walk, [1, 2])
    assert pixels.dtype == torch.float32 and pixels.requires_grad
    latents = engine.adapter._latents  # type: ignore[attr-defined]
    clean = torch.randn(1, 4, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = latents.decode(clean)
    assert torch.equal(half, latents.decode(clean))


def test_what_is_held_grows_little_with_the_steps(bench: Bench) -> None:
    held = {}
    for last in (1, 4):
        engine, micros = engine_of(
            config_of(bench, {"name": "draft", "steps": 4, "last": last}, train={"batch": 1})
        )
        rollout = engine.objective.rollout
        assert rollout is not None
        kept: list[int] = []

        def pack(tensor: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        batch = engine.adapter.collate(micros[0].encoded, ["prompt"])
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            engine.adapter.roll_out(engine.adapter.policy, batch, rollout, [1])
        held[last] = sum(kept)
    assert held[4] - held[1] < 3 * 20 * 4 * 8 * 8  # a few latents a step, no activations of the denoiser


def test_where_gradients_begin_is_drawn_per_sample() -> None:
    refl = Rollout(40, (30, 39))
    found = first_steps(refl, range(400))
    assert set(found) == set(range(30, 40)) and found == first_steps(refl, range(400))
    normal = first_steps(Rollout(50, (1, 49), spread=(42.0, 5.0)), range(400))
    assert min(normal) >= 1 and max(normal) <= 49
    assert torch.tensor(normal).float().mean().item() == pytest.approx(42 - 0.7, abs=1.0)
    assert set(first_steps(Rollout(50, (0, 9), every=10), range(400))) == set(range(10))


@pytest.mark.parametrize(
    ("objective", "sections", "words"),
    [
        ("refl", {"reward": None}, "reward: this objective trains on one"),
        (
            "refl",
            {"reward": {"name": "python_function", "function": "math:sqrt"}},
            "no gradient flows through",
        ),
        ("longalign", {"reward": {"name": "denscore", "path": "x"}}, "give it a fixed common direction"),
        ("refl", {"train": {"backward": "chunked"}}, "cannot be chunked"),
        ("refl", {"reference": {"name": "copy"}}, "takes no reference"),
    ],
)
def test_what_does_not_go_together_is_refused(
    bench: Bench, objective: str, sections: Any, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        check_config(config_of(bench, OBJECTIVES[objective], **sections))


def test_a_reward_without_use_and_a_model_without_sampler_are_refused(bench: Bench) -> None:
    with pytest.raises(UserError, match="trains on no reward; remove the section"):
        check_config(config_of(bench, {"name": "dpo", "beta": 200}))
    with pytest.raises(UserError, match=r"needs sampler .*adapter text offers"):
        check_config(bench.config("text", "none", objective=OBJECTIVES["refl"]))
