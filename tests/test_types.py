"""The seam's records: row order, and seeds."""

import pytest
import torch

from mmalign.types import Batch, UserError, derive_seed


def test_rows_of_a_role_come_by_sample_and_slot() -> None:
    """Sample 0 has a ranked list of three, sample 1 of two; rows lie in any order."""
    batch = Batch(
        inputs={},
        roles=("prompted", "ranked"),
        row_role=torch.tensor([1, 1, 0, 1, 1, 0, 1]),
        row_sample=torch.tensor([1, 0, 1, 0, 1, 0, 0]),
        row_slot=torch.tensor([1, 2, 0, 0, 0, 0, 1]),
        sample_ids=("a", "b"),
    )
    assert batch.rows_of("ranked").tolist() == [3, 6, 1, 4, 0]
    assert batch.rows_of("prompted").tolist() == [5, 2]
    with pytest.raises(ValueError, match="tuple"):
        batch.rows_of("absent")


# ---------------------------------------------------------------- seeds


def test_seeds_have_fixed_values() -> None:
    """The first 64 bits of BLAKE2b over the four fields, halved; computed with a separate program."""
    assert derive_seed(7, 0, "pair-1", "draw") == 0xD3F81CA7EAFC4570 >> 1
    assert derive_seed(0, 2, "\u00e9", "view") == 0xFB5010298105F1FB >> 1


def test_every_field_makes_another_seed() -> None:
    seeds = {
        derive_seed(run, epoch, sample, purpose)
        for run in range(3)
        for epoch in range(3)
        for sample in ("", "a", "b", "1", "11")
        for purpose in ("draw", "view", "")
    }
    assert len(seeds) == 3 * 3 * 5 * 3
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_fields_do_not_run_into_each_other() -> None:
    assert derive_seed(1, 11, "x", "draw") != derive_seed(11, 1, "x", "draw")
    assert derive_seed(0, 0, "ab", "c") != derive_seed(0, 0, "a", "bc")


def test_seeds_of_neighbouring_samples_are_unrelated() -> None:
    """About half of the bits differ, and first draws average to the middle."""
    seeds = [derive_seed(0, 0, str(i), "draw") for i in range(400)]
    flips = [(a ^ b).bit_count() for a, b in zip(seeds, seeds[1:], strict=False)]
    assert 29 < sum(flips) / len(flips) < 34
    draws = [torch.rand((), generator=torch.Generator().manual_seed(seed)).item() for seed in seeds]
    assert abs(sum(draws) / len(draws) - 0.5) < 0.06


def test_any_string_has_a_seed() -> None:
    assert derive_seed(0, 0, "\ud800", "draw") != derive_seed(0, 0, "\ud801", "draw")


def test_a_user_error_is_a_value_error() -> None:
    assert issubclass(UserError, ValueError)
