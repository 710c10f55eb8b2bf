"""Two-tower models of random weights, saved by transformers and open_clip, and pictures to show them."""

import json
import math
from pathlib import Path

import numpy as np
import open_clip
import torch
from adapters.tiny_sd import build_tokenizer
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from mmalign.types import Message, Part

SIDE, WIDTH = 32, 16
OPEN_CLIP = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}
ARCHITECTURE = "tiny-two-towers"
CAPTIONS = ("a red cat", "cat cat cat", "", "a blue box; a cat", "red")
SIZES = ((32, 32), (64, 64), (61, 40), (45, 90), (200, 133))  # width, height


def save_transformers(folder: Path, seed: int = 0) -> str:
    """A CLIPModel with tokenizer and preprocessor; exp(logit scale) is 100, as in trained models."""
    tokenizer = build_tokenizer()
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    marks = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = {**shape, **marks, "vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    vision = {**shape, "image_size": SIDE, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)
    torch.manual_seed(seed)
    model = CLIPModel(config)
    wake(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    cut = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=cut).save_pretrained(folder)
    return str(folder)


def build_open_clip(seed: int = 0) -> nn.Module:
    """An open_clip model, and its architecture made known to open_clip."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(**OPEN_CLIP, output_dict=True)
    wake(model)
    return model


def save_open_clip(folder: Path, seed: int = 0) -> str:
    """A folder as open_clip saves them."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.25, 0.2], "interpolation": "bilinear"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": OPEN_CLIP, "preprocess_cfg": settings})
    )
    save_file(build_open_clip(seed).state_dict(), folder / "open_clip_model.safetensors")
    return str(folder)


def save_checkpoint(file: Path, seed: int = 0) -> str:
    """Weights under "state_dict", as training code leaves them; the architecture is made known."""
    known = file.parent / f"{ARCHITECTURE}.json"
    known.write_text(json.dumps(OPEN_CLIP))
    open_clip.add_model_config(known)
    torch.save({"epoch": 3, "state_dict": build_open_clip(seed).state_dict()}, file)
    return str(file)


@torch.no_grad()
def wake(model: nn.Module) -> None:
    """Weights large enough that pictures and captions tell; the usual ones leave them nearly alike."""
    for name, value in model.named_parameters():
        if name.endswith("logit_scale"):
            value.fill_(math.log(100))
        elif value.ndim > 1:
            value.normal_(std=value.shape[-1] ** -0.5)


def picture(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """Smooth colours with edges and a little grain."""
    rng = np.random.default_rng(seed)
    width, height = size
    small = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)).astype(float)
    image[height // 3 : height // 2, width // 4 : width // 2] = rng.integers(0, 256, 3)
    return Image.fromarray((image + rng.normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8))


def pixels_of(image: Image.Image) -> Tensor:
    """The picture as [1, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def said(caption: str) -> tuple[Message, ...]:
    """A caption as a prompt."""
    return (Message("user", (Part("text", caption),)),)


def shown(image: Image.Image) -> Part:
    """A picture as a response."""
    return Part("image", image)
