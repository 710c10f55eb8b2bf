"""Pipelines on disk: what is saved loads upstream and repeats byte for byte; what does not fit is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contract
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from tiny_sd import build_pipeline, pairs, prompt, save_pipeline
from torch import nn

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters._latent_sampling import Generation
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline") / "base")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def build(folder: Path, **settings: Any) -> Denoiser:
    return Diffusion(str(folder), **settings).build(CPU)


def add_lora(policy: nn.Module, **settings: Any) -> None:
    config = LoraConfig(r=2, **{"target_modules": ["to_q", "to_k", "to_v", "to_out.0"], **settings})
    config.base_model_name_or_path = "/some/machine/path"
    inject_adapter_in_model(config, policy, adapter_name="policy")
    torch.manual_seed(5)
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# ---------------------------------------------------------------- saving


def test_a_whole_pipeline_reloads_upstream_with_equal_scores(folder: Path, tmp_path: Path) -> None:
    adapter = build(folder)
    adapter.policy.load_state_dict(build_pipeline(seed=9).unet.state_dict())  # as if trained

    def load(saved: Path) -> nn.Module:
        return StableDiffusionPipeline.from_pretrained(saved, local_files_only=True).unet

    contract.check_reload(contract.Case(adapter, pairs()), tmp_path, None, load, tolerance=0.0)
    again = build(tmp_path / "one")
    assert again.fingerprint() == adapter.fingerprint()
    scores = [contract.Case(a, pairs()).score()[1].values for a in (adapter, again, build(folder))]
    assert torch.equal(scores[0], scores[1]) and not torch.equal(scores[0], scores[2])
    for file in (tmp_path / "one").rglob("*"):
        if file.is_file():
            assert str(tmp_path).encode() not in file.read_bytes()
            assert str(folder.parent).encode() not in file.read_bytes()
    saved, original = (json.loads((f / "model_index.json").read_text()) for f in (tmp_path / "one", folder))
    assert {k: v for k, v in original.items() if k != "_name_or_path"} == saved


@pytest.mark.parametrize(
    "settings", [{}, {"lora_alpha": 7, "use_rslora": True}, {"target_modules": r".*to_k"}]
)
def test_lora_reloads_upstream_with_equal_scores(folder: Path, tmp_path: Path, settings: Any) -> None:
    adapter = build(folder)
    add_lora(adapter.policy, **settings)

    def load(saved: Path) -> nn.Module:
        pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
        pipeline.load_lora_weights(saved)
        return pipeline.unet

    contract.check_reload(contract.Case(adapter, pairs()), tmp_path, "policy", load)
    (file,) = (tmp_path / "one").iterdir()
    assert file.name == "pytorch_lora_weights.safetensors"
    assert b"/some/machine/path" not in file.read_bytes()
    assert all(name.startswith("unet.") for name in load_file(file))


def test_many_saves_of_one_lora_are_equal_bytes(folder: Path, tmp_path: Path) -> None:
    adapter = build(folder)
    add_lora(adapter.policy)
    contents = set()
    for i in range(8):
        adapter.save(adapter.policy, tmp_path / str(i), "policy")
        contents.add((tmp_path / str(i) / "pytorch_lora_weights.safetensors").read_bytes())
    assert len(contents) == 1


def test_a_model_with_lora_is_not_saved_as_a_whole_model(folder: Path, tmp_path: Path) -> None:
    adapter = build(folder)
    add_lora(adapter.policy)
    with pytest.raises(ValueError, match="LoRA layers"):
        adapter.save(adapter.policy, tmp_path / "x", None)


def test_components_that_training_does_not_use_are_kept(copy: Path, tmp_path: Path) -> None:
    (copy / "feature_extractor").mkdir()
    (copy / "feature_extractor" / "preprocessor_config.json").write_text('{"size": 224}')
    edit(
        copy / "model_index.json",
        feature_extractor=["transformers", "CLIPImageProcessor"],
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],  # named, but not there
    )
    adapter = build(copy)
    adapter.save(adapter.policy, tmp_path / "saved", None)
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["feature_extractor"] == ["transformers", "CLIPImageProcessor"]
    assert index["safety_checker"] == [None, None]
    kept = tmp_path / "saved" / "feature_extractor" / "preprocessor_config.json"
    assert json.loads(kept.read_text()) == {"size": 224}
    shutil.rmtree(copy / "feature_extractor")
    with pytest.raises(UserError, match="feature_extractor: was there when the run began"):
        adapter.save(adapter.policy, tmp_path / "late", None)
    assert (tmp_path / "late" / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def test_fingerprint_follows_what_rows_depend_on(folder: Path, tmp_path: Path) -> None:
    base = build(folder).fingerprint()
    assert build(folder, caption_dropout=0.5, dtype="bfloat16").fingerprint() == base
    assert build(folder, resolution=16).fingerprint() != base
    for part in ("vae", "text_encoder", "unet"):
        pipeline = build_pipeline()
        with torch.no_grad():
            next(pipeline.components[part].parameters()).add_(0.01)
        pipeline.save_pretrained(tmp_path / part, safe_serialization=True)
        assert (build(tmp_path / part).fingerprint() == base) == (part == "unet")
    used = build(folder)
    used.prepare(pairs()[0], ["chosen"])
    assert used.fingerprint() == base  # tokenising leaves no trace in it


# ---------------------------------------------------------------- refusals


def drop_weight(file: Path) -> None:
    weights = load_file(file)
    del weights[sorted(weights)[3]]
    save_file(weights, file, metadata={"format": "pt"})


def misshape_weight(file: Path) -> None:
    weights = load_file(file)
    name = sorted(weights)[3]
    weights[name] = torch.zeros(1, *weights[name].shape)
    save_file(weights, file, metadata={"format": "pt"})


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
Break = Callable[[Path], Any]
FAULTS: list[tuple[Break, str]] = [
    (lambda f: (f / "model_index.json").unlink(), r"model_index\.json: missing"),
    (lambda f: (f / "model_index.json").write_text("{"), r"model_index\.json: not valid JSON"),
    (
        lambda f: edit(f / "model_index.json", _class_name="StableDiffusionXLPipeline"),
        "StableDiffusionXLPipe",
    ),
    (lambda f: edit(f / "model_index.json", vae=[None, None]), "component vae is missing"),
    (
        lambda f: edit(f / "model_index.json", unet=["diffusers", "UNet3DConditionModel"]),
        "component unet must be of class UNet2DConditionModel, got UNet3DConditionModel",
    ),
    (lambda f: shutil.rmtree(f / "vae"), "component folder vae is missing"),
    (lambda f: (f / "unet/config.json").unlink(), r"unet/config\.json: the file is missing"),
    (lambda f: (f / UNET).unlink(), r"unet: no \.safetensors weights"),
    (lambda f: (f / UNET).rename(f / "unet/model.safetensors"), "unet: no weights; expected diffusion_pyt"),
    *((lambda f, w=w: truncate(f / w), f"{w}: not a whole safetensors file") for w in (UNET, VAE, TEXT)),
    *(
        (lambda f, w=w: drop_weight(f / w), f"{w.split('/')[0]}: weights .* missing")
        for w in (UNET, VAE, TEXT)
    ),
    *((lambda f, w=w: misshape_weight(f / w), f"{w.split('/')[0]}: .*shape") for w in (UNET, VAE, TEXT)),
    (lambda f: edit(f / "vae/config.json", layers_per_block=2), "vae: weights .* are missing"),
    (lambda f: edit(f / "unet/config.json", norm_num_groups=3), "unet: "),
    (lambda f: edit(f / "text_encoder/config.json", num_hidden_layers=3), "text_encoder: weights .* missing"),
    (lambda f: empty(f / "tokenizer"), "tokenizer: no tokenizer"),
    (lambda f: (f / "tokenizer/tokenizer.json").write_text("{}"), "tokenizer"),
    (
        lambda f: (f / "scheduler/scheduler_config.json").unlink(),
        "scheduler_config.json: the file is missing",
    ),
    (
        lambda f: edit(f / "scheduler/scheduler_config.json", prediction_type="score"),
        "prediction_type 'score' is not taken",
    ),
    (
        lambda f: edit(f / "scheduler/scheduler_config.json", beta_schedule="mystery"),
        "scheduler: .*mystery",
    ),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[m[:40] for _, m in FAULTS])
def test_broken_folders_are_refused_by_component(copy: Path, fault: Break, message: str) -> None:
    fault(copy)
    with pytest.raises(UserError, match=message) as caught:
        build(copy)
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 9}, "unet: in_channels 9"),
        ({"class_embed_type": "timestep"}, "unet: class_embed_type must be null"),
        ({"num_class_embeds": 3}, "unet: class-conditioned"),
        ({"cross_attention_dim": 48}, "unet: cross_attention_dim 48 must equal"),
        ({"time_cond_proj_dim": 8}, "unet: time_cond_proj_dim must be null"),
    ],
)
def test_denoisers_of_other_families_are_refused(copy: Path, changes: dict[str, Any], message: str) -> None:
    config = {k: v for k, v in build_pipeline().unet.config.items() if not k.startswith("_")}
    UNet2DConditionModel(**{**config, **changes}).save_pretrained(copy / "unet")
    with pytest.raises(UserError, match=message):
        build(copy)


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(copy: Path) -> None:
    tokenizer = build_pipeline().tokenizer
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(copy / "tokenizer")
    with pytest.raises(UserError, match="tokenizer: its .* tokens exceed"):
        build(copy)


def test_a_path_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.path: there is no folder .*nowhere"):
        build(tmp_path / "nowhere")


def test_variants_of_the_weights_are_read(folder: Path, tmp_path: Path) -> None:
    build_pipeline().save_pretrained(tmp_path / "v", safe_serialization=True, variant="fp16")
    adapter = build(tmp_path / "v", variant="fp16")
    _, ours = contract.Case(adapter, pairs(1)).score()
    _, plain = contract.Case(build(folder), pairs(1)).score()
    assert torch.equal(ours.values, plain.values)
    with pytest.raises(UserError, match="no weights; expected diffusion_pytorch_model.safetensors"):
        build(tmp_path / "v")


def test_pictures_of_a_saved_model_are_those_of_the_trained_one(folder: Path, tmp_path: Path) -> None:
    adapter = build(folder, generation=Generation(steps=2))
    adapter.policy.load_state_dict(build_pipeline(seed=9).unet.state_dict())
    adapter.save(adapter.policy, tmp_path / "saved", None)
    again = build(tmp_path / "saved", generation=Generation(steps=2))
    first, second = (a.sample_pixels(a.policy, [prompt("cat")], [1]) for a in (adapter, again))
    assert torch.equal(first, second)
