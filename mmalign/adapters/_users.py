"""Who a picture is for: vectors of users, which a denoiser attends to (PPD, arXiv 2501.06655).

They are the policy's alone: a frozen reference is the same network with its users switched off. A vector of
zeros adds nothing whatever was learned, and stands for the neutral mode.

Letters: U users, T tokens of a user, W their width, B noised latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmalign.types import UserError, derive_seed

NAME = "users"  # of the table among the denoiser's modules
INDEX = "user"  # of a row's place in the table, -1 without one, among what the denoiser is told
_SCALE = 1.0  # deviation of fresh vectors, whose maps are linear layers after it


class UserPart(nn.Module):
    """Weights that train whole beside LoRA, in float32."""


class Users(UserPart):
    """Vectors [U, T, W] by name, learned or given; `off` inside a frozen source."""

    def __init__(
        self, names: Sequence[str], table: Tensor, given: bool, learn: Literal["all", "vectors"]
    ) -> None:
        super().__init__()
        self.names, self.learn = tuple(names), learn
        self.off = False
        self.current: Tensor | None = None  # [T, W] of whom is sampled for
        self.given = given
        if given:
            self.register_buffer("table", table)
        else:
            self.table = nn.Parameter(table)

    def told(self, index: Tensor | None, count: int) -> Tensor | None:
        """Vectors [B, T, W] of rows at places [B], zeros at -1; without places, of whom is sampled for."""
        if self.off:
            return None
        if index is not None:
            present = (index >= 0).to(self.table.dtype).reshape(-1, 1, 1)
            return self.table[index.clamp(min=0)] * present
        return None if self.current is None else self.current.expand(count, -1, -1)

    def blended(self, shares: Mapping[str, float]) -> Tensor:
        """The weighted sum of users' vectors, [T, W]. Raises UserError for a user without one."""
        for name in shares:
            if name not in self.names:
                known = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
                raise UserError(f"user {name!r}: has no vector in this run; known: {known}")
        return torch.stack([share * self.table[self.names.index(n)] for n, share in shares.items()]).sum(0)


def fresh(names: Sequence[str], tokens: int, width: int) -> Tensor:
    """Vectors [U, T, W] to begin with, each from its name alone, and of length about sqrt(W)."""
    streams = [torch.Generator().manual_seed(derive_seed(0, 0, name, "user vector")) for name in names]
    return torch.stack([_SCALE * torch.randn(tokens, width, generator=stream) for stream in streams])


def users_of(model: nn.Module) -> Users | None:
    """The table of a model; None without one."""
    found = model._modules.get(NAME)
    return found if isinstance(found, Users) else None


def parts_of(policy: nn.Module) -> dict[str, list[str]]:
    """Names of a denoiser's weights, those that read users apart."""
    parts: dict[str, list[str]] = {"denoiser": [], "users": []}
    users = {id(p) for m in policy.modules() if isinstance(m, UserPart) for p in m.parameters()}
    for name, parameter in policy.named_parameters():
        parts["users" if id(parameter) in users else "denoiser"].append(name)
    return parts if users else {"denoiser": parts["denoiser"]}


def freeze_for(policy: nn.Module) -> None:
    """Leave nothing but the vectors to train where only they are to be learned."""
    table = users_of(policy)
    if table is not None and table.learn == "vectors":
        policy.requires_grad_(False)
        table.table.requires_grad_(True)


def speak_already(policy: nn.Module) -> bool:
    """True if the branches add something: the policy is then no longer its reference."""
    outputs = [p for name, p in policy.named_parameters() if name.endswith("user_out.weight")]
    return any(bool(p.any()) for p in outputs)


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """No users inside the block, whoever is told: a frozen source knows none."""
    table = users_of(model)
    before = table is not None and table.off
    if table is not None:
        table.off = True
    try:
        yield
    finally:
        if table is not None:
            table.off = before


def turn_off(model: nn.Module) -> None:
    """No users in this model from now on."""
    if (table := users_of(model)) is not None:
        table.off = True


@contextmanager
def speaking_for(model: nn.Module, shares: Mapping[str, float]) -> Iterator[None]:
    """Media are sampled for one user, or for a blend of several {name: share}, inside the block. Raises
    UserError for a model without users and for a user without a vector."""
    table = users_of(model)
    if table is None:
        raise UserError("user: this run's model knows no users (section model.user)")
    table.current = table.blended(shares).detach()
    try:
        yield
    finally:
        table.current = None


def shares_of(text: str) -> dict[str, float]:
    """ "alice", or "alice=0.3,bob=0.7". Raises UserError for another form."""
    if "=" not in text:
        return {text: 1.0}
    found: dict[str, float] = {}
    for piece in text.split(","):
        name, _, share = piece.rpartition("=")
        try:
            found[name.strip()] = float(share)
        except ValueError:
            raise UserError(f"user: must be a name, or name=share,name=share, got {text!r}") from None
    return found


def drop_users(seeds: Sequence[int], chance: float) -> Tensor:
    """Whether each sample is scored without its user, [S] bool, from streams of their own."""
    streams = [torch.Generator().manual_seed(derive_seed(seed, 0, "", "user")) for seed in seeds]
    return torch.stack([torch.rand((), generator=stream) < chance for stream in streams])


def by_user(policy: nn.Module, users: Any, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Metrics [n] apart for users with a vector ("name/seen_users") and without ("name/unseen_users"), NaN
    where a sample is of the other kind, or of none; empty for a model without users. `users`: the samples'
    labels, a list, or a tensor [n] where they are numbers, NaN for none."""
    table = users_of(policy)
    if table is None or users is None:
        return {}
    named = [_name(user) for user in (users.tolist() if isinstance(users, Tensor) else users)]
    seen = torch.tensor([name in table.names for name in named])
    unseen = torch.tensor([name is not None and name not in table.names for name in named])
    found = {}
    for name in ("loss", "accuracy", "implicit_acc", "reward/margin"):
        if name in metrics:
            values = metrics[name]
            for kind, held in (("seen", seen), ("unseen", unseen)):
                found[f"{name}/{kind}_users"] = torch.where(held.to(values.device), values, torch.nan)
    return found


def _name(user: Any) -> str | None:
    """A label `user` as a name: whole numbers come back from tensors as floats."""
    if user is None or user != user:
        return None
    return str(int(user)) if isinstance(user, float) else str(user)
