"""Scores as a user would write them, for judge python_function."""

from typing import Any


def length(prompts: list[str], responses: list[Any]) -> list[float]:
    """Letters of each response less those of its prompt."""
    return [len(response) - len(prompt) for prompt, response in zip(prompts, responses, strict=True)]


def letters(prompts: list[str], responses: list[str]) -> list[dict[str, float]]:
    """Two scores and their total."""
    return [{"a": r.count("a"), "b": r.count("b"), "score": r.count("a") - r.count("b")} for r in responses]


def count_a(prompts: list[str], responses: list[str]) -> list[float]:
    """How often a is in it."""
    return [response.count("a") for response in responses]


def count_b(prompts: list[str], responses: list[str]) -> list[float]:
    """How often b is in it."""
    return [response.count("b") for response in responses]


def count_c(prompts: list[str], responses: list[str]) -> list[float]:
    """How often c is in it."""
    return [response.count("c") for response in responses]


def too_few(prompts: list[str], responses: list[str]) -> list[float]:
    """One score, whatever is asked."""
    return [1.0]


def words(prompts: list[str], responses: list[str]) -> list[str]:
    """No numbers."""
    return ["good" for _ in responses]


def one_number(prompts: list[str], responses: list[str]) -> float:
    """No list."""
    return 1.0


def one_text(response: str) -> float:
    """Takes something else."""
    return float(len(response))


CALLS: list[int] = []


def counted(prompts: list[str], responses: list[str]) -> list[float]:
    """Notes how many responses it is given at a time."""
    CALLS.append(len(responses))
    return [0.0 for _ in responses]


TABLE = {"a": 1}
