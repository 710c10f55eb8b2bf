"""ACC and ACC+: pairs that are right, and queries of which all are."""

from pathlib import Path

import pytest
from metrics.test_nlvr2 import write

from mmalign.measuring import measure_answers
from mmalign.metrics.mm_rlhf import MmRlhf
from mmalign.types import UserError


def test_pairs_and_queries(tmp_path: Path) -> None:
    """Query a: 2 of 2 right; b: 1 of 2; c: a tie. 3 of 5 pairs, 1 of 3 queries."""
    pairs = [("a", [2, 1]), ("a", [0.5, -1]), ("b", [3, 1]), ("b", [1, 3]), ("c", [1, 1])]
    path = write(tmp_path / "r.jsonl", [{"id": name, "rewards": pair} for name, pair in pairs])
    (found,) = measure_answers([Path(path)], [MmRlhf()])
    values = found.whole.sides["answers"]
    assert values["acc"].value == 0.6 and values["acc_plus"].value == pytest.approx(1 / 3)
    assert values["ties"].value == 0.2 and found.whole.num == 3 and found.notes == ()


@pytest.mark.parametrize("rewards", [[1], [1, "2"], [1, True], [1, 2, 3]])
def test_refusals(rewards: list[object], tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [{"id": "a", "rewards": rewards}])
    with pytest.raises(UserError, match="r.jsonl row 1: rewards must be two finite numbers"):
        MmRlhf().predictions(Path(path))
