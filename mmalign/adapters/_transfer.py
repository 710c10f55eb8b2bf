"""Tensors of a step on their way to the device."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device; the host goes on at once.

    A CUDA device copies from page-locked memory by itself. From other memory the host would have to feed the
    copy, and could begin only when the work before it is done.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
