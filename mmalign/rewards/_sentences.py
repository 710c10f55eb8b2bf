"""Texts as vectors by a sentence encoder, as the library sentence-transformers saves them, without it.

Letters: B texts, T tokens, E width of an embedding.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmalign.rewards._loading import readable
from mmalign.types import UserError

_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_KNOWN = ("Transformer", "Pooling", "Normalize")
_MEAN, _FIRST = "pooling_mode_mean_tokens", "pooling_mode_cls_token"
_AT_ONCE = 32


class SentenceEncoder:
    """A frozen encoder in float32 with its tokenizer, whose last states are pooled to one vector."""

    def __init__(self, model: Any, tokenizer: Any, limit: int, pooling: str, device: torch.device) -> None:
        """`limit`: tokens of a text that are read; `pooling`: mean, over all tokens, or first."""
        self.model = model.to(device).eval().requires_grad_(False)
        self.limit, self.pooling, self.device = limit, pooling, device
        self._tokenizer = tokenizer

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [B, E] of length 1 on the CPU, float32; what is longer than the limit is cut there. On a
        CPU texts go one by one: what a text gives must not depend, in its last bit, on its neighbours."""
        step = 1 if self.device.type == "cpu" else _AT_ONCE
        parts = [self._embedded(texts[begin : begin + step]) for begin in range(0, len(texts), step)]
        return torch.cat(parts) if parts else torch.zeros(0, self.model.config.hidden_size)

    def _embedded(self, texts: Sequence[str]) -> Tensor:
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.limit, return_tensors="pt"
        ).to(self.device)
        states: Tensor = self.model(**tokens).last_hidden_state
        if self.pooling == "first":
            pooled = states[:, 0]
        else:
            mask = tokens["attention_mask"].unsqueeze(-1).to(states)
            pooled = (states * mask).sum(1) / mask.sum(1)
        return F.normalize(pooled.float(), dim=-1).cpu()


def refuse_absent(path: str, where: str) -> None:
    """Raise UserError for a path that can be no hub id and is no folder."""
    is_path = path.startswith((".", "/", "~")) or path.endswith("/")
    if is_path and not Path(path).expanduser().is_dir():
        raise UserError(f"{where}: there is no folder {path}")


def load_sentences(path: str, where: str, device: torch.device) -> SentenceEncoder:
    """The encoder in a folder or of a hub id, such as sentence-transformers/all-mpnet-base-v2; one without a
    pooling of its own is read by the mean.

    Raises UserError, starting with `where`, for what is not there, cannot be read or pools otherwise.
    """
    from huggingface_hub import snapshot_download
    from transformers import AutoModel, AutoTokenizer

    refuse_absent(path, where)
    folder = Path(path).expanduser()
    if not folder.is_dir():
        try:
            with readable(f"{where}: {path}"):
                folder = Path(snapshot_download(path, allow_patterns=list(_FILES)))
        except UserError as error:
            raise UserError(
                f"{where}: {path}: is no folder here, and the hub does not give it "
                f"({type(error.__cause__).__name__}); name a local folder, or null, which compares words"
            ) from error.__cause__
    if not (folder / "config.json").is_file():
        raise UserError(f"{where}: there is no config.json in {path}")
    modules = _json(folder / "modules.json", where, [])
    for kind in (str(module.get("type", "")).rpartition(".")[2] for module in modules):
        if kind not in _KNOWN:
            raise UserError(f"{where}: {path}: has a layer {kind}, and only {', '.join(_KNOWN)} are read")
    pooling = _pooling(_json(folder / "1_Pooling" / "config.json", where, {_MEAN: True}), f"{where}: {path}")
    with readable(f"{where}: {path}"):
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    own = _json(folder / "sentence_bert_config.json", where, {}).get("max_seq_length")
    most = min(int(tokenizer.model_max_length), int(model.config.max_position_embeddings))
    return SentenceEncoder(model, tokenizer, min(int(own or most), most), pooling, device)


def _json(file: Path, where: str, missing: Any) -> Any:
    if not file.is_file():
        return missing
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {file}: cannot be read: {error}") from error
    if not isinstance(found, type(missing)):
        raise UserError(f"{where}: {file}: must hold a {type(missing).__name__}")
    return found


def _pooling(settings: dict[str, Any], where: str) -> str:
    wanted = sorted(name for name, value in settings.items() if name.startswith("pooling_mode_") and value)
    if wanted == [_MEAN]:
        return "mean"
    if wanted == [_FIRST]:
        return "first"
    raise UserError(f"{where}: pools by {', '.join(wanted) or 'nothing'}; only {_MEAN} or {_FIRST} is read")
