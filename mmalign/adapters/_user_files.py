"""Users of a denoiser on disk: a file beside LoRA's or a pipeline's, and given vectors read from another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mmalign.adapters._loading import read_tensors, readable_errors
from mmalign.adapters._user_branches import attach, branches
from mmalign.adapters._user_config import User
from mmalign.adapters._users import Users, fresh, users_of
from mmalign.types import UserError

FILE = "users.safetensors"
_TABLE = "table"


def add_users(denoiser: nn.Module, user: User, where: str) -> None:
    """Make a UNet know users, in place, as `model.user` says. Raises UserError, starting with `where` or the
    file, for vectors of other sizes and for branches of another network."""
    saved = {} if user.path is None else read_tensors(Path(user.path) / FILE)
    if user.embeddings is not None:
        names, table = _given(Path(user.embeddings), user)
    else:
        names, table = _learned(saved, user, where)
    attach(denoiser, Users(names, table, user.embeddings is not None, user.learn))
    if saved:
        _fill(denoiser, saved, f"model.user.path {user.path}")


def save_users(model: nn.Module, folder: Path) -> None:
    """Write a model's users, if it knows any, into a folder that is there."""
    table = users_of(model)
    if table is None:
        return
    tensors = {_TABLE: table.table}
    for name, branch in branches(model).items():
        tensors |= {f"{name}.{key}": value for key, value in branch.state_dict().items()}
    ready = {name: value.detach().cpu().contiguous().clone() for name, value in sorted(tensors.items())}
    save_file(ready, folder / FILE, metadata={"users": json.dumps(table.names)})


def _given(file: Path, user: User) -> tuple[list[str], Tensor]:
    vectors = read_tensors(file)
    for name, vector in vectors.items():
        whole = vector[None] if vector.ndim == 1 else vector
        if whole.shape != (user.tokens, user.width) or not bool(torch.isfinite(whole).all()):
            raise UserError(
                f"model.user.embeddings {file}: {name} must hold finite numbers of shape [{user.tokens}, "
                f"{user.width}] (user.tokens and width), got shape {list(vector.shape)}"
            )
    if not vectors:
        raise UserError(f"model.user.embeddings {file}: holds no vectors")
    names = sorted(vectors)
    return names, torch.stack([vectors[name].float().reshape(user.tokens, user.width) for name in names])


def _learned(saved: Mapping[str, Tensor], user: User, where: str) -> tuple[list[str], Tensor]:
    """Vectors as saved for known users; the mean of the saved ones, or fresh, for others."""
    if not saved:
        return list(user.names), fresh(user.names, user.tokens, user.width)
    known = dict(zip(_names(Path(str(user.path)) / FILE), saved[_TABLE].float(), strict=True))
    wanted = list(user.names) or list(known)
    mean = saved[_TABLE].float().mean(0)
    if mean.shape != (user.tokens, user.width):
        raise UserError(
            f"{where}: user.path {user.path} holds {mean.shape[0]} tokens of width {mean.shape[1]}; set "
            "user.tokens and user.width to these"
        )
    return wanted, torch.stack([known.get(name, mean).clone() for name in wanted])


def _names(file: Path) -> list[str]:
    with readable_errors(str(file)), safe_open(file, framework="pt") as opened:
        return [str(name) for name in json.loads((opened.metadata() or {}).get("users", "[]"))]


def _fill(denoiser: nn.Module, saved: Mapping[str, Tensor], where: str) -> None:
    """Put saved branches into the denoiser's."""
    own = {
        f"{n}.{key}": p for n, branch in branches(denoiser).items() for key, p in branch.named_parameters()
    }
    if own.keys() != saved.keys() - {_TABLE} or any(saved[n].shape != p.shape for n, p in own.items()):
        raise UserError(f"{where}: its branches are of another network, or of another user.width")
    for name, parameter in own.items():
        parameter.data.copy_(saved[name])
