"""The step-aware judge: PickScore where nothing was trained, upstream's tower otherwise, and its files."""

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rewards.tiny_clip import (
    CAPTIONS,
    SIZES,
    picture,
    pixels_of,
    said,
    save_open_clip,
    save_transformers,
    shown,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.rewards._scoring import score_all
from mmalign.rewards._timed_clip import FILE, TimedClip, waves
from mmalign.rewards.combined import Combined
from mmalign.rewards.pick_score import PickScore
from mmalign.rewards.step_preference import StepPreference
from mmalign.types import Clip, Message, Part, PixelReward, StepJudge, UserError

PICTURES = [picture(i, size) for i, size in enumerate(SIZES)]
PROMPTS, PARTS = [said(c) for c in CAPTIONS], [shown(p) for p in PICTURES]
STEPS = [0, 1, 251, 501, 999]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain CLIP folder, one with a fresh conditioning, and one with a conditioning that tells."""
    found = tmp_path_factory.mktemp("timed")
    save_transformers(found / "clip")
    towers = StepPreference(str(found / "clip")).towers(CPU, seed=3)
    towers.save(towers.timed, found / "fresh")
    wake(towers.timed)
    towers.save(towers.timed, found / "timed")
    return found


@torch.no_grad()
def wake(timed: TimedClip) -> None:
    """A conditioning under which timesteps tell."""
    stream = torch.Generator().manual_seed(5)
    for parameter in timed.time.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=stream))


def judge_of(root: Path, name: str) -> StepPreference:
    return StepPreference(str(root / name), device="cpu")


def stepped(judge: StepPreference, timesteps: Sequence[int] = STEPS) -> list[float]:
    return [one["score"] for one in judge.score_steps(PROMPTS, PARTS, timesteps)]


# ---------------------------------------------------------------- upstream's own numbers


def test_a_fresh_conditioning_is_pick_score_to_the_bit(root: Path) -> None:
    plain, fresh = PickScore(str(root / "clip"), device="cpu"), judge_of(root, "fresh")
    wanted = [one["score"] for one in plain.score_many(PROMPTS, PARTS)]
    assert [one["score"] for one in fresh.score_many(PROMPTS, PARTS)] == wanted
    assert stepped(fresh) == stepped(fresh, [7] * 5) == wanted
    for image, caption in zip(PICTURES, CAPTIONS, strict=True):
        assert torch.equal(
            fresh.reward(pixels_of(image), [caption]), plain.reward(pixels_of(image), [caption])
        )
    told = judge_of(root, "timed")
    assert all(abs(a - b) > 0.01 for a, b in zip(stepped(told), wanted, strict=True))


def hooked(model: CLIPModel, state: Mapping[str, Tensor], timesteps: Tensor) -> None:
    """The conditioning of the authors' training code written out on upstream's modules, from its file."""
    freqs = torch.exp(-math.log(10000) * torch.arange(128) / 128)
    angles = timesteps[:, None].float() * freqs
    code = torch.cat([angles.cos(), angles.sin()], 1)
    hidden = F.silu(F.linear(code, state["embedder.0.weight"], state["embedder.0.bias"]))
    embedded = F.silu(F.linear(hidden, state["embedder.2.weight"], state["embedder.2.bias"]))

    def six(name: str, parts: int) -> tuple[Tensor, ...]:
        return F.linear(embedded, state[f"{name}.weight"], state[f"{name}.bias"]).chunk(parts, 1)

    for i, layer in enumerate(model.vision_model.encoder.layers):
        for norm, branch, (shift, scale, gate) in (
            (layer.layer_norm1, layer.self_attn, six(f"blocks.{i}", 6)[:3]),
            (layer.layer_norm2, layer.mlp, six(f"blocks.{i}", 6)[3:]),
        ):
            norm.register_forward_hook(lambda m, x, y, a=shift, b=scale: y * (1 + b[:, None]) + a[:, None])
            branch.register_forward_hook(
                lambda m, x, y, g=gate: (
                    (y[0] * g[:, None], *y[1:]) if isinstance(y, tuple) else y * g[:, None]
                )
            )
    shift, scale = six("final", 2)
    model.vision_model.post_layernorm.register_forward_hook(lambda m, x, y: y * (1 + scale) + shift)


@torch.no_grad()
def test_the_tower_is_upstreams_with_the_authors_conditioning(root: Path) -> None:
    judge = judge_of(root, "timed")
    model = CLIPModel.from_pretrained(root / "timed").eval()  # upstream reads the folder, too
    hooked(model, load_file(root / "timed" / FILE), torch.tensor(STEPS))
    inputs = judge.encoder.load(PICTURES)
    looks = F.normalize(model.get_image_features(pixel_values=inputs).pooler_output, dim=-1)
    expected = model.logit_scale.exp() * (looks * judge.encoder.texts(CAPTIONS)).sum(-1)
    assert stepped(judge) == pytest.approx(expected.tolist(), abs=1e-4)


def test_timesteps_as_waves_in_numbers() -> None:
    found = waves(torch.tensor([0, 1, 100]))
    assert found.shape == (3, 256)
    assert found[0].tolist() == [1.0] * 128 + [0.0] * 128
    assert found[1, [0, 128]].tolist() == pytest.approx([0.5403023, 0.8414710])  # cos 1, sin 1
    assert found[2, [64, 192]].tolist() == pytest.approx([0.5403023, 0.8414710])  # 100 at the period of 0.01


# ---------------------------------------------------------------- batches, timesteps, gradients


def test_batches_and_order_do_not_matter_and_timesteps_do(root: Path) -> None:
    judge = judge_of(root, "timed")
    whole = stepped(judge)
    assert stepped(replace(judge, batch=2)) == pytest.approx(whole, abs=1e-4)
    back = judge.score_steps(PROMPTS[::-1], PARTS[::-1], STEPS[::-1])
    assert [one["score"] for one in back][::-1] == pytest.approx(whole, abs=1e-4)
    others = stepped(judge, [*STEPS[1:], STEPS[0]])
    assert all(abs(a - b) > 1e-3 for a, b in zip(whole, others, strict=True))
    finished = [one["score"] for one in judge.score_many(PROMPTS, PARTS)]
    assert finished == pytest.approx(stepped(judge, [0] * 5), abs=1e-5)
    assert judge.score_steps([], [], []) == []
    with pytest.raises(ValueError, match="one timestep per response"):
        judge.score_steps(PROMPTS, PARTS, [1])


def test_a_clip_is_scored_by_its_frames_at_its_own_level(root: Path) -> None:
    """The mean over frames that are scored as pictures at the clip's timestep, also across batches."""
    judge = replace(judge_of(root, "timed"), batch=2)
    frames = torch.stack(
        [(255 * pixels_of(picture(i, (32, 32)))[0]).round().to(torch.uint8) for i in range(3)]
    )
    clip = Part("video", Clip(frames, (0, 1, 2), (0.0, 0.25, 0.5), 4.0, 3, "memory"))
    alone = [Part("image", Image.fromarray(one.permute(1, 2, 0).numpy())) for one in frames]
    first = [one["score"] for one in judge.score_steps([PROMPTS[0]] * 3, alone, [STEPS[1]] * 3)]
    found = judge.score_steps([PROMPTS[0], PROMPTS[1]], [clip, alone[0]], [STEPS[1], STEPS[2]])
    assert found[0]["score"] == pytest.approx(sum(first) / 3, abs=1e-4)
    (lone,) = judge.score_steps([PROMPTS[1]], [alone[0]], [STEPS[2]])
    assert found[1]["score"] == pytest.approx(lone["score"], abs=1e-4)


def test_finished_pictures_have_a_gradient(root: Path) -> None:
    judge = judge_of(root, "timed")
    assert isinstance(judge, PixelReward)
    pixels = torch.cat([pixels_of(picture(i, (48, 40))) for i in range(2)]).requires_grad_()
    before = judge.reward(pixels, ["a red cat", "blue"])
    (gradient,) = torch.autograd.grad(before[1], pixels)
    assert gradient[1].abs().max() > 0 and gradient[0].abs().max() == 0
    moved = (pixels + 2e-2 * gradient / gradient.abs().max()).detach()
    assert judge.reward(moved, ["a red cat", "blue"])[1] > before[1]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_along_the_gradient_raises_the_score(root: Path, checkpointing: bool) -> None:
    """By the slope times the step; a fresh embedding of timesteps gets no gradient yet, all else does."""
    towers = StepPreference(str(root / "clip")).towers(CPU, seed=0)
    timed = towers.timed.requires_grad_(True).train()
    timed.checkpointing = checkpointing
    inputs, tokens = towers.load(PICTURES[:2]), torch.stack([towers.ids(c) for c in CAPTIONS[:2]])
    given = (inputs, torch.tensor([501, 1]), tokens[:, 0], tokens[:, 1], torch.tensor([0, 1]))
    before = timed(*given).sum()
    before.backward()
    slopes = {name: p.grad.norm() for name, p in timed.named_parameters() if p.grad is not None}
    assert slopes.keys() == {name for name, _ in timed.named_parameters()}
    still = {name for name, slope in slopes.items() if slope == 0}
    assert still == {name for name in slopes if name.startswith("time.embedder")}
    norm = torch.stack(list(slopes.values())).norm()
    with torch.no_grad():
        for parameter in timed.parameters():
            parameter.add_(1e-5 * parameter.grad / norm)  # type: ignore[operator]
        rise = float(timed(*given).sum() - before)
    assert rise == pytest.approx(1e-5 * float(norm), rel=0.2)


# ---------------------------------------------------------------- who is told


@dataclass(frozen=True)
class Blind:
    """A judge of its own that takes no timesteps."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        return {"score": 2.0}


def test_only_judges_that_take_timesteps_are_told(root: Path) -> None:
    judge, plain = judge_of(root, "timed"), PickScore(str(root / "clip"), device="cpu")
    assert isinstance(judge, StepJudge) and not isinstance(plain, StepJudge)
    told = [one["score"] for one in score_all(judge, PROMPTS, PARTS, timesteps=STEPS)]
    assert told == stepped(judge) != [one["score"] for one in score_all(judge, PROMPTS, PARTS)]
    assert score_all(plain, PROMPTS, PARTS, timesteps=STEPS) == score_all(plain, PROMPTS, PARTS)
    assert score_all(Blind(), PROMPTS, PARTS, timesteps=STEPS) == [{"score": 2.0}] * 5
    with pytest.raises(ValueError, match="one timestep per response: got 1 for 5"):
        score_all(judge, PROMPTS, PARTS, timesteps=[3])
    parts = ({"name": "step_preference", "path": judge.path, "device": "cpu"}, {"name": "brightness"})
    both = score_all(Combined(parts), PROMPTS, PARTS, timesteps=STEPS)
    assert [one["step_preference"] for one in both] == told
    apart = score_all(Combined(parts), PROMPTS, PARTS)
    assert [one["brightness"] for one in both] == [one["brightness"] for one in apart]
    assert [one["step_preference"] for one in apart] != told


# ---------------------------------------------------------------- files


RELEASED = {  # what the authors' training code calls the conditioning of a tower with two blocks
    "model.t_embedder.mlp.0": "embedder.0",
    "model.t_embedder.mlp.2": "embedder.2",
    "model.vision_model.encoder.layers.0.adaLN_modulation.1": "blocks.0",
    "model.vision_model.encoder.layers.1.adaLN_modulation.1": "blocks.1",
    "model.vision_model.adaLN_modulation.1": "final",
}


def released(root: Path) -> dict[str, Tensor]:
    """The model in "timed" as the authors' training code writes it."""
    time, clip = load_file(root / "timed" / FILE), load_file(root / "timed" / "model.safetensors")
    found = {f"model.{name}": value for name, value in clip.items()}
    for theirs, own in RELEASED.items():
        found |= {f"{theirs}.{kind}": time[f"{own}.{kind}"] for kind in ("weight", "bias")}
    found["model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    return found


def test_a_checkpoint_of_the_authors_code_replaces_every_weight(root: Path, tmp_path: Path) -> None:
    other = save_transformers(tmp_path / "other", seed=9)
    wanted = stepped(judge_of(root, "timed"))
    torch.save(released(root), tmp_path / "final_ckpt.bin")
    save_file(released(root), tmp_path / "final_ckpt.safetensors")
    for name in ("final_ckpt.bin", "final_ckpt.safetensors"):
        judge = StepPreference(other, checkpoint=str(tmp_path / name), device="cpu")
        assert stepped(judge) == wanted


def test_checkpoints_that_do_not_fit_are_one_line(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "spm.safetensors"

    def refusal(change: Mapping[str, Tensor | None]) -> str:
        held = {name: value for name, value in {**released(root), **change}.items() if value is not None}
        save_file(held, file)
        return refused(StepPreference(str(root / "clip"), checkpoint=str(file), device="cpu"))

    assert "lacks the tensor final.bias" in refusal({"model.vision_model.adaLN_modulation.1.bias": None})
    assert "lacks the tensor logit_scale" in refusal({"model.logit_scale": None})
    assert "has the tensor extra; is it of another" in refusal({"model.extra": torch.ones(1)})
    assert "no checkpoint of the authors' code: has a tensor odd" in refusal({"odd": torch.ones(1)})
    wrong = {"model.t_embedder.mlp.0.bias": torch.ones(3)}
    assert refusal(wrong).endswith("embedder.0.bias has shape [3], the model's is [32]")


def refused(judge: StepPreference) -> str:
    with pytest.raises(UserError) as caught:
        judge.ready()
    line = str(caught.value)
    assert "\n" not in line and len(line) < 500
    return line


def test_what_is_no_step_aware_model_is_refused(root: Path, tmp_path: Path) -> None:
    assert f"has no {FILE}: a plain CLIP model, which judges no noisy pictures" in refused(
        judge_of(root, "clip")
    )
    assert "open_clip's; must be a transformers" in refused(StepPreference(save_open_clip(tmp_path / "open")))
    file = str(root / "clip" / "model.safetensors")
    assert "a checkpoint of the authors' code goes in checkpoint" in refused(StepPreference(file))
    nowhere = str(tmp_path / "nowhere")
    assert refused(StepPreference(nowhere)) == f"step_preference: path: there is no folder or file {nowhere}"
    gone = StepPreference(str(root / "clip"), checkpoint=nowhere)
    assert refused(gone) == f"step_preference: checkpoint: there is no file {nowhere}"
    assert "device: moon cannot be used here" in refused(replace(judge_of(root, "timed"), device="moon"))
    cut = Path(shutil.copytree(root / "timed", tmp_path / "cut"))
    (cut / FILE).write_bytes((cut / FILE).read_bytes()[:100])
    assert f"step_preference: path: {cut / FILE}" in refused(StepPreference(str(cut)))
    other = Path(shutil.copytree(root / "timed", tmp_path / "other"))
    kept = {n: v for n, v in load_file(other / FILE).items() if not n.startswith("blocks.1")}
    save_file(kept, other / FILE)
    assert "lacks the tensor blocks.1.bias" in refused(StepPreference(str(other)))


def test_sections_build_it(caplog: pytest.LogCaptureFixture, root: Path) -> None:
    section = {"name": "step_preference", "path": str(root / "timed"), "device": "cpu", "batch": 4}
    judge = build_named(KINDS["judge"], section, "judge", False)
    assert judge == StepPreference(str(root / "timed"), batch=4, device="cpu")
    with caplog.at_level(logging.WARNING):
        judge.ready()
    assert any("not checked against published numbers" in r.getMessage() for r in caplog.records)
    assert judge.unchecked
    for wrong, message in (
        ({"path": " "}, "judge.path: must not be empty"),
        ({"batch": 0}, "judge.batch: must be above 0, got 0"),
        ({"checkpoint": ""}, "judge.checkpoint: must not be empty"),
    ):
        with pytest.raises(UserError, match=message):
            build_named(KINDS["judge"], {**section, **wrong}, "judge", False)


def test_loading_leaves_the_draws_of_others_alone(root: Path) -> None:
    torch.manual_seed(7)
    judge_of(root, "timed").ready()
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))
