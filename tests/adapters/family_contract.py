"""What every diffusion family must hold, as checks over its tiny pipeline of `tiny_families`.

A test file describes its family as a `Subject`, whose `predict` and `latents` are written out with upstream's
own parts and share nothing with the adapter, and runs every check over it.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import contract
import numpy as np
import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_subject import CAPTIONS, ROLES, STEPS, Subject, add_lora, drawn, error, switched_off
from adapters.tiny_sd import prompt
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mmalign.adapters._latent_sampling import Generation
from mmalign.types import Clip, UserError

Fault = Callable[[Path], Any]  # breaks a copy of a folder

# ---------------------------------------------------------------- scores


@torch.no_grad()
def check_errors_equal_a_plain_loop(subject: Subject, _: Path) -> None:
    """Both sides of every pair at the pair's own levels and noise, by upstream's parts alone."""
    adapter = subject.read(num_draws=2)
    batch = subject.case(adapter).batch()
    draw = drawn(adapter, batch, drop=torch.tensor([False, False]))
    ours, pipeline = error(adapter, batch, draw), subject.pipeline()
    for row, expected in enumerate(ours):
        s, role = int(batch.row_sample[row]), ROLES[int(batch.row_role[row])]
        told = batch.inputs["time_ids"][row][None] if "time_ids" in batch.inputs else None
        x0 = subject.latents(pipeline, _pixels(subject, s, role), draw["latent_noise"][s][None])
        for k, level in enumerate(draw["timestep"][s].tolist()):
            noised, time, target = subject.noise(pipeline, x0, draw["noise"][s, k][None], level)
            answer = subject.predict(pipeline, noised, time, CAPTIONS[s], told)
            assert answer.shape == target.shape == draw["noise"][s, k][None].shape
            assert float((answer - target).pow(2).mean()) == pytest.approx(float(expected[k]), abs=1e-5)
    assert adapter.self_check(adapter.policy, batch, draw) < 1e-5


def _pixels(subject: Subject, sample: int, role: str) -> Tensor:
    data = subject.pairs()[sample].examples[role][0].response[0].data
    if isinstance(data, Clip):
        return data.frames[None].transpose(1, 2) / 127.5 - 1  # [1, 3, F, R, R]
    return torch.tensor(np.array(data)).permute(2, 0, 1)[None] / 127.5 - 1


@torch.no_grad()
def check_oblong_latents(subject: Subject, _: Path) -> None:
    """Latents wider than high: the denoiser is told where they lie as upstream's parts tell it."""
    adapter, pipeline = subject.read(), subject.pipeline()
    *front, height, width = subject.size.latents
    noised = torch.randn(1, *front, height, width + 4, generator=torch.Generator().manual_seed(1))
    time = adapter._schedule.time(torch.tensor([600]))
    condition = {name: value[None] for name, value in adapter._captions.conditions(CAPTIONS[:1])[0].items()}
    (encoded,) = adapter.encode([adapter.prepare(subject.pairs(1)[0], ROLES)])
    own = {name: encoded.rows[0].data[name][None] for name in adapter._family.conditions}
    ours = adapter._denoise(adapter.policy, noised, time, {**own, **condition})
    theirs = subject.predict(pipeline, noised, time[0], CAPTIONS[0], own.get("time_ids"))
    assert ours.shape == theirs.shape == noised.shape
    assert torch.allclose(ours, theirs, atol=1e-4)


@torch.no_grad()
def check_batching_does_not_matter(subject: Subject, _: Path) -> None:
    """Alone, together or in another order: the same scores."""
    contract.check_batching_does_not_matter(subject.case(subject.read(num_draws=2), 3), tolerance=1e-5)


@torch.no_grad()
def check_every_condition_moves_the_error(subject: Subject, _: Path) -> None:
    """Every tensor of the condition, the noise level and the noise."""
    adapter = subject.read()
    batch = subject.case(adapter).batch()
    draw = drawn(adapter, batch, drop=torch.tensor([False, False]))
    base = error(adapter, batch, draw)
    for name in adapter._family.conditions:
        value = batch.inputs[name]
        batch.inputs[name] = value * 0.5 + 1 if value.is_floating_point() else torch.ones_like(value)
        assert bool((error(adapter, batch, draw) != base).any()), name
        batch.inputs[name] = value
    assert torch.equal(error(adapter, batch, draw), base)
    for name, value in (("timestep", (draw["timestep"] + 311) % 1000), ("noise", -draw["noise"])):
        assert not bool((error(adapter, batch, {**draw, name: value}) == base).any()), name


@torch.no_grad()
def check_a_dropped_caption_is_the_empty_one(subject: Subject, _: Path) -> None:
    """For both sides of a pair at once, in every tensor that a caption gives; sizes stay."""
    adapter = subject.read()
    none = adapter.prepare(subject.pairs(3)[2], ROLES)  # its caption is the empty one
    named, empty = adapter._captions.conditions([""])[0], adapter._captions.empty
    assert none.rows[0].data["caption"] == "" and named.keys() == empty.keys()
    batch = subject.case(adapter).batch()
    draw = drawn(adapter, batch, drop=torch.tensor([True, False]))
    dropped = error(adapter, batch, draw)
    for name, value in empty.items():
        batch.inputs[name][batch.row_sample == 0] = value
    kept = {**draw, "drop": torch.tensor([False, False])}
    assert torch.equal(dropped, error(adapter, batch, kept))
    told = error(adapter, subject.case(adapter).batch(), kept)
    assert (dropped != told).flatten().tolist() == (batch.row_sample == 0).tolist()


@torch.no_grad()
def check_half_precision(subject: Subject, _: Path) -> None:
    """Errors stay in float32, near the exact ones, and a copy of the denoiser has the same to the bit."""
    exact, half = subject.read(), subject.adapter(dtype="bfloat16", encoder_dtype="bfloat16")
    copy = subject.adapter(dtype="bfloat16").policy
    batch = subject.case(half).batch()
    draw = drawn(half, batch)
    scores = [half.logprobs(model, batch, draw, frozenset()) for model in (half.policy, copy)]
    assert scores[0].values.dtype == torch.float32 and scores[0].error is not None
    assert float(scores[0].ratio(scores[1]).abs().max()) == 0.0
    theirs = error(exact, subject.case(exact).batch(), draw)
    assert torch.allclose(scores[0].error, theirs, rtol=0.1)
    (encoded,) = half.encode([half.prepare(subject.pairs(1)[0], ROLES)])
    floats = [encoded.rows[0].data[n] for n in half._captions.empty]
    assert all(value.dtype == torch.bfloat16 for value in floats if value.is_floating_point())


# ---------------------------------------------------------------- LoRA and gradients


@torch.no_grad()
def check_lora_starts_and_ends_as_the_base(subject: Subject, _: Path) -> None:
    """Zero second factors change nothing; switched off, moved ones change nothing either. They sit in the
    denoiser's attention."""
    identity, moved = subject.adapter(), subject.adapter()
    batch = subject.case(moved).batch()
    draw = drawn(moved, batch)
    base = error(moved, batch, draw)
    add_lora(identity, moved=False)
    assert torch.equal(error(identity, batch, draw), base)
    add_lora(moved)
    assert not bool((error(moved, batch, draw) == base).any())
    with switched_off(moved.policy):
        assert torch.equal(error(moved, batch, draw), base)
    layers = [n for n, module in moved.policy.named_modules() if isinstance(module, BaseTunerLayer)]
    assert layers and all("attn" in name for name in layers)


def check_gradients_reach_every_lora_weight(subject: Subject, _: Path) -> None:
    """Of a pair's log-ratio, in every target, for either side."""
    adapter = subject.adapter()
    add_lora(adapter)
    _, scores = subject.case(adapter).score()
    scores.total().sum().backward()
    weights = [(n, p) for n, p in adapter.policy.named_parameters() if "lora_" in n]
    still = [n for n, p in weights if p.grad is None or not bool(p.grad.any())]
    assert [n for n in still if not any(part in n for part in subject.unreached)] == []
    assert all(any(part in n for n in still) for part in subject.unreached)
    frozen = [n for n, p in adapter.policy.named_parameters() if "lora_" not in n and p.requires_grad]
    assert not frozen  # injecting LoRA freezes the rest


def check_checkpointing(subject: Subject, _: Path) -> None:
    """Gradients are the same with it, or it is refused in one line where upstream has none."""
    adapter = subject.adapter()
    batch = subject.case(adapter).batch()
    draw, found = drawn(adapter, batch), []
    try:
        for switch in (lambda: None, adapter.enable_checkpointing):
            adapter.policy.zero_grad(set_to_none=True)
            switch()
            error(adapter, batch, draw).sum().backward()
            found.append({n: p.grad for n, p in adapter.policy.named_parameters() if p.grad is not None})
    except UserError as refusal:
        assert not adapter._parts.denoiser._supports_gradient_checkpointing
        assert str(refusal).startswith("train.checkpointing: ") and "\n" not in str(refusal)
        return
    without, under = found
    assert without.keys() == under.keys()
    assert all(torch.allclose(without[n], under[n], rtol=1e-4, atol=1e-6) for n in without)


# ---------------------------------------------------------------- sampling


def feed(value: Any, name: str = "") -> dict[str, Tensor]:
    """Everything that a denoiser was given, number by number under a name; what is absent or null is left
    out, and so is whether the answer comes in a dataclass."""
    if isinstance(value, Mapping):
        inner = [(f"{name}.{key}" if name else key, one) for key, one in value.items()]
    elif isinstance(value, tuple) and not isinstance(value, torch.Size):
        inner = [(f"{name}[{i}]", one) for i, one in enumerate(value)]
    elif value is None or name in ("return_dict", "self"):
        return {}
    else:
        return {name: torch.as_tensor(value, dtype=torch.float64)}
    return {key: one for part, given in inner for key, one in feed(given, part).items()}


def same_feed(ours: Mapping[str, Any], theirs: Mapping[str, Any], tolerance: float = 1e-4) -> None:
    """Two calls of a denoiser were told the same, up to repeating along a batch."""
    first, second = feed(ours), feed(theirs)
    assert first.keys() == second.keys()
    for name, value in first.items():
        mine, other = torch.broadcast_tensors(value, second[name])
        assert torch.allclose(mine, other, atol=tolerance), name


@torch.no_grad()
def upstream_media(
    subject: Subject, captions: list[str], guidance: float, noise: Tensor
) -> tuple[Tensor, list[tiny.Call]]:
    """Media of the pipeline's own call from the same starting latents [B, C, ...], as `sample_pixels` has
    them, and the calls of its denoiser."""
    pipeline, size = subject.pipeline(), subject.size
    pipeline.scheduler = subject.scheduler(pipeline)
    frames = {} if size.frames is None else {"num_frames": size.frames}
    with tiny.recorded(tiny.denoiser(pipeline)) as calls:
        made = pipeline(
            captions,
            num_inference_steps=STEPS,
            latents=subject.pack(noise),
            output_type="np",
            **{"height": size.side, "width": size.side, **frames, **size.settings, **subject.call(guidance)},
        )
    media = torch.as_tensor(np.asarray(made.images if size.frames is None else made.frames))
    return media.movedim(-1, -3), calls


@torch.no_grad()
def check_media_equal_upstreams(subject: Subject, _: Path) -> None:
    """Pictures or clips, with and without guidance, equal those of upstream's own call; without guidance the
    denoiser is told the same in every step, argument by argument."""
    captions, seeds = ["a red cat", "a blue dog"], [1, 2]
    if not subject.samples:
        with pytest.raises(UserError, match="cannot make") as caught:
            adapter = subject.adapter()
            adapter.generate(adapter.policy, [prompt("cat")], [1])
        assert "\n" not in str(caught.value)
        return
    noise = torch.stack(
        [torch.randn(subject.size.latents, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
    for guidance in (1.0, 3.0):
        adapter = subject.adapter(generation=Generation(steps=STEPS, guidance=guidance))
        with tiny.recorded(adapter.policy) as ours:
            pixels = adapter.sample_pixels(adapter.policy, [prompt(caption) for caption in captions], seeds)
        media, theirs = upstream_media(subject, captions, guidance, noise)
        assert pixels.shape == media.shape
        assert float((pixels - media).abs().max()) < 1e-3
        assert float(pixels.std()) > 0.01
        if guidance == 1.0:
            assert len(ours) == len(theirs) == STEPS
            for mine, other in zip(ours, theirs, strict=True):
                same_feed(mine.inputs, other.inputs)


# ---------------------------------------------------------------- on disk


def check_a_saved_pipeline_reloads_upstream(subject: Subject, folder: Path) -> None:
    """With a changed denoiser: upstream opens it, and its errors are the same."""
    adapter = subject.adapter()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    contract.check_reload(
        subject.case(adapter), folder, None, lambda saved: tiny.denoiser(subject.pipeline(saved))
    )
    again = subject.adapter(folder / "one")
    assert again.fingerprint() == adapter.fingerprint()
    fresh, before = subject.case(again).score(seed=4)[1], subject.case(adapter).score(seed=4)[1]
    assert torch.allclose(fresh.values, before.values, atol=1e-6)


def check_saved_lora_reloads_upstream(subject: Subject, folder: Path) -> None:
    """By the pipeline's own loader, or by PEFT where there is none."""
    adapter = subject.adapter()
    add_lora(adapter)

    def load(saved: Path) -> nn.Module:
        pipeline = subject.pipeline()
        if not adapter._family.lora_loader:
            return PeftModel.from_pretrained(tiny.denoiser(pipeline), saved).base_model.model
        pipeline.load_lora_weights(saved)
        return tiny.denoiser(pipeline)

    contract.check_reload(subject.case(adapter), folder, "policy", load, tolerance=1e-5)


def edit(file: Path, **changes: Any) -> None:
    """Replace entries of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edited(name: str, **changes: Any) -> Fault:
    return lambda folder: edit(folder / name, **changes)


def rebuilt(component: str, **changes: Any) -> Fault:
    """A fault: the component is another one of its class, whole, with other settings."""

    def fault(folder: Path) -> None:
        model = tiny.load(folder).components[component]
        other = type(model).from_config({**model.config, **changes})
        shutil.rmtree(folder / component)
        other.save_pretrained(folder / component, safe_serialization=True)

    return fault


def check_parts_that_do_not_fit_are_refused(subject: Subject, folder: Path) -> None:
    """In one line that names the file: every component absent or of another class, and a scheduler of
    another kind; and what else the family refuses."""
    family = subject.read()._family
    index, scheduler = "model_index.json", "scheduler/scheduler_config.json"
    needed = [name for name in family.components if name not in family.optional]
    faults = [(edited(index, **{n: [None, None]}), f"component {n} is missing") for n in needed]
    faults += [
        (edited(index, **{n: ["diffusers", "OtherModel"]}), f"component {n} must be of class .*OtherModel")
        for n in needed
        if n in family.models
    ]
    other = {"_class_name": "EDMEulerScheduler", "beta_schedule": None, "prediction_type": "edm"}
    faults.append((edited(scheduler, **other), "EDMEulerScheduler .*is not taken"))
    named = edited(index, scheduler=["diffusers", "FooScheduler"])
    faults.append((named, "model_index.json: scheduler FooScheduler is not taken; a .* has .*Scheduler"))
    for number, (fault, message) in enumerate((*faults, *subject.faults)):
        broken = folder / str(number)
        shutil.copytree(subject.folder, broken)
        fault(broken)
        with pytest.raises(UserError, match=message) as caught:
            subject.adapter(broken)
        assert "\n" not in str(caught.value) and str(broken) in str(caught.value)


def check_sides_that_do_not_fit_are_refused(subject: Subject, _: Path) -> None:
    """A side that is no multiple of the autoencoder's factor and of the denoiser's patches."""
    adapter = subject.read()
    step = adapter._latents.factor * adapter._family.multiple
    for side in {subject.size.side + step // 2, subject.size.side + 1} - {subject.size.side + step}:
        with pytest.raises(UserError, match=rf"model\.resolution: must be a multiple of {step}") as caught:
            subject.adapter(resolution=side)
        assert "\n" not in str(caught.value)


def check_latents_that_are_not_finite_are_refused(subject: Subject, _: Path) -> None:
    """As an autoencoder gives them that overflows in half precision; the row is named."""
    adapter = subject.adapter()
    with torch.no_grad():
        next(adapter._latents.vae.parameters()).fill_(float("nan"))
    prepared = [adapter.prepare(sample, ROLES) for sample in subject.pairs()]
    with pytest.raises(UserError, match=r"^s0: chosen: .*not finite") as caught:
        adapter.encode(prepared)
    assert "\n" not in str(caught.value)


CHECKS = (
    check_errors_equal_a_plain_loop,
    check_oblong_latents,
    check_batching_does_not_matter,
    check_every_condition_moves_the_error,
    check_a_dropped_caption_is_the_empty_one,
    check_half_precision,
    check_lora_starts_and_ends_as_the_base,
    check_gradients_reach_every_lora_weight,
    check_checkpointing,
    check_media_equal_upstreams,
    check_a_saved_pipeline_reloads_upstream,
    check_saved_lora_reloads_upstream,
    check_parts_that_do_not_fit_are_refused,
    check_sides_that_do_not_fit_are_refused,
    check_latents_that_are_not_finite_are_refused,
)
every_check = pytest.mark.parametrize("check", CHECKS, ids=[check.__name__ for check in CHECKS])
