"""What each of two processes does: run every config file given, then compare the weights of both."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from mmalign.config import RunConfig, load
from mmalign.training import run as module
from mmalign.training.setup import build_policy


def run_files(files: Sequence[str]) -> None:
    """In order; this process prints for each that its weights are those of the other."""
    policies = []

    def remember(config: RunConfig, device: torch.device) -> Any:
        adapter = build_policy(config, device)
        policies.append(adapter.policy)
        return adapter

    torch.set_num_threads(1)
    vars(module)["build_policy"] = remember  # a process of its own, where nothing else needs the other
    for path in files:
        module.run(load(path, allow_code=True))
        assert dist.is_initialized() and dist.get_world_size() == 2, "this must run in two processes"
        mine = torch.cat([p.detach().flatten() for p in policies[-1].parameters() if p.requires_grad])
        others = [torch.empty_like(mine) for _ in range(2)]
        dist.all_gather(others, mine)
        gap = float((others[0] - others[1]).abs().max())
        print(f"rank {dist.get_rank()}: weights differ by {gap}")
        assert gap == 0, "the processes hold different weights"
    dist.destroy_process_group()
