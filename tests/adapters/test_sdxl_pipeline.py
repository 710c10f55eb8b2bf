"""Stable Diffusion XL on disk: upstream loads what is saved; parts that do not fit are refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contract
import pytest
import torch
from adapters import tiny_sd, tiny_sdxl
from adapters.tiny_sdxl import build_pipeline, build_unet, save_pipeline
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file
from tiny_sd import pairs
from torch import nn

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import UserError

CPU = torch.device("cpu")
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline") / "base")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def build(folder: Path) -> Denoiser:
    return Diffusion(str(folder)).build(CPU)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("zeros", [True, False])
def test_a_whole_pipeline_reloads_upstream_with_equal_scores(tmp_path: Path, zeros: bool) -> None:
    base = save_pipeline(tmp_path / "base", zeros=zeros)
    adapter = build(base)
    adapter.policy.load_state_dict(build_pipeline(seed=9).unet.state_dict())  # as if trained

    def load(saved: Path) -> nn.Module:
        pipeline = StableDiffusionXLPipeline.from_pretrained(saved, local_files_only=True)
        assert pipeline.config.force_zeros_for_empty_prompt is zeros
        return pipeline.unet

    contract.check_reload(contract.Case(adapter, pairs(2)), tmp_path, None, load, tolerance=0.0)
    assert build(tmp_path / "one").fingerprint() == adapter.fingerprint()
    saved, original = (json.loads((f / "model_index.json").read_text()) for f in (tmp_path / "one", base))
    assert {k: v for k, v in original.items() if k != "_name_or_path"} == saved
    scheduler = [json.loads((f / SCHEDULER).read_text()) for f in (tmp_path / "one", base)]
    assert scheduler[0] == scheduler[1] and scheduler[0]["_class_name"] == "EulerDiscreteScheduler"


def test_lora_reloads_upstream_with_equal_scores(folder: Path, tmp_path: Path) -> None:
    adapter = build(folder)
    config = LoraConfig(r=2, lora_alpha=7, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    inject_adapter_in_model(config, adapter.policy, adapter_name="policy")
    torch.manual_seed(5)
    for name, parameter in adapter.policy.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape)

    def load(saved: Path) -> nn.Module:
        pipeline = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
        pipeline.load_lora_weights(saved)
        return pipeline.unet

    contract.check_reload(contract.Case(adapter, pairs(2)), tmp_path, "policy", load)
    (file,) = (tmp_path / "one").iterdir()
    assert file.name == "pytorch_lora_weights.safetensors"
    names = list(load_file(file))
    assert names and all(name.startswith("unet.") for name in names)


def swap_unet(folder: Path, unet: nn.Module) -> None:
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", safe_serialization=True)  # type: ignore[operator]


def widen_tokenizer(folder: Path) -> None:
    tokenizer = build_pipeline().tokenizer_2
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(folder / "tokenizer_2")


Break = Callable[[Path], Any]
FAULTS: list[tuple[Break, str]] = [
    (
        lambda f: edit(f / "model_index.json", _class_name="KandinskyPipeline"),
        "must be one of .*StableDiffusionPipeline, .*StableDiffusionXLPipeline.* got KandinskyPipeline",
    ),
    (
        lambda f: edit(f / "model_index.json", text_encoder=[None, None]),  # as a refiner has it
        "component text_encoder is missing; a StableDiffusionXLPipeline needs vae, text_encoder, text_en",
    ),
    (
        lambda f: edit(f / "model_index.json", text_encoder_2=["transformers", "CLIPTextModel"]),
        "component text_encoder_2 must be of class CLIPTextModelWithProjection, got CLIPTextModel",
    ),
    (lambda f: shutil.rmtree(f / "text_encoder_2"), "component folder text_encoder_2 is missing"),
    (lambda f: (f / "text_encoder_2/model.safetensors").unlink(), r"text_encoder_2: no \.safetensors"),
    (lambda f: shutil.rmtree(f / "tokenizer_2"), "component folder tokenizer_2 is missing"),
    (widen_tokenizer, "tokenizer_2: its .* tokens exceed"),
    (
        lambda f: swap_unet(f, tiny_sd.build_pipeline().unet),
        "unet: addition_embed_type must be text_time in a StableDiffusionXLPipeline, got None",
    ),
    (
        lambda f: swap_unet(f, build_unet(cross_attention_dim=32)),
        "cross_attention_dim 32 must equal the text encoder's hidden_size 80, both together",
    ),
    (
        lambda f: swap_unet(f, build_unet(projection_class_embeddings_input_dim=64)),
        "projection_class_embeddings_input_dim must be 72, six sizes and the pooled caption, got 64",
    ),
    (lambda f: edit(f / "vae/config.json", latents_mean=[0.1] * 4), "vae: latents_mean must be null"),
    (
        lambda f: (f / SCHEDULER).write_text(
            json.dumps(
                {
                    "_class_name": "EDMDPMSolverMultistepScheduler",
                    "num_train_timesteps": 1000,
                    "prediction_type": "epsilon",
                    "sigma_data": 0.5,
                }
            )
        ),
        "scheduler_config.json: scheduler EDMDPMSolverMultistepScheduler is not taken",
    ),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[m[:40] for _, m in FAULTS])
def test_parts_that_do_not_fit_are_refused(copy: Path, fault: Break, message: str) -> None:
    fault(copy)
    with pytest.raises(UserError, match=message) as caught:
        build(copy)
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value)


def test_an_xl_denoiser_is_refused_in_the_older_pipeline(tmp_path: Path) -> None:
    folder = tiny_sd.save_pipeline(tmp_path / "sd")
    swap_unet(folder, build_unet(cross_attention_dim=32))
    with pytest.raises(UserError, match="addition_embed_type must be null in a StableDiffusionPipeline"):
        build(folder)


def test_the_empty_caption_follows_the_pipelines_own_flag(copy: Path) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    del index["force_zeros_for_empty_prompt"]  # upstream's default is true
    (copy / "model_index.json").write_text(json.dumps(index))
    empty = build(copy)._captions.empty
    assert set(empty) == {"states", "pooled"}
    assert all(not bool(value.any()) for value in empty.values())
    assert empty["states"].shape == (77, sum(tiny_sdxl.WIDTHS))
