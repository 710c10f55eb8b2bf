"""A function of your own as a writer, named by package.module:function."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mmalign._names import call_own, check_function, function_of, refuse_misshapen
from mmalign.types import Message, UserError
from mmalign.writers._turns import given, refuse_uneven
from mmalign.writing import Writer


@dataclass(frozen=True)
class PythonFunction(Writer):
    """Calls function(turns, seed) -> str | None for every question: its answer, or None for no answer.

    `turns` are the messages of the question, `seed` is a non-negative int. A message has a speaker and parts,
    and a part a kind and data: turns[-1].parts[-1].data is the text that is asked, where kind is "text"; of
    kind "image" it is a PIL picture, of kind "video" a Clip with frames.
    """

    function: str = field(metadata={"imports": True})  # package.module:function

    def __post_init__(self) -> None:
        check_function(self.function)

    @cached_property
    def _call(self) -> Callable[[tuple[Message, ...], int], str | None]:
        return function_of(self.function, "python_function")

    def ready(self) -> None:
        """Import the function. Raises UserError if there is none, or one that takes something else."""
        form = "f(turns, seed) -> str | None"
        refuse_misshapen(self._call, self.function, "writer python_function", form, 2)

    def content(self) -> str:
        """A digest of the file of code that defines the function, "" where there is none; what that imports
        or reads is not in it. Raises UserError if there is no such function."""
        try:
            file = inspect.getsourcefile(inspect.unwrap(self._call))
        except TypeError:  # an object that can be called, or one without code in Python
            module = inspect.getmodule(type(self._call))
            file = None if module is None or module.__name__ == "builtins" else inspect.getsourcefile(module)
        if file is None or not Path(file).is_file():
            return ""
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()

    def write(self, questions: Sequence[tuple[Message, ...]], seeds: Sequence[int]) -> list[str | None]:
        """What the function answers. Raises UserError if that is neither a text nor None."""
        refuse_uneven(questions, seeds)
        return [self._answer(turns, seed) for turns, seed in zip(questions, seeds, strict=True)]

    def _answer(self, turns: tuple[Message, ...], seed: int) -> str | None:
        found = call_own(self._call, self.function, "writer python_function", turns, seed)
        if found is not None and not isinstance(found, str):
            raise UserError(
                f"python_function: {self.function}: must return a text or None, got {found!r:.60}"
            )
        return given(found)
