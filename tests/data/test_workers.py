"""Results that come from a worker are those made in this process, tensors of every kind included."""

from typing import Any

import pytest
import torch
from PIL import Image

from mmalign.data._workers import run_jobs


def _make(number: int) -> dict[str, Any]:
    torch.manual_seed(number)
    return {
        "float": torch.randn(3, 4, requires_grad=True),
        "half": torch.randn(5).to(torch.bfloat16),
        "flag": torch.tensor([True, False]),
        "scalar": torch.tensor(number),
        "empty": torch.zeros(0, 3),
        "turned": torch.arange(6).reshape(2, 3).T,
        "picture": Image.new("RGB", (3, 2), (number, 0, 0)),
        "words": ("a", None, 1.5),
    }


@pytest.mark.multiprocess
def test_results_are_the_same_and_in_order() -> None:
    here = list(run_jobs(_make, range(6), 0, 60, str))
    there = list(run_jobs(_make, range(6), 2, 60, str))
    assert len(there) == 6
    for mine, theirs in zip(here, there, strict=True):
        for name, value in mine.items():
            if isinstance(value, torch.Tensor):
                assert theirs[name].dtype == value.dtype and torch.equal(theirs[name], value)
            elif isinstance(value, Image.Image):
                assert theirs[name].tobytes() == value.tobytes()
            else:
                assert theirs[name] == value
