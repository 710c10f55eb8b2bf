"""Language models of random weights, built offline in milliseconds, with a byte-level tokenizer."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from mmalign.adapters.text import Text
from mmalign.types import Example, Message, Part, PreferenceSample

SPECIALS = ("<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")
POSITIONS = 128
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = (
    "the small red fox jumped over a blue box and ran home",
    "a happy girl asked why the sky is blue and why the box is red",
    "user assistant system question answer yes no perhaps",
)
# model_type -> what it needs beyond the common settings
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16},
    "mistral": {"sliding_window": 16},
    "gpt2": {},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 3.0},
}


def build_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 320 entries: any byte is allowed, no start token is added."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        show_progress=False,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = template
    return tokenizer


def build_model(family: str, vocabulary: int, seed: int = 0, **changes: Any) -> Any:
    """Two layers of width 32 with weights large enough for uneven distributions."""
    ends = {"bos_token_id": 1, "eos_token_id": 5, "pad_token_id": 3}
    if family == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
    else:
        sizes = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": POSITIONS,
        }
    settings = {**sizes, **ends, "initializer_range": 0.15, **FAMILIES[family], **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(family, vocab_size=vocabulary, **settings)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def save_tiny(folder: Path, family: str = "llama", template: str | None = CHATML, **changes: Any) -> str:
    """A model folder as `from_pretrained` reads it; returns its path."""
    tokenizer = build_tokenizer(template)
    build_model(family, len(tokenizer), **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def load_tiny(folders: dict[str, str], family: str = "llama", **settings: Any) -> Any:
    """The text adapter over one of the tiny folders."""
    return Text(path=folders[family], **settings).build(torch.device("cpu"))


def plain(prompt: str) -> tuple[Message, ...]:
    """A prompt without chat template."""
    return (Message("text", (Part("text", prompt),)),)


def chat(*turns: tuple[str, str]) -> tuple[Message, ...]:
    """A prompt of (speaker, text) turns."""
    return tuple(Message(speaker, (Part("text", text),)) for speaker, text in turns)  # type: ignore[arg-type]


def sample(name: str, prompt: tuple[Message, ...], **responses: str | list[str]) -> PreferenceSample:
    """One record: role -> response, or a list of them."""
    examples: dict[str, tuple[Example, ...]] = {}
    for role, texts in responses.items():
        listed = [texts] if isinstance(texts, str) else texts
        examples[role] = tuple(Example(prompt, (Part("text", text),)) for text in listed)
    return PreferenceSample(id=name, examples=examples, origin=f"rows.jsonl row {name}")


SAMPLES = (
    sample("1", plain("the small red fox"), chosen=" jumped over a blue box", rejected=" is no"),
    sample("2", plain("why is the sky?"), chosen=" perhaps", rejected=" the girl ran home and asked why"),
    sample("3", chat(("user", "is the box red?")), chosen="yes", rejected="no, it is blue"),
)
ROLES = ("chosen", "rejected")
