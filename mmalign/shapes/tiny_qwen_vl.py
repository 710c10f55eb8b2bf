"""The built-in vision-language model: a Qwen2.5-VL of about 760k parameters with its own processor.

Architecture and file format are those of any Qwen2.5-VL checkpoint, so it loads through
`AutoModelForImageTextToText` and `AutoProcessor` like a large one. A picture of 48 x 48 pixels becomes 64
patches and 16 tokens; a clip of four such frames becomes 2 x 16 tokens. `pretrain_vlm.py` trains it.
"""

import random
from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from mmalign.shapes.bpe import train_bpe
from mmalign.shapes.clip_text import CLIP_TOPICS, ask_clip
from mmalign.shapes.clips import sample_clip
from mmalign.shapes.sight_text import TOPICS, ask
from mmalign.shapes.sights import ALL_THINGS, PICTURE, sample_sight

VLM_FOLDER = Path(__file__).parent / "models" / "vlm"
VIDEO_FOLDER = Path(__file__).parent / "models" / "video"

SPECIAL_TOKENS = (
    "<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
VOCABULARY = 1024  # an upper bound: merging stops when every word of the corpus is one token
MAX_POSITIONS, MAX_ANSWER_TOKENS = 512, 48
HIDDEN, PATCH, MERGE, TEMPORAL_PATCH, TOKENS_PER_SECOND = 96, 6, 2, 2, 2
MEAN, DEVIATION = 0.5, 0.5

# ChatML. A message's content is a string or a list of text, image and video parts.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part['type'] == 'video' -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- elif part['type'] == 'text' -%}
{{ part['text'] }}
{%- else -%}
{{ raise_exception('parts are text, image or video, but a message holds one of type ' + part['type']) }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def build_tokenizer(num_scenes: int = 1500, seed: int = 0) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on what is said of training scenes: every word one token, any byte allowed."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_tokenizer(num_scenes, seed)),
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=list(SPECIAL_TOKENS[4:]),
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


@lru_cache(maxsize=2)
def _trained_tokenizer(num_scenes: int, seed: int) -> str:
    """The trained tokenizer as JSON; drawing the scenes takes seconds, so it is done once in a process."""
    rng = random.Random(f"sight tokenizer/{seed}")
    corpus = ["system\n", *(f"{thing.phrase}, and {thing.phrase}." for thing in ALL_THINGS)]
    for number in range(num_scenes):
        sight, clip = sample_sight("training", seed, number), sample_clip("training", seed, number)
        asked = [ask(sight, topic, rng) for topic in TOPICS]
        asked += [ask_clip(clip, topic, rng) for topic in CLIP_TOPICS]
        for question in asked:
            if question is not None:
                corpus += ["user\n" + question.text, "assistant\n" + question.answer]
    trained: str = train_bpe(corpus, VOCABULARY, SPECIAL_TOKENS).to_str()
    return trained


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    """The processor: pictures and frames are brought to the area of 48 x 48 pixels, in sides of 12.

    Frames are never dropped or repeated: choose four and declare them as 4 frames per second.
    """
    shared = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": TEMPORAL_PATCH,
        "size": {"shortest_edge": PICTURE * PICTURE, "longest_edge": PICTURE * PICTURE},
        "image_mean": [MEAN] * 3,
        "image_std": [DEVIATION] * 3,
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shared),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**shared, do_sample_frames=False, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """Make the untrained model in float32: 4 layers of width 96 on a tower of 4 blocks of width 64."""

    def token(name: str) -> int:
        number = tokenizer.convert_tokens_to_ids(name)
        assert isinstance(number, int)
        return number

    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": MAX_POSITIONS,
            "initializer_range": 0.05,  # the usual 0.02 is too small at this width: nothing is copied
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 4, 4]},
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
            "tokens_per_second": TOKENS_PER_SECOND,
            "window_size": 24,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [1, 3],
            "initializer_range": 0.05,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_ANSWER_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def load_vlm(
    folder: Path = VLM_FOLDER,
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """Load model (float32, eval mode) and processor from a folder, the shipped picture model by default."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    return model.eval(), processor
