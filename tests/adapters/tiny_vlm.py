"""Vision- and video-language models of random weights, built offline, one builder per family."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from adapters.tiny_lm import build_tokenizer
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from mmalign.adapters._vision_lm import VisionLM
from mmalign.adapters.video_lm import VideoLm
from mmalign.adapters.vlm import Vlm
from mmalign.types import Clip, Example, Message, Part, PreferenceSample

SMOL_TOKENS = (
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
    *(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)),
)
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


def template(image: str, video: str = "<video>") -> str:
    """ChatML whose contents are a text or a list of texts, pictures and clips."""
    return (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}" + image + "{% elif c['type'] == 'video' %}" + video + "{% else %}"
        "{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def vlm_tokenizer(chat: str, **tokens: str) -> PreTrainedTokenizerFast:
    """The byte-level tokenizer with a family's media tokens, under the names its processor asks for."""
    return PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(chat).backend_tokenizer,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", *SMOL_TOKENS, *tokens.values()],
        extra_special_tokens=tokens,
        chat_template=chat,
    )


def _text(vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 5,
        "pad_token_id": 3,
        **more,
    }


def _tower(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
        **more,
    }


def llava() -> tuple[Any, Any]:
    """LLaVA-1.5: a CLIP tower read at its second-last layer, four places per picture."""
    tokenizer = vlm_tokenizer(template("<image>"), image_token="<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_tower()),
        text_config=LlamaConfig(**_text(len(tokenizer))),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=4,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return LlavaForConditionalGeneration(config), processor


def qwen2_5_vl() -> tuple[Any, Any]:
    """Qwen2.5-VL: native resolution, positions in three dimensions, clips."""
    names = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
    }
    tokenizer = vlm_tokenizer(template(QWEN_IMAGE, QWEN_VIDEO), **names)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    config = Qwen2_5_VLConfig(
        text_config=_text(len(tokenizer), rope_parameters=rope),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 32,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 16,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
    )
    sizes = {
        "patch_size": 4,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 64, "longest_edge": 384},
    }
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        video_processor=Qwen2VLVideoProcessor(**sizes),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def smolvlm() -> tuple[Any, Any]:
    """SmolVLM: pictures in tiles with markers between them."""
    tokenizer = vlm_tokenizer(template("<image>"), image_token="<image>")
    config = SmolVLMConfig(
        vision_config=_tower(image_size=32, patch_size=8),
        text_config=LlamaConfig(**_text(len(tokenizer))),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=3,
    )
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        image_seq_len=4,
        chat_template=tokenizer.chat_template,
    )
    return SmolVLMForConditionalGeneration(config), processor


def llava_onevision() -> tuple[Any, Any]:
    """LLaVA-OneVision: pictures in tiles when alone, clips pooled by frame."""
    tokenizer = vlm_tokenizer(template("<image>"), image_token="<image>", video_token="<video>")
    pins = [[28, 56], [56, 28], [56, 56]]
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**_tower(vision_use_head=False)),
        text_config=Qwen2Config(**_text(len(tokenizer))),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pins,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    size = {"height": 28, "width": 28}
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pins),
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        tokenizer=tokenizer,
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": llava,
    "qwen2_5_vl": qwen2_5_vl,
    "smolvlm": smolvlm,
    "llava_onevision": llava_onevision,
}
VIDEO = ("qwen2_5_vl", "llava_onevision")


def save_made(make: Callable[[], tuple[Any, Any]], folder: Path, seed: int = 0) -> Path:
    """Model and processor in `folder`, weights large enough that every picture counts."""
    torch.manual_seed(seed)
    model, processor = make()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.15)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_vlm(family: str, folder: Path, seed: int = 0) -> Path:
    """One of FAMILIES, as `save_made` saves it."""
    return save_made(FAMILIES[family], folder, seed)


@functools.lru_cache(maxsize=1)
def public(folder: Path) -> tuple[Any, Any]:
    """The model of a folder and its processor by the public classes alone, kept for the next of its rows."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder)


def picture(number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A picture of noise, another one for every number."""
    width, height = size
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(number))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def clip(number: int, frames: int = 4, size: tuple[int, int] = (40, 30), rate: float = 4.0) -> Clip:
    """A clip of noise."""
    width, height = size
    shape = (frames, 3, height, width)
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(number))
    places = tuple(range(frames))
    return Clip(pixels.to(torch.uint8), places, tuple(i / rate for i in places), rate, frames, "memory")


def looking(*media: Any, question: str = "what is it?") -> tuple[Message, ...]:
    """A user turn with media in front of a question."""
    parts = [Part("video" if isinstance(m, Clip) else "image", m) for m in media]
    return (Message("user", (*parts, Part("text", question))),)


def vlm_pair(
    name: str,
    media: tuple[Any, ...] = (),
    chosen: str = "a small red fox",
    rejected: str = "the blue box, perhaps",
    rejected_media: tuple[Any, ...] | None = None,
) -> PreferenceSample:
    """A pair whose sides see the same media unless told otherwise."""
    other = media if rejected_media is None else rejected_media
    examples = {
        "chosen": (Example(looking(*media), (Part("text", chosen),)),),
        "rejected": (Example(looking(*other), (Part("text", rejected),)),),
    }
    return PreferenceSample(name, examples, origin=f"test row {name}")


def mixed_pairs() -> tuple[PreferenceSample, ...]:
    """No, one and several pictures of different sizes; one pair whose sides see different pictures."""
    a, b, c = picture(1), picture(2, (64, 32)), picture(3, (20, 50))
    return (
        vlm_pair("none"),
        vlm_pair("one", (a,)),
        vlm_pair("two", (a, b), chosen="yes"),
        vlm_pair("three", (b, c, a), rejected="no no no no"),
        vlm_pair("sides", (c,), rejected_media=(b,)),
    )


def build_vlm(folder: Path, video: bool = False, **settings: Any) -> VisionLM:
    """The adapter of a saved model on the CPU, in float32 unless its settings say otherwise."""
    options = (VideoLm if video else Vlm)(str(folder), **settings)
    return options.build(torch.device("cpu"), torch.float32)
