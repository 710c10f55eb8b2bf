"""Text towers of random weights and their tokenizers, built in memory: CLIP, T5, UMT5, Gemma 2 and BERT.

Every tower is 32 wide, has two layers and starts from the seed that is set when it is built (`seeded`).
"""

import json
import string
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from adapters.tiny_sd import build_tokenizer
from tokenizers import Tokenizer, models, trainers
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

WIDTH = 32
_SYMBOLS = [c for c in string.printable if not c.isspace()]
_WORDS = ("cat", "dog", "red", "blue", "the", "prompt", "image", "User", "detail", "color", "and", "ing")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw every weight made inside from `seed`, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def wake(module: nn.Module) -> nn.Module:
    """Give random values to the weights that start at zero: with those a block would be the identity."""
    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return module


def parameters(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(parameter.numel() for parameter in module.parameters())


def clip_tokenizer(pad: str | None = None) -> CLIPTokenizer:
    """The CLIP tokenizer of the Stable Diffusion tests, 77 positions; `pad` fills it up."""
    tokenizer = build_tokenizer()
    if pad is not None:
        tokenizer.pad_token = pad
    return tokenizer


def clip(tokenizer: CLIPTokenizer, act: str = "quick_gelu", projected: bool = False) -> Any:
    """A CLIP text tower, with the projection of the pooled state where `projected`."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act=act,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5_tokenizer(length: int = 512) -> T5Tokenizer:
    """Letters and a few whole words as unigram pieces; ends every caption with `</s>`."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in _WORDS] + [(symbol, -4.0) for symbol in _SYMBOLS]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)


def t5(
    tokenizer: T5Tokenizer, multilingual: bool = False, width: int = WIDTH
) -> T5EncoderModel | UMT5EncoderModel:
    """A T5 encoder with gated feed-forward layers; `multilingual`: a UMT5, with position biases per layer."""
    kind, model = (UMT5Config, UMT5EncoderModel) if multilingual else (T5Config, T5EncoderModel)
    config = kind(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return model(config)


def gemma_tokenizer() -> GemmaTokenizer:
    """Byte pairs learned from a few words, bytes as the last resort; starts every caption with `<bos>`."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    specials += [f"<0x{byte:02X}>" for byte in range(256)]
    learner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        special_tokens=specials,
        initial_alphabet=[*_SYMBOLS, "▁"],
        show_progress=False,
    )
    learner.train_from_iterator([f"▁{word}" for word in _WORDS] * 2, trainer)
    model = json.loads(learner.to_str())["model"]
    tokenizer = GemmaTokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        add_bos_token=True,
        model_max_length=512,
    )
    bos = (str(tokenizer.bos_token), tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos[0]} $A", special_tokens=[bos]
    )
    return tokenizer


def gemma(tokenizer: GemmaTokenizer) -> Gemma2Model:
    """A Gemma 2 decoder without its output layer."""
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Gemma2Model(config)


def bert_tokenizer() -> BertTokenizer:
    """Letters and their inner-word forms, 77 positions."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    symbols = [symbol for symbol in _SYMBOLS if not symbol.isupper()]
    tokens = [
        *specials,
        *symbols,
        *(f"##{symbol}" for symbol in symbols),
        *(w for w in _WORDS if w.islower()),
    ]
    return BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}, model_max_length=77)


def bert(tokenizer: BertTokenizer) -> BertModel:
    """A BERT encoder."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        pad_token_id=tokenizer.pad_token_id,
    )
    return BertModel(config)
