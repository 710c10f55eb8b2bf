"""The table of what trains, on weights that two layers share."""

from pathlib import Path

import pytest
import torch
from adapters.tiny_lm import save_tiny

from mmalign.adapters.text import Text
from mmalign.config import Lora
from mmalign.training import lora, what_trains


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_lora_on_a_tied_weight_counts_under_either_name(tmp_path: Path, target: str) -> None:
    adapter = Text(path=str(save_tiny(tmp_path, "gemma2"))).build(torch.device("cpu"))
    assert "lm_head.weight" not in adapter.parts["language"]
    adapter.policy.requires_grad_(False)
    lora.inject(adapter.policy, Lora(rank=2, targets=(target,)), adapter.lora_targets, 0)
    trained = sum(p.numel() for p in adapter.policy.parameters() if p.requires_grad)
    (line,) = what_trains.lines(adapter.policy, adapter.parts)
    assert line.endswith(f"weights: {trained:,} LoRA weights on 1 layers")
