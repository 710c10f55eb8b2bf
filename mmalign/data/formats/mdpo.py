"""mDPO rows (arXiv 2406.11839): a picture, a prompt, maybe in a chat template, and two answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._markers import place_markers, refuse_markers, user_turn
from mmalign.data._records import LABELS
from mmalign.data._templated import is_templated, untemplated
from mmalign.data._turns import Reader

_SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Mdpo(Format):
    """`img_path`, `prompt`, `chosen`, `rejected`.

    A prompt with the marks of roles (USER: and ASSISTANT:, Human: and Assistant:, ChatML, [INST]) is taken
    apart into its turns, for the model's own template; one of another form is refused. A marker `<image>` is
    the picture's place; without one it comes first.
    """

    columns = LABELS | {"img_path", "prompt", *_SIDES}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The path, the prompt and the answers."""
        needed = ("img_path", "prompt", *_SIDES)
        return needed if all(name in row for name in needed) else ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """The turns of the prompt, with the picture in its place."""
        made = {key: row[key] for key in LABELS if row.get(key) is not None}
        reader.media(row.get("img_path"), "image", "img_path")
        made["images"] = [row["img_path"]]
        text = reader.text(row.get("prompt"), "prompt")
        if is_templated(text):
            turns = untemplated(text)
            if turns is None:
                rule = "holds marks of a chat template that cannot be taken apart; write the turns as a list"
                raise reader.fail("prompt", f"{rule} of {{role, content}}")
            made["prompt"] = place_markers(turns, "prompt", {"image": 1}, reader, front=True)
        else:
            made["prompt"] = user_turn(text, "prompt", {"image": 1}, reader)
        made |= {side: refuse_markers(row.get(side), side, reader) for side in _SIDES}
        return Converted(made, {"images": "img_path"})
