"""Further families of vision-language models, built like those of `tiny_vlm`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_vlm import QWEN_IMAGE, QWEN_VIDEO, _text, _tower, save_made, template, vlm_tokenizer
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipVisionConfig,
)

QWEN_NAMES = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
QWEN_SIZES = {
    "patch_size": 4,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 64, "longest_edge": 384},
}


def gemma3() -> tuple[Any, Any]:
    """Gemma 3: the template's placeholder is not the token that features replace."""
    names = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    tokenizer = vlm_tokenizer(template("<start_of_image>"), **names)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**_tower(vision_use_head=False)).to_dict(),
        text_config=_text(len(tokenizer), head_dim=8, sliding_window=64),
        mm_tokens_per_image=4,
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"],
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=tokenizer.chat_template,
    )
    return Gemma3ForConditionalGeneration(config), processor


def _qwen(deep: bool) -> tuple[Any, Any]:
    tokenizer = vlm_tokenizer(template(QWEN_IMAGE, QWEN_VIDEO), **QWEN_NAMES)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in QWEN_NAMES.items()}
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    vision: dict[str, Any] = {"embed_dim": 32}
    if deep:
        rope |= {"mrope_section": [2, 1, 1], "mrope_interleaved": True}
        vision = {"intermediate_size": 64, "out_hidden_size": 32, "num_position_embeddings": 16}
        vision["deepstack_visual_indexes"] = [0]
    vision |= {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
    config = (Qwen3VLConfig if deep else Qwen2VLConfig)(
        text_config=_text(len(tokenizer), rope_parameters=rope, **({"head_dim": 8} if deep else {})),
        vision_config=vision | {"spatial_merge_size": 2, "temporal_patch_size": 2},
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
    )
    processor = (Qwen3VLProcessor if deep else Qwen2VLProcessor)(
        image_processor=Qwen2VLImageProcessor(**QWEN_SIZES),
        video_processor=(Qwen3VLVideoProcessor if deep else Qwen2VLVideoProcessor)(**QWEN_SIZES),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )
    return (Qwen3VLForConditionalGeneration if deep else Qwen2VLForConditionalGeneration)(config), processor


def qwen2_vl() -> tuple[Any, Any]:
    """Qwen2-VL."""
    return _qwen(deep=False)


def qwen3_vl() -> tuple[Any, Any]:
    """Qwen3-VL: deeper layers of the language model take features of their own."""
    return _qwen(deep=True)


def llava_next() -> tuple[Any, Any]:
    """LLaVA-NeXT: tiles by the picture's size."""
    tokenizer = vlm_tokenizer(template("<image>"), image_token="<image>")
    pins = [[28, 56], [56, 28], [56, 56]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**_tower()),
        text_config=LlamaConfig(**_text(len(tokenizer))),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=pins,
    )
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(**size, image_grid_pinpoints=pins),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return LlavaNextForConditionalGeneration(config), processor


def internvl() -> tuple[Any, Any]:
    """InternVL: tiles as pictures of their own."""
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = vlm_tokenizer(template("<IMG_CONTEXT>"), **names)
    config = InternVLConfig(
        vision_config=_tower(image_size=[28, 28], patch_size=[7, 7]),
        text_config={"model_type": "qwen2", **_text(len(tokenizer))},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    size = {"height": 28, "width": 28}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, max_patches=4, crop_to_patches=True),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=tokenizer.chat_template,
    )
    return InternVLForConditionalGeneration(config), processor


MORE: dict[str, Callable[[], tuple[Any, Any]]] = {
    "gemma3": gemma3,
    "internvl": internvl,
    "llava_next": llava_next,
    "qwen2_vl": qwen2_vl,
    "qwen3_vl": qwen3_vl,
}


def save_more(family: str, folder: Path) -> Path:
    """One of MORE, as `save_made` saves it."""
    return save_made(MORE[family], folder)
