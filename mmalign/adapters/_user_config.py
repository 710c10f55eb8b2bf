"""The section `model.user` of a denoiser that is told who a picture is for. Loads no model library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class User:
    """Vectors of users, [tokens, width] each, in the policy alone: the reference knows none (PPD).

    A row's label `user` says whose preference it is; a row without it, or of a user without a vector, is
    scored in the neutral mode, and so is a share `dropout` of the draws. `names`: users whose vectors are
    learned. `embeddings`: a safetensors file of given vectors by name instead, [tokens, width] or [width],
    which stay as they are. `path`: a folder that a run wrote users.safetensors to; users named here that it
    does not hold begin with the mean of those it holds. `learn: vectors` trains the vectors alone, all else
    frozen, LoRA included: a few pairs are enough for a new user.
    """

    names: tuple[str, ...] = ()  # users whose vectors are learned
    # safetensors file of given vectors by name, [tokens, width] or [width]; they stay as they are
    embeddings: str | None = None
    path: str | None = None  # folder that a run wrote users.safetensors to, whose vectors are the first ones
    tokens: int = 4  # vectors of a user
    width: int = 64  # numbers in each of them
    dropout: float = 0.1  # share of draws that are scored without the user's vectors
    learn: Literal["all", "vectors"] = "all"  # the denoiser too (or its LoRA), or the vectors alone

    def __post_init__(self) -> None:
        if not self.names and self.embeddings is None and self.path is None:
            raise ValueError("user.names: give the users' names, or embeddings, or the path of a run's users")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"user.names: each name once, got {list(self.names)}")
        if self.names and self.embeddings is not None:
            raise ValueError("user.names: the file of user.embeddings names the users; remove one of the two")
        if self.embeddings is not None and self.learn == "vectors":
            raise ValueError("user.learn=vectors: those of user.embeddings are given; remove one of the two")
        if self.learn == "vectors" and self.path is None:
            raise ValueError("user.learn=vectors: needs user.path, the branches that are to read the vectors")
        if min(self.tokens, self.width) < 1:
            raise ValueError(f"user.tokens and width: must be 1 or more, got {self.tokens} and {self.width}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"user.dropout: must lie in [0, 1), got {self.dropout}")
