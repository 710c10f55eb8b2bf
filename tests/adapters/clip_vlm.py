"""Families that read clips, and two that read pictures in their own ways, built like those of `tiny_vlm`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_vlm import SMOL_TOKENS, _text, _tower, save_made, template, vlm_tokenizer
from transformers import (
    CLIPVisionConfig,
    Gemma2Config,
    GemmaConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
    LlavaNextImageProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipImageProcessor,
    SiglipVisionConfig,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaImageProcessor,
    VideoLlavaProcessor,
    VideoLlavaVideoProcessor,
)

SIZE = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}


def idefics3() -> tuple[Any, Any]:
    """Idefics3: pictures in tiles with markers between them."""
    tokenizer = vlm_tokenizer(template("<image>"), image_token="<image>")
    tokenizer.add_tokens(list(SMOL_TOKENS), special_tokens=True)
    config = Idefics3Config(
        vision_config=_tower(image_size=32, patch_size=8),
        text_config=LlamaConfig(**_text(len(tokenizer))),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=3,
    )
    sizes = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(**sizes),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=tokenizer.chat_template,
    )
    return Idefics3ForConditionalGeneration(config), processor


def paligemma(second: bool = False) -> tuple[Any, Any]:
    """PaliGemma: prompts are read both ways, answers are a suffix; no chat template. The `second` has Gemma 2
    below it, with windows and soft caps."""
    tokenizer = vlm_tokenizer(template("<image>"), image_token="<image>")
    tokenizer.chat_template = None
    pictures = SiglipImageProcessor(size={"height": 28, "width": 28})
    pictures.image_seq_length = 4
    processor = PaliGemmaProcessor(image_processor=pictures, tokenizer=tokenizer)
    sizes = _text(len(processor.tokenizer), head_dim=8)
    caps = {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 30.0}
    deeper = Gemma2Config(**sizes, **caps, query_pre_attn_scalar=8, sliding_window=16)
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(
            **_tower(vision_use_head=False), projection_dim=32, num_image_tokens=4
        ).to_dict(),
        text_config=(deeper if second else GemmaConfig(**sizes)).to_dict(),
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    return PaliGemmaForConditionalGeneration(config), processor


def llava_next_video() -> tuple[Any, Any]:
    """LLaVA-NeXT-Video: frames pooled two by two, pictures in tiles."""
    tokenizer = vlm_tokenizer(template("<image>"), image_token="<image>", video_token="<video>")
    pins = [[56, 112], [112, 56], [112, 112]]
    edge = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    config = LlavaNextVideoConfig(
        vision_config=CLIPVisionConfig(**_tower(image_size=56)),
        text_config=LlamaConfig(**_text(len(tokenizer))),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pins,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        spatial_pool_stride=2,
    )
    processor = LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(**edge),
        image_processor=LlavaNextImageProcessor(**edge, image_grid_pinpoints=pins),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return LlavaNextVideoForConditionalGeneration(config), processor


def video_llava() -> tuple[Any, Any]:
    """Video-LLaVA: a tower for pictures and another one for clips, below one projector."""
    tokenizer = vlm_tokenizer(template("<image>"), image_token="<image>", video_token="<video>")
    config = VideoLlavaConfig(
        vision_config=CLIPVisionConfig(**_tower()),
        text_config=LlamaConfig(**_text(len(tokenizer))),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=4,
        video_seq_length=5,
    )
    processor = VideoLlavaProcessor(
        image_processor=VideoLlavaImageProcessor(**SIZE),
        video_processor=VideoLlavaVideoProcessor(**SIZE),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return VideoLlavaForConditionalGeneration(config), processor


CLIPS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "idefics3": idefics3,
    "paligemma": paligemma,
    "paligemma2": lambda: paligemma(second=True),
    "llava_next_video": llava_next_video,
    "video_llava": video_llava,
}


def save_clip_vlm(family: str, folder: Path) -> Path:
    """One of CLIPS, as `save_made` saves it."""
    return save_made(CLIPS[family], folder)
