"""Broken model folders: what is done to a sound one, and what the refusal must say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Damage = tuple[Callable[[Path], object], tuple[str, ...]]


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; ... removes one."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def halve(file: Path) -> None:
    """Cut off the second half of a file."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def hollow(folder: Path) -> None:
    """Write what looks like a language model at a glance and cannot be loaded."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": "none"}')
    save_file({}, folder / "model.safetensors")


def clear(folder: Path) -> None:
    """Delete the files of a folder."""
    for file in folder.iterdir():
        file.unlink()


def _shard_outside(folder: Path) -> None:
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../outside.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _cut_embedding(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:300].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder / "config.json", vocab_size=300)


TEXT: dict[str, Damage] = {
    "empty folder": (clear, ("model/config.json", "missing")),
    "no config": (lambda f: (f / "config.json").unlink(), ("model/config.json", "missing")),
    "config not JSON": (lambda f: halve(f / "config.json"), ("model/config.json", "not valid JSON")),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), ("config.json", "JSON object")),
    "no model type": (lambda f: edit(f / "config.json", model_type=...), ("config.json", "model_type")),
    "unknown type": (lambda f: edit(f / "config.json", model_type="llamo"), ("config.json", "'llamo'")),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ("model:", "no weights", "safetensors")),
    "cut weights": (lambda f: halve(f / "model.safetensors"), ("model.safetensors", "not a whole")),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), ("model.safetensors",)),
    "more layers": (
        lambda f: edit(f / "config.json", num_hidden_layers=3),
        ("model:", "are missing", "model.layers.2."),
    ),
    "fewer layers": (
        lambda f: edit(f / "config.json", num_hidden_layers=1),
        ("model:", "no place for", "model.layers.1."),
    ),
    "another width": (
        lambda f: edit(f / "config.json", intermediate_size=80),
        ("model:", "another shape", "down_proj.weight", "[32, 80]"),
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ("model:", "no tokenizer")),
    "cut tokenizer": (lambda f: halve(f / "tokenizer.json"), ("tokenizer.json", "not valid JSON")),
    "tokenizer too wide": (_cut_embedding, ("model:", "has only 300 rows")),
    "shard outside": (_shard_outside, ("index.json", "'../outside.safetensors'", "same folder")),
    "pickled": (_pickled, ("pytorch_model.bin", "model.allow_pickle")),
    "vision": (lambda f: edit(f / "config.json", vision_config={"depth": 2}), ("config.json", "images")),
    "encoder and decoder": (lambda f: edit(f / "config.json", model_type="t5"), ("'t5'", "causal")),
    "LoRA folder": (lambda f: (f / "adapter_config.json").write_text("{}"), ("LoRA adapter", "lora.path")),
    "code of its own": (
        lambda f: edit(f / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"}),
        ("config.json", "'own'"),
    ),
}

IMAGE: dict[str, Damage] = {
    "no index": (lambda f: (f / "model_index.json").unlink(), ("model_index.json", "missing")),
    "index not JSON": (lambda f: halve(f / "model_index.json"), ("model_index.json", "not valid JSON")),
    "another pipeline": (
        lambda f: edit(f / "model_index.json", _class_name="KandinskyPipeline"),
        ("model_index.json", "StableDiffusionPipeline", "KandinskyPipeline"),
    ),
    "component not named": (lambda f: edit(f / "model_index.json", unet=...), ("component unet is missing",)),
    "no denoiser": (lambda f: shutil.rmtree(f / "unet"), ("model:", "component folder unet is missing")),
    "no autoencoder": (lambda f: shutil.rmtree(f / "vae"), ("component folder vae is missing",)),
    "no text encoder": (lambda f: shutil.rmtree(f / "text_encoder"), ("folder text_encoder is missing",)),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), ("component folder tokenizer is missing",)),
    "no schedule": (lambda f: shutil.rmtree(f / "scheduler"), ("component folder scheduler is missing",)),
    "empty tokenizer": (
        lambda f: clear(f / "tokenizer"),
        ("model/tokenizer", "no tokenizer"),
    ),
    "cut denoiser": (
        lambda f: halve(f / "unet" / "diffusion_pytorch_model.safetensors"),
        ("unet/diffusion_pytorch_model.safetensors", "not a whole"),
    ),
    "cut text encoder": (
        lambda f: halve(f / "text_encoder" / "model.safetensors"),
        ("text_encoder/model.safetensors", "not a whole"),
    ),
    "no weights": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").unlink(),
        ("model/vae", "no .safetensors weights"),
    ),
    "component config": (lambda f: halve(f / "unet" / "config.json"), ("unet/config.json", "not valid JSON")),
    "more blocks": (
        lambda f: edit(f / "unet" / "config.json", layers_per_block=2),
        ("model/unet", "are missing"),
    ),
    "schedule not JSON": (
        lambda f: halve(f / "scheduler" / "scheduler_config.json"),
        ("scheduler_config.json", "not valid JSON"),
    ),
    "another target": (
        lambda f: edit(f / "scheduler" / "scheduler_config.json", prediction_type="score"),
        ("scheduler_config.json", "prediction_type 'score'"),
    ),
    "inpainting": (
        lambda f: edit(f / "unet" / "config.json", in_channels=9),
        ("model/unet", "another shape", "conv_in.weight", "[8, 9, 3, 3]"),
    ),
}

_ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
_ENDLESS = "{% for a in range(10000000) %}{% for b in range(10000000) %}x{% endfor %}{% endfor %}"


def _narrow(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    for name in [n for n in weights if n.endswith(("embed_tokens.weight", "lm_head.weight"))]:
        weights[name] = weights[name][:300].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())["text_config"] | {"vocab_size": 300}
    edit(folder / "config.json", text_config=settings)


# what is done to a vision-language model
VISION: dict[str, Damage] = {
    "empty folder": (clear, ("model/config.json", "missing")),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ("model:", "no weights", "safetensors")),
    "cut weights": (lambda f: halve(f / "model.safetensors"), ("model.safetensors", "not a whole")),
    "pickled": (_pickled, ("pytorch_model.bin", "model.allow_pickle")),
    "more layers": (
        lambda f: edit(
            f / "config.json",
            text_config=json.loads((f / "config.json").read_text())["text_config"]
            | {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
        ),
        ("model:", "are missing", "layers.2."),
    ),
    "another tower": (
        lambda f: edit(
            f / "config.json",
            vision_config=json.loads((f / "config.json").read_text())["vision_config"] | {"depth": 1},
        ),
        ("model:", "no place for", "visual.blocks.1."),
    ),
    "unknown type": (lambda f: edit(f / "config.json", model_type="llamo"), ("config.json", "'llamo'")),
    "no processor": (lambda f: (f / "processor_config.json").unlink(), ("model:", "no processor")),
    "cut processor": (
        lambda f: halve(f / "processor_config.json"),
        ("processor_config.json", "not valid JSON"),
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ("model:", "no tokenizer")),
    "tokenizer too wide": (_narrow, ("model:", "has only 300 rows")),
    "no template": (
        lambda f: (f / "chat_template.jinja").unlink(),
        ("no chat template", "plain_prompts: raw"),
    ),
    "template that climbs out": (
        lambda f: (f / "chat_template.jinja").write_text(_ESCAPE),
        ("the chat template refuses these turns",),
    ),
    "endless template": (
        lambda f: (f / "chat_template.jinja").write_text(_ENDLESS),
        ("the chat template refuses these turns", "Range too big"),
    ),
    "template without pictures": (
        lambda f: (f / "chat_template.jinja").write_text(
            "{% for m in messages %}{{ m['role'] }}{% endfor %}{% if add_generation_prompt %}a{% endif %}"
        ),
        ("images, but the chat template wrote 0 placeholders",),
    ),
    "LoRA folder": (lambda f: (f / "adapter_config.json").write_text("{}"), ("LoRA adapter", "lora.path")),
    "code of its own": (
        lambda f: edit(f / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"}),
        ("config.json", "'own'"),
    ),
}

# what is done to the folder of a saved LoRA
LORA: dict[str, Damage] = {
    "nothing in it": (clear, ("lora.path adapter", "holds none of adapter_model.safetensors")),
    "cut": (
        lambda f: halve(f / "adapter_model.safetensors"),
        ("lora.path adapter", "not a whole"),
    ),
    "config not JSON": (lambda f: halve(f / "adapter_config.json"), ("lora.path adapter", "broken")),
    "another strength": (
        lambda f: edit(f / "adapter_config.json", lora_alpha=32),
        ("lora.path adapter", "saved with alpha 32", "here it is 4"),
    ),
    "another scaling": (
        lambda f: edit(f / "adapter_config.json", use_rslora=True),
        ("lora.path adapter", "use_rslora"),
    ),
}
