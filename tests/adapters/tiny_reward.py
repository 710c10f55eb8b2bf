"""Reward models on tiny language models, and sequence classifiers as their own library writes them."""

from pathlib import Path
from typing import Any

import torch
from tiny_lm import build_model, build_tokenizer
from transformers import AutoModelForSequenceClassification

from mmalign.adapters._reward import RewardAdapter
from mmalign.adapters._score_head import Head
from mmalign.adapters.reward_head import RewardHead

CPU = torch.device("cpu")


def config(model: str | Path, aspects: tuple[str, ...] = ("score",), **head: Any) -> RewardHead:
    return RewardHead({"adapter": "text", "path": str(model)}, Head(**head), aspects)


def fresh(path: str | Path, **head: Any) -> RewardAdapter:
    return config(path, init="fresh", **head).build(CPU)


def saved(adapter: RewardAdapter, folder: Path) -> Path:
    adapter.save(adapter.policy, folder, None)
    return folder


def save_classifier(folder: Path, labels: int = 1, family: str = "llama") -> Path:
    """A sequence classifier as the upstream library writes it."""
    tokenizer = build_tokenizer()
    settings = build_model(family, len(tokenizer)).config
    settings.num_labels = labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForSequenceClassification.from_config(settings, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
