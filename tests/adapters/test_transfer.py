"""Tensors on their way to the device: as they are on the CPU, without a wait on a GPU."""

import time

import pytest
import torch

from mmalign.adapters._transfer import sent

GPU = torch.device("cuda")


def test_on_the_cpu_nothing_is_copied() -> None:
    values = torch.arange(6.0)
    there = sent(values, torch.device("cpu"))
    assert there is values and not there.is_pinned()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gets_the_values_while_it_works() -> None:
    """16 MB, behind work of about a second; the memory they leave from was locked before."""
    values = torch.randn(64, 16, 64, 64)
    assert torch.equal(sent(values, GPU).cpu(), values)
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)
    began = time.perf_counter()
    there = sent(values, GPU)
    waited = time.perf_counter() - began
    torch.cuda.synchronize()
    worked = time.perf_counter() - began
    assert waited < worked / 2 and worked > 0.2
    assert torch.equal(there.cpu(), values)
