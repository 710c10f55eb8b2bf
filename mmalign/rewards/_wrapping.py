"""What stands around a prompt in what a rewriter of prompts is asked: put there, and taken away again."""

from __future__ import annotations

from mmalign.types import UserError

PLACE = "{prompt}"


def check_template(template: str) -> None:
    """Raise ValueError unless a template has the place of the prompt once."""
    if template.count(PLACE) != 1:
        raise ValueError(f"template: must hold {PLACE} once, got {template!r:.80}")


def wrapped(prompt: str, template: str) -> str:
    """What a rewriter is asked of a prompt."""
    return template.replace(PLACE, prompt)


def unwrapped(text: str, template: str) -> str:
    """The prompt in what a rewriter is asked. Raises UserError where that does not follow the template."""
    before, after = template.split(PLACE)
    if len(text) < len(before) + len(after) or not (text.startswith(before) and text.endswith(after)):
        raise UserError(
            f"painted: template: the prompt does not follow it: {text!r:.80}; give what the rewriter is asked"
        )
    return text[len(before) : len(text) - len(after)]
