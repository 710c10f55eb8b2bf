"""Actions that succeed on all processes or fail on all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from mmalign.training.world import World
from mmalign.types import UserError

T = TypeVar("T")


class WorldError(RuntimeError):
    """An action failed on at least one process; raised on all of them."""


def together(world: World, action: Callable[[], T]) -> list[T]:
    """Run `action` on every process and return all results in rank order.

    If it fails anywhere, all processes raise: UserError if that was the failure, WorldError otherwise.
    Without this agreement the healthy processes would wait for ever in the next collective.
    """
    result: T | None = None
    failure: tuple[str, bool] | None = None
    cause: Exception | None = None
    try:
        result = action()
    except Exception as error:
        cause, failure = error, (str(error) or type(error).__name__, isinstance(error, UserError))
    answers = world.gather((result, failure))
    for rank, (_, problem) in enumerate(answers):
        if problem is not None:
            text, user = problem
            named = text if world.size == 1 else f"rank {rank}: {text}"
            raise (UserError(text) if user else WorldError(named)) from cause
    return [value for value, _ in answers]


def on_main(world: World, action: Callable[[], T]) -> T:
    """Run `action` on rank 0 only; every process gets its result, or its error."""
    results = together(world, lambda: action() if world.is_main else None)
    first: Any = results[0]
    return first
