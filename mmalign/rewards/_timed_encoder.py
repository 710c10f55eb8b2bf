"""The towers of a CLIP model that is told how noisy a picture was, loaded from what people have.

Letters: B pictures, E width of an embedding, h and w the sides of the model's input, L tokens of a text.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmalign.rewards._encoders import TransformersEncoder
from mmalign.rewards._loading import Place, load_encoder
from mmalign.rewards._timed_clip import FILE, TimedClip
from mmalign.types import UserError

log = logging.getLogger(__name__)


class TimedEncoder(TransformersEncoder):
    """Two towers of which the picture's takes timesteps; without them it reads finished pictures, timestep 0.
    `timed` is the model itself, for training."""

    timed: TimedClip
    _unused: Any  # the tokenizer as it came: calls leave their padding and cutting in what it would save

    @classmethod
    def of(cls, plain: TransformersEncoder, timed: TimedClip) -> TimedEncoder:
        """The encoder of a plain CLIP model, which `timed` holds, with its conditioning."""
        made = cls(timed.clip, plain._processor, plain._tokenizer, plain.recipe, plain.device)
        made._unused = copy.deepcopy(plain._tokenizer)
        made.timed = timed.to(plain.device).eval().requires_grad_(False)
        return made

    def at(self, inputs: Tensor, timesteps: Sequence[int] | Tensor) -> Tensor:
        """Embeddings [B, E] of length 1 of model inputs [B, 3, h, w] denoised from timesteps [B]."""
        told = torch.as_tensor(timesteps, device=self.device)
        with torch.autocast(self.device.type, enabled=False):
            return F.normalize(self.timed.pictures(inputs.to(self.device), told).float(), dim=-1)

    def pictures_at(self, pictures: Sequence[Image.Image], timesteps: Sequence[int]) -> Tensor:
        """Embeddings [B, E] of length 1 of RGB pictures denoised from timesteps [B]."""
        return self.at(self.load(pictures), timesteps)

    def _see(self, inputs: Tensor) -> Tensor:
        return self.timed.pictures(inputs, torch.zeros(len(inputs), dtype=torch.long, device=self.device))

    def ids(self, text: str) -> Tensor:
        """Tokens and their mask of a text, cut and padded to what the model takes, [2, L] long on the CPU."""
        tokens = self._tokenizer(
            text, padding="max_length", truncation=True, max_length=self.limit, return_tensors="pt"
        )
        return torch.stack([tokens["input_ids"][0], tokens["attention_mask"][0]])

    def vocabulary(self) -> str:
        """What tells this tokenizer from others."""
        return f"{self.limit}/{sorted(self._tokenizer.get_vocab().items())}"

    def save(self, model: TimedClip, folder: Path) -> None:
        """The files of `model`, with tokenizer and preprocessor beside them."""
        folder.mkdir(parents=True, exist_ok=True)
        model.save(folder)
        self._unused.save_pretrained(folder)
        self._processor.save_pretrained(folder)


def load_timed(
    place: Place, release: str | None, device: torch.device, seed: int | None = None
) -> TimedEncoder:
    """The towers in `place.path`, a transformers CLIP folder or hub id, with the conditioning that lies in
    the folder; `release` names a checkpoint of the authors' code, whose weights replace all of these.

    With a `seed` a CLIP model without conditioning is given a fresh one, under which it scores as it did.
    Raises UserError for what is not there or does not fit, and without a seed for a model of which nothing
    was trained on noise.
    """
    path = Path(place.path).expanduser()
    if path.is_file() or place.path.startswith("hf-hub:"):
        raise UserError(
            f"{place.judge}: path: must be a transformers CLIP folder or hub id, got {place.path}; a "
            "checkpoint of the authors' code goes in checkpoint"
        )
    plain = load_encoder(replace(place, architecture=None), device)
    if not isinstance(plain, TransformersEncoder):
        raise UserError(f"{place.judge}: path: {place.path} is open_clip's; must be a transformers folder")
    timed, own = TimedClip(plain.model), (path / FILE).is_file()
    if release is not None:
        timed.load_release(Path(release).expanduser(), f"{place.judge}: checkpoint")
    elif own:
        timed.load_time(path, f"{place.judge}: path")
    elif seed is not None:
        timed.time.fill(seed)
    else:
        raise UserError(
            f"{place.judge}: path: {place.path} has no {FILE}: a plain CLIP model, which judges no noisy "
            "pictures; train it with adapter step_preference, or name the authors' file in checkpoint"
        )
    return TimedEncoder.of(plain, timed)
