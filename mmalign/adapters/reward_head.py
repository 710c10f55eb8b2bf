"""Reward model: any adapter that reads sequences, with a head that scores a response at its end."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from mmalign._build import build_named
from mmalign._names import KINDS, class_of
from mmalign.adapters._score_head import Head
from mmalign.types import Kind, UserError

if TYPE_CHECKING:
    from mmalign.adapters._reward import RewardAdapter


@dataclass(frozen=True)
class RewardHead:
    """A backbone (the section of another adapter), the head on it, and the names of the head's scores.

    The head reads the last layer's hidden state at the last token of the row, padding left out. The backbone
    may also be a transformers sequence classifier; its score layer is then the head.
    """

    kind: ClassVar[Kind] = "reward"
    offers: ClassVar[frozenset[str]] = frozenset({"reward", "aspects", "written"})

    backbone: dict[str, Any]  # adapter: text, path: ...; every field of that adapter
    head: Head = field(default_factory=Head)  # the layer that makes scores of the last hidden state
    aspects: tuple[str, ...] = ("score",)  # one score each; with several, their mean is the total
    critiques: bool = False  # the model first writes a critique of the response; for objective critique_rm

    def __post_init__(self) -> None:
        if not self.aspects or len(set(self.aspects)) != len(self.aspects):
            raise ValueError(f"aspects: must be one or more different names, got {list(self.aspects)}")
        if not all(name.strip() for name in self.aspects):
            raise ValueError("aspects: a name must not be empty")
        whole = {"adapter": self.backbone.get("adapter"), **dataclasses.asdict(self.part)}
        object.__setattr__(self, "backbone", whole)  # defaults written out, as in every other section

    @cached_property
    def part(self) -> Any:
        """The backbone's own config. Raises UserError for an adapter that no head can sit on."""
        name = self.backbone.get("adapter")
        if not isinstance(name, str):
            raise UserError("backbone.adapter: name the adapter below the head, such as text")
        if ":" in name:
            raise UserError(f"backbone.adapter: must be an adapter of this package, got {name!r}")
        cls: Any = class_of(KINDS["model"], name, "backbone")
        if "hidden" not in cls.offers:
            raise UserError(f"backbone.adapter: {name} has no hidden states at a response's end; use text")
        return build_named(KINDS["model"], self.backbone, "backbone", allow_code=False)

    @property
    def dtype(self) -> str | None:
        """The backbone's type where it is frozen; the head is float32."""
        chosen: str | None = self.part.dtype
        return chosen

    @property
    def media(self) -> frozenset[str]:
        """Kinds of media that the backbone reads in a prompt."""
        read: frozenset[str] = self.part.media
        return read

    def at(self, folder: str) -> RewardHead:
        """The same model with backbone and head as they lie in another folder."""
        moved = {**self.backbone, "path": folder, "revision": None, "dtype": None}
        return dataclasses.replace(self.with_head(folder), backbone=moved)

    def with_head(self, folder: str) -> RewardHead:
        """The same model with the head of another folder."""
        return dataclasses.replace(self, head=dataclasses.replace(self.head, init="load", path=folder))

    def glance(self) -> None:
        """Raise UserError where backbone or head are plainly not where they should be; reads no weights."""
        from mmalign.adapters._loading import glance_at, holds_classifier
        from mmalign.adapters._score_head import has_head, read_settings

        with naming_the_backbone(self.part):
            self.part.glance(below_head=True)
        if self.head.init == "fresh":
            return
        if self.head.path is not None:
            read_settings(Path(self.head.path).expanduser())
            return
        folder, _ = glance_at(self.part.path, self.part.revision)
        if has_head(folder) or not holds_classifier(folder):
            read_settings(folder)

    def build(self, device: torch.device, dtype: torch.dtype = torch.float32) -> RewardAdapter:
        """Load backbone and head. Raises UserError, also for a head that is not there."""
        from mmalign.adapters._reward import RewardAdapter

        with naming_the_backbone(self.part):
            return RewardAdapter(self, self.part.build_backbone(device, dtype))

    @staticmethod
    def open(folder: Path, device: torch.device) -> RewardAdapter:
        """A saved reward model: what a run wrote into final/, LoRA merged, or a sequence classifier."""
        from mmalign.adapters import _reward

        config = build_named(KINDS["model"], _reward.saved_section(folder), str(folder), allow_code=False)
        adapter: RewardAdapter = config.build(device)
        if (folder / "adapter_config.json").is_file():
            adapter.merge_lora(folder)
        return adapter


@contextmanager
def naming_the_backbone(part: Any, section: str = "backbone") -> Iterator[None]:
    """Refusals of an inner adapter name its fields as `section` has them, one level down."""
    try:
        yield
    except UserError as error:
        names = "|".join(one.name for one in dataclasses.fields(part))
        line = re.sub(rf"(?<!/)\bmodel\.(?=({names})\b)", f"model.{section}.", str(error))
        raise UserError(line) from error
