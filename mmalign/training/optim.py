"""Optimizer, schedule and what trains."""

from __future__ import annotations

import math
import warnings

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from mmalign.config import Train


def prepare_policy(policy: nn.Module, train: Train) -> None:
    """Trainable weights in float32; the model's own dropout off unless asked for. Call before LoRA."""
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if not train.dropout:
        disable_dropout(policy)


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability of a model to 0, also those that attention reads as plain numbers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout"):
            if isinstance(module.__dict__.get(name), float):
                setattr(module, name, 0.0)


def make_optimizer(policy: nn.Module, train: Train) -> AdamW:
    """Fused AdamW over the trainable weights; weight decay on matrices only, as is usual."""
    trainable = [p for p in policy.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return AdamW(groups, lr=train.lr, betas=train.betas, eps=train.eps, fused=True)


def make_schedule(optimizer: torch.optim.Optimizer, train: Train) -> LambdaLR:
    """Learning rate by absolute step: linear warm-up, then constant, linear or cosine down to 0."""

    def factor(step: int) -> float:
        if step < train.warmup_steps:
            return (step + 1) / (train.warmup_steps + 1)
        if train.schedule == "constant" or train.schedule_steps is None:
            return 1.0
        span = max(1, train.schedule_steps - train.warmup_steps)
        done = min(1.0, (step - train.warmup_steps) / span)
        return 1.0 - done if train.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    # a first step refused for NaN moves the schedule but not the optimizer, which torch takes for a slip
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
    return LambdaLR(optimizer, factor)
