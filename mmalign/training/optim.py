"""Optimizer, schedule and what trains."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from mmalign.config import Train


def prepare_policy(policy: nn.Module, train: Train) -> None:
    """Trainable weights in float32. Call after what is frozen has been frozen, before LoRA."""
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def set_training_mode(policy: nn.Module, train: Train) -> None:
    """Train mode, or, with the model's own dropout off, eval mode for all but LoRA's dropout.

    Families keep their dropout rates in many places and read them in many ways; in eval mode none applies.
    Layers that recompute their activations do so in train mode only, so those are put back into it, with
    every rate of theirs at 0.
    """
    policy.train(train.dropout)
    if train.dropout:
        return
    for name, module in policy.named_modules():
        if ".lora_dropout." in f".{name}.":
            module.train()
        if module.__dict__.get("gradient_checkpointing"):
            module.training = True  # the layer itself; its parts stay in eval mode
            rates = [
                key for key, value in module.__dict__.items() if "drop" in key and isinstance(value, float)
            ]
            for key in rates:
                setattr(module, key, 0.0)


@contextmanager
def evaluating(policy: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; every module's own mode is restored after it."""
    training = [module for module in policy.modules() if module.training]
    for module in training:  # few or none without dropout, where `eval()` would walk all modules again
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


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
