"""Text: any causal language model transformers loads, scored exactly, one log-probability per token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from mmalign.adapters._text_sampling import Sampling
from mmalign.types import Kind

if TYPE_CHECKING:
    from mmalign.adapters._causal_lm import CausalLM


@dataclass(frozen=True)
class Text:
    """A causal language model and how text reaches it."""

    kind: ClassVar[Kind] = "exact"
    offers: ClassVar[frozenset[str]] = frozenset(
        {"ratio", "length", "absolute", "probability", "units", "tokens", "distribution", "hidden"}
    )
    media: ClassVar[frozenset[str]] = frozenset()

    path: str  # folder or hub id
    revision: str | None = None  # of a hub id
    # of frozen weights; auto: as the files have it; null: bfloat16 under LoRA with train.precision bf16
    dtype: Literal["float32", "bfloat16", "auto"] | None = None
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"  # auto: sdpa where it exists
    max_length: int | None = None  # tokens of prompt and response together; null: what the model can place
    # what becomes of rows above max_length; prompts are never cut
    over_long: Literal["refuse", "cut_response"] = "refuse"
    append_eos: bool = True  # after responses that no chat template ends; the end token is scored
    allow_pickle: bool = False  # also accept .bin weights, read by torch's restricted unpickler
    generation: Sampling = field(default_factory=Sampling)  # how responses are sampled

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise ValueError("path: must name a folder or hub id, got an empty string")
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(f"max_length: must be 2 or more, got {self.max_length}")

    def glance(self, below_head: bool = False) -> None:
        """Raise UserError where the folder is plainly no language model with its weights, before any row is
        read; below a reward head a sequence classifier is one."""
        from mmalign.adapters._loading import check_weights, glance_at, refuse_no_causal_lm

        folder, whole = glance_at(self.path, self.revision)
        refuse_no_causal_lm(folder, below_head)
        if whole:
            check_weights(folder, allow_pickle=self.allow_pickle)

    def build(self, device: torch.device, dtype: torch.dtype = torch.float32) -> CausalLM:
        """Load model and tokenizer; `dtype` holds where the field of that name is null. Raises UserError."""
        from mmalign.adapters._causal_lm import CausalLM

        return CausalLM(self, device, dtype)

    def build_backbone(self, device: torch.device, dtype: torch.dtype = torch.float32) -> CausalLM:
        """The same below a reward head, where a sequence classifier will do too."""
        from mmalign.adapters._causal_lm import CausalLM

        return CausalLM(self, device, dtype, classifier=True)
