"""Run by torchrun: every config file given, one after the other, then compare the ranks' weights."""

import sys

import torch
import torch.distributed as dist

from mmalign.config import load
from mmalign.training import run as module
from mmalign.training.setup import build_policy

policies = []


def remember(config, device):  # type: ignore[no-untyped-def]
    adapter = build_policy(config, device)
    policies.append(adapter.policy)
    return adapter


torch.set_num_threads(1)
module.build_policy = remember
for path in sys.argv[1:]:
    module.run(load(path, allow_code=True))
    assert dist.is_initialized() and dist.get_world_size() == 2, "this must run in two processes"
    mine = torch.cat([p.detach().flatten() for p in policies[-1].parameters() if p.requires_grad])
    others = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(others, mine)
    gap = float((others[0] - others[1]).abs().max())
    print(f"rank {dist.get_rank()}: weights differ by {gap}")
    assert gap == 0, "the processes hold different weights"
dist.destroy_process_group()
