"""Ask the tiny vision-language model about pictures and clips, with the library's own processor and generate.

Stable, to be built upon: `answer_pictures`, `answer_clips`.
"""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.video_utils import VideoMetadata

from mmalign.shapes.clips import FPS
from mmalign.shapes.tiny_qwen_vl import MAX_ANSWER_TOKENS

BATCH = 64


def answer_pictures(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    pictures: Sequence[Image.Image],
    questions: Sequence[str],
    seed: int | None = None,
) -> list[str]:
    """Answer one question about each picture: greedily, or sampled at temperature 1 where a seed is given."""
    answers = []
    for start, texts in _batches(processor, "image", questions):
        images = [[picture] for picture in pictures[start : start + len(texts)]]
        inputs = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
        answers += _generate(model, processor, dict(inputs), None if seed is None else seed + start)
    return answers


def answer_clips(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    clips: Sequence[Tensor],
    questions: Sequence[str],
    seed: int | None = None,
) -> list[str]:
    """Answer one question about each clip, uint8 [T, 3, H, W] at 4 frames per second, like pictures."""
    answers = []
    for start, texts in _batches(processor, "video", questions):
        chosen = clips[start : start + len(texts)]
        inputs = processor(
            text=texts,
            videos=[[clip] for clip in chosen],
            video_metadata=[[metadata_of(clip)] for clip in chosen],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        answers += _generate(model, processor, dict(inputs), None if seed is None else seed + start)
    return answers


def metadata_of(clip: Tensor) -> VideoMetadata:
    """What the processor must be told of a clip [T, 3, H, W]: every frame is used, at 4 per second."""
    frames, _, height, width = clip.shape
    return VideoMetadata(
        total_num_frames=frames,
        fps=FPS,
        frames_indices=list(range(frames)),
        duration=frames / FPS,
        width=width,
        height=height,
    )


def _batches(
    processor: Qwen2_5_VLProcessor, kind: str, questions: Sequence[str]
) -> list[tuple[int, list[str]]]:
    messages = [
        [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": text}]}] for text in questions
    ]
    texts = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return [(start, texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]


@torch.no_grad()
def _generate(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    inputs: dict[str, Tensor],
    seed: int | None,
) -> list[str]:
    with torch.random.fork_rng(devices=[]):
        if seed is None:
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_ANSWER_TOKENS)
        else:
            torch.manual_seed(seed)
            ids = model.generate(
                **inputs,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=MAX_ANSWER_TOKENS,
            )
    answers: list[str] = processor.batch_decode(
        ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return answers
