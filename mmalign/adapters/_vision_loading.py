"""Strict loading of a model that looks, and of its processor."""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import Any

import torch

from mmalign.adapters._loading import load_weights, read_json, readable_errors, refuse_other_folders
from mmalign.types import UserError

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def load_vision_lm(
    folder: Path, dtype: torch.dtype | None, attention: str, allow_pickle: bool
) -> tuple[Any, Any]:
    """Model (evaluation mode, CPU) and processor of an `AutoModelForImageTextToText` folder, strictly.

    `dtype` None keeps the files' own. Raises UserError for anything missing, left over or foreign.
    """
    from transformers import AutoModelForImageTextToText

    refuse_no_vision_lm(folder)
    model = load_weights(folder, AutoModelForImageTextToText, dtype, attention, allow_pickle)
    return model, load_processor(folder)


def refuse_no_vision_lm(folder: Path) -> None:
    """Raise UserError for a folder of anything but a model that looks. Reads no weights."""
    refuse_other_folders(folder)
    _check_architecture(read_json(folder / "config.json"), folder)


def load_processor(folder: Path) -> Any:
    """The processor of a local folder. Raises UserError if its files are missing or broken."""
    from transformers import AutoProcessor

    if not any((folder / name).exists() for name in _PROCESSOR_FILES):
        raise UserError(f"{folder}: no processor; expected {' or '.join(_PROCESSOR_FILES)}")
    if not any((folder / name).exists() for name in _TOKENIZER_FILES):
        raise UserError(f"{folder}: no tokenizer; expected one of {', '.join(_TOKENIZER_FILES)}")
    for name in (*_PROCESSOR_FILES, "tokenizer_config.json", "tokenizer.json"):
        if (folder / name).exists():
            read_json(folder / name)
    with readable_errors(f"{folder}: processor"):
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise UserError(f"{folder}: its processor files give no picture processor with a tokenizer")
    return processor


def _check_architecture(settings: dict[str, Any], folder: Path) -> None:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    where, model_type = f"{folder}/config.json", settings.get("model_type")
    if not isinstance(model_type, str):
        raise UserError(f"{where}: has no model_type; this is not a transformers model folder")
    if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(f"{where}: {model_type} reads text only; use model.adapter: text")
    raise UserError(
        f"{where}: model_type {model_type!r} is not a vision-language model transformers knows "
        "(AutoModelForImageTextToText)"
    )


def limit_pixels(processor: Any, low: int | None, high: int | None) -> None:
    """Bound the pixels of a picture after resizing. Raises UserError for a processor with a fixed size."""
    if low is None and high is None:
        return
    pictures = processor.image_processor
    size = dict(pictures.size)
    if not hasattr(pictures, "merge_size") or not {"shortest_edge", "longest_edge"} <= set(size):
        raise UserError(
            f"model.min_pixels, model.max_pixels: {type(pictures).__name__} resizes to a fixed size and has "
            "no such bounds; leave them null"
        )
    # these processors count pixels under the names of edges
    size |= {k: v for k, v in (("shortest_edge", low), ("longest_edge", high)) if v is not None}
    if size["shortest_edge"] > size["longest_edge"]:
        raise UserError(
            f"model.min_pixels: {size['shortest_edge']} is above the {size['longest_edge']} allowed"
        )
    pictures.size = type(pictures.size)(**size) if not isinstance(pictures.size, dict) else size
    for name, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        if getattr(pictures, name, None) is not None:
            setattr(pictures, name, size[edge])


def limit_tiles(processor: Any, model: Any, most: int | None) -> None:
    """Bound the tiles of a picture, beside the whole of it in small. Raises UserError for a processor that
    cuts none, or cannot do with so few.

    InternVL counts tiles; Idefics3 and SmolVLM scale a picture's longer side to a number of tiles, so that
    they make at most its square; LLaVA-NeXT and -OneVision choose from a list of sizes, which the model has
    to know, too.
    """
    if most is None:
        return
    pictures = processor.image_processor
    if isinstance(getattr(pictures, "max_patches", None), int):
        if pictures.min_patches > most:
            raise UserError(
                f"model.max_tiles: {most} is below the {pictures.min_patches} that this processor makes"
            )
        pictures.max_patches = min(most, pictures.max_patches)
    elif getattr(pictures, "max_image_size", None) is not None and "longest_edge" in dict(pictures.size):
        side = int(dict(pictures.max_image_size)["longest_edge"])
        longest = min(int(pictures.size["longest_edge"]), isqrt(most) * side)
        pictures.size = type(pictures.size)(longest_edge=longest)
    elif getattr(pictures, "image_grid_pinpoints", None) is not None:
        tile = int(model.config.vision_config.image_size)
        kept = [[h, w] for h, w in pictures.image_grid_pinpoints if h * w <= most * tile * tile]
        if not kept:
            few = min(h * w for h, w in pictures.image_grid_pinpoints) // tile**2
            raise UserError(f"model.max_tiles: {most} is below the {few} that this processor makes")
        pictures.image_grid_pinpoints = kept
        model.config.image_grid_pinpoints = kept
    else:
        raise UserError(
            f"model.max_tiles: {type(pictures).__name__} cuts no pictures into tiles; leave it null"
        )
