"""Small samples for the tests of this folder."""

import torch

from mmalign.types import Example, Message, Part, PreferenceSample, Prepared, Row


def text_prompt(text: str) -> tuple[Message, ...]:
    return (Message("text", (Part("text", text),)),)


def example(prompt: str, response: str, **labels: float) -> Example:
    return Example(text_prompt(prompt), (Part("text", response),), labels)


def pair(name: str, prompt: str | None = None, **labels: object) -> PreferenceSample:
    prompt = prompt or f"prompt {name}"
    examples = {role: (example(prompt, f"{role} {name}"),) for role in ("chosen", "rejected")}
    return PreferenceSample(name, examples, labels, 1.0, f"test row {name}")


def single(name: str, prompt: str | None = None) -> PreferenceSample:
    examples = {"completion": (example(prompt or f"prompt {name}", f"answer {name}"),)}
    return PreferenceSample(name, examples, {"binary": 1.0}, 1.0, f"test row {name}")


def text_of(sample: PreferenceSample, role: str) -> tuple[str, str]:
    """Prompt and response of the only example of a role."""
    (one,) = sample.examples[role]
    return (
        "".join(part.data for turn in one.prompt for part in turn.parts),
        "".join(part.data for part in one.response),
    )


def prepare(sample: PreferenceSample, roles: tuple[str, ...]) -> Prepared:
    """What an adapter would do: one row per role that holds the bytes of prompt and response."""
    rows = []
    for role in roles:
        ids = torch.tensor(list("|".join(text_of(sample, role)).encode()))
        rows.append(Row(role, 0, {"ids": ids}))
    return Prepared(sample.id, tuple(rows))


def text_of_row(row: Row) -> str:
    return bytes(row.data["ids"].tolist()).decode()
