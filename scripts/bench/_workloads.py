"""Speed workloads: a random language model of a given shape, and pairs of exactly known lengths."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK = 16
BETA, LR, CLIP = 0.1, 1e-5, 1.0
SPECIALS = ("<unk>", "<pad>", "</s>")


@dataclass(frozen=True)
class Workload:
    """One pair per step: `prompt` tokens, then `response` tokens (the end token included) on either side."""

    name: str
    vocab: int
    prompt: int
    response: int
    hidden: int = 256
    layers: int = 4
    pairs: int = 8  # different ones, used in turn

    @property
    def title(self) -> str:
        """What the workload is, in words."""
        return (
            f"{self.name}: text, LoRA rank {RANK} on every linear layer, hidden {self.hidden}, "
            f"{self.layers} layers, vocabulary {self.vocab}, prompt {self.prompt}, responses {self.response}"
        )


WORKLOADS = {
    w.name: w
    for w in (
        Workload("C1", vocab=32_000, prompt=256, response=64),
        Workload("C2", vocab=32_000, prompt=64, response=192),
        Workload("C3", vocab=152_000, prompt=128, response=64),
    )
}


def write_model(workload: Workload, folder: Path) -> None:
    """A Llama of random weights (tied head, float32) with a tokenizer of one token per word."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=workload.vocab,
        hidden_size=workload.hidden,
        intermediate_size=4 * workload.hidden,
        num_hidden_layers=workload.layers,
        num_attention_heads=workload.hidden // 64,
        num_key_value_heads=workload.hidden // 128,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=SPECIALS.index("</s>"),
        pad_token_id=SPECIALS.index("<pad>"),
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = [f"w{i}" for i in range(len(SPECIALS), workload.vocab)]
    ids = {word: i for i, word in enumerate([*SPECIALS, *words])}
    inner = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    )
    tokenizer.save_pretrained(folder)


def make_pairs(workload: Workload) -> list[dict[str, str]]:
    """Random words; the end token that both sides append is the last of a response's tokens."""
    draw = torch.Generator().manual_seed(1)

    def words(count: int) -> str:
        ids = torch.randint(len(SPECIALS), workload.vocab, (count,), generator=draw)
        return " ".join(f"w{i}" for i in ids.tolist())

    return [
        {
            "prompt": words(workload.prompt),
            "chosen": " " + words(workload.response - 1),
            "rejected": " " + words(workload.response - 1),
        }
        for _ in range(workload.pairs)
    ]


def write_inputs(workload: Workload, folder: Path) -> None:
    """model/ and pairs.jsonl."""
    write_model(workload, folder / "model")
    text = "".join(json.dumps(pair) + "\n" for pair in make_pairs(workload))
    (folder / "pairs.jsonl").write_text(text, encoding="utf-8")


def adapter_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable weights by names that do not depend on who wrapped the model."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            name = name.removeprefix("base_model.model.")
            found[name.replace(".default.", ".").replace(".policy.", ".")] = parameter
    return dict(sorted(found.items()))


@torch.no_grad()
def perturb(model: nn.Module) -> None:
    """The same random adapter on every side. With B at 0 every DPO loss is ln 2 and comparing them blind."""
    draw = torch.Generator().manual_seed(2)
    for name, parameter in adapter_weights(model).items():
        size = 0.3 if "lora_B" in name else parameter.shape[1] ** -0.5
        parameter.copy_(size * torch.randn(parameter.shape, generator=draw))


def gradients(model: nn.Module) -> Tensor:
    """All adapter gradients as one vector, in the order of `adapter_weights`."""
    parts = []
    for name, parameter in adapter_weights(model).items():
        if parameter.grad is None:
            raise RuntimeError(f"{name} has no gradient")
        parts.append(parameter.grad.flatten().clone())
    return torch.cat(parts)
