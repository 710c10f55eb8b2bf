"""A picture tower and a text tower behind one interface, whichever library holds them.

Letters: B pictures or texts, E width of an embedding, h and w the sides of a model's input.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmalign.rewards._resize import Recipe

log = logging.getLogger(__name__)


class Encoder(ABC):
    """Two frozen towers in float32 with their preprocessing and tokenizer, on one device."""

    def __init__(self, model: Any, recipe: Recipe, limit: int, device: torch.device) -> None:
        """`limit`: tokens of a text that the model takes, start and end included."""
        self.model = model.to(device).eval().requires_grad_(False)
        self.recipe, self.limit, self.device = recipe, limit, device
        self.scale: float = model.logit_scale.exp().item()
        self._told = False

    @cached_property
    def width(self) -> int:
        """E, measured on an empty text."""
        return self.texts([""]).shape[1]

    @abstractmethod
    def load(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Model inputs [B, 3, h, w] on the CPU of RGB pictures, by the library's own preprocessing."""

    @abstractmethod
    def count(self, text: str) -> int:
        """Tokens of a text, start and end included, before anything is cut."""

    @abstractmethod
    def _see(self, inputs: Tensor) -> Tensor:
        """Projected picture features [B, E]."""

    @abstractmethod
    def _read(self, texts: list[str]) -> Tensor:
        """Projected text features [B, E]; what is longer than the model takes is cut at its end."""

    def pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Embeddings [B, E] of length 1 of RGB pictures."""
        return self._embed(self.load(pictures).to(self.device))

    def pixels(self, pixels: Tensor) -> Tensor:
        """Embeddings [B, E] of length 1 of float32 pictures [B, 3, H, W] in [0, 1], with their graph."""
        return self._embed(self.recipe.apply(pixels.to(self.device)))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [B, E] of length 1; equal texts run once. Says once if texts are too long to be read
        whole."""
        single = list(dict.fromkeys(texts))
        if not self._told and (long := [text for text in single if self.count(text) > self.limit]):
            self._told = True
            log.warning(
                "captions longer than the scorer's %d tokens are cut there: %d of %d, such as %r",
                self.limit, len(long), len(single), long[0][:60],
            )  # fmt: skip
        with torch.autocast(self.device.type, enabled=False):
            found = F.normalize(self._read(single).float(), dim=-1)
        return found[[single.index(text) for text in texts]]

    def _embed(self, inputs: Tensor) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            return F.normalize(self._see(inputs).float(), dim=-1)


class TransformersEncoder(Encoder):
    """A transformers CLIPModel with its processor and tokenizer."""

    def __init__(
        self, model: Any, processor: Any, tokenizer: Any, recipe: Recipe, device: torch.device
    ) -> None:
        super().__init__(model, recipe, model.config.text_config.max_position_embeddings, device)
        self._processor, self._tokenizer = processor, tokenizer

    def load(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Model inputs [B, 3, h, w] on the CPU."""
        found: Tensor = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return found

    def count(self, text: str) -> int:
        """Tokens of a text, start and end included."""
        return len(self._tokenizer(text, verbose=False)["input_ids"])

    def _see(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.model.get_image_features(pixel_values=inputs).pooler_output
        return features

    def _read(self, texts: list[str]) -> Tensor:
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self.limit, return_tensors="pt"
        ).to(self.device)
        features: Tensor = self.model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return features


class OpenClipEncoder(Encoder):
    """An open_clip model with the preprocessing and tokenizer that open_clip gives it."""

    def __init__(
        self, model: Any, preprocess: Callable[[Image.Image], Tensor], tokenizer: Any, recipe: Recipe,
        device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__(model, recipe, tokenizer.context_length, device)
        self._preprocess, self._tokenizer = preprocess, tokenizer

    def load(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Model inputs [B, 3, h, w] on the CPU."""
        return torch.stack([self._preprocess(picture) for picture in pictures])

    def count(self, text: str) -> int:
        """Tokens of a text, start and end included."""
        from open_clip.tokenizer import SimpleTokenizer

        if isinstance(self._tokenizer, SimpleTokenizer):
            return len(self._tokenizer.encode(text)) + 2
        return len(self._tokenizer.tokenizer(text)["input_ids"])

    def _see(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.model.encode_image(inputs)
        return features

    def _read(self, texts: list[str]) -> Tensor:
        features: Tensor = self.model.encode_text(self._tokenizer(texts).to(self.device))
        return features
