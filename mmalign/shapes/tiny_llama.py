"""The built-in story model: a Llama of about 360k parameters with its own tokenizer and chat template.

Architecture and file format are those of any Llama checkpoint, so it loads through `AutoModelForCausalLM`
and `AutoTokenizer` like a large one. `pretrain_text.py` trains it.
"""

import random
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from mmalign.shapes.bpe import train_bpe
from mmalign.shapes.stories import prompts_of, write_story

TEXT_MODEL_FOLDER = Path(__file__).parent / "models" / "text"

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")
VOCABULARY = 1024  # an upper bound: merging stops when every word of the corpus is one token
MAX_POSITIONS = 256
MAX_STORY_TOKENS = 96

# ChatML. A message's content is a string or a list of {"type": "text", "text": ...} parts.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] != 'text' -%}
{{ raise_exception('this model reads text only, but a message holds a part of type ' + part['type']) }}
{%- endif -%}
{{ part['text'] }}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def build_tokenizer(num_stories: int = 4000, seed: int = 0) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on training prompts and stories: every word one token, any byte allowed."""
    rng = random.Random(f"tokenizer/{seed}")
    prompts = prompts_of("train")
    corpus = []
    for _ in range(num_stories):
        prompt = rng.choice(prompts)
        corpus += ["user\n" + prompt.text, "assistant\n" + write_story(prompt, rng), "system\n"]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(corpus, VOCABULARY, SPECIAL_TOKENS),
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def build_model(tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> LlamaForCausalLM:
    """Make the untrained model in float32: 3 layers of width 96, tied embeddings, seeded weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        # The usual 0.02 is too small at this width: the name of the shape is then never copied.
        initializer_range=0.06,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = generation_config(tokenizer)
    return model


def generation_config(tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Greedy by default, no truncation of the distribution when sampling, stop at `<|im_end|>`."""
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_STORY_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def load_story_model(
    folder: Path = TEXT_MODEL_FOLDER,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Load model (float32, eval mode) and tokenizer from a local folder, the shipped one by default."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model.eval(), tokenizer


def chat_text(tokenizer: PreTrainedTokenizerBase, prompt: str, story: str | None = None) -> str:
    """Render a prompt as chat text: ready to be answered, or with `story` as the answer."""
    messages = [{"role": "user", "content": prompt}]
    if story is not None:
        messages.append({"role": "assistant", "content": story})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=story is None)
    assert isinstance(text, str)
    return text


@torch.no_grad()
def sample_stories(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    seed: int,
    batch: int = 64,
) -> list[str]:
    """Sample one story per prompt at temperature 1, in batches, without touching the global generator."""
    stories: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, len(prompts), batch):
            texts = [chat_text(tokenizer, prompt) for prompt in prompts[start : start + batch]]
            inputs = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
            ids = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=MAX_STORY_TOKENS,
            )
            answers = ids[:, inputs["input_ids"].shape[1] :]
            stories += tokenizer.batch_decode(answers, skip_special_tokens=True)
    return stories
