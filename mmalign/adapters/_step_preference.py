"""The step-preference adapter: the denoiser's rows in, one score of what it predicts from noise out.

Letters: N rows, U different captions, L tokens of a caption as the CLIP model takes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters._score_head import scored
from mmalign.adapters.reward_head import naming_the_backbone
from mmalign.adapters.step_preference import StepPreference
from mmalign.types import (
    Batch,
    Draw,
    Kind,
    LogProbs,
    Message,
    Part,
    PreferenceSample,
    Prepared,
    Row,
    RowView,
    UserError,
)

TEXT = "judge_text"
"""Of an encoded row: tokens of its caption and their mask, [2, L] long; of a batch all different ones."""
_PLACE = "judge_place"  # of a batch: which of them is each row's, [N]
_LORA = "lora: a step-aware preference model trains whole; remove the section"


class StepPreferenceAdapter:
    """A CLIP model with a conditioning on timesteps, and the frozen denoiser that makes what it reads."""

    kind: Kind = StepPreference.kind
    offers: frozenset[str] = StepPreference.offers
    media: frozenset[str] = StepPreference.media

    def __init__(self, config: StepPreference, towers: Any, denoiser: Denoiser) -> None:
        """`towers`: a TimedEncoder of the judge of this name. Raises UserError for a model of clips."""
        if denoiser.num_frames is not None:
            raise UserError("model.path: it makes clips, and pictures are judged; name a model of pictures")
        self.config, self.denoiser = config, denoiser
        self._towers = towers
        self.policy: nn.Module = towers.timed.requires_grad_(True)
        self.parts = towers.timed.parts()
        self.device, self.frames = denoiser.device, denoiser.frames
        denoiser.policy.requires_grad_(False).eval()
        self._fingerprint: str | None = None

    @property
    def lora_targets(self) -> str | list[str]:
        """None: raises UserError. The conditioning on timesteps is new, and the rest has to follow it."""
        raise UserError(_LORA)

    # ------------------------------------------------------------ rows: the denoiser's, with tokens

    def check(self, sample: PreferenceSample, roles: Sequence[str]) -> Sequence[str]:
        """What is shortened or enlarged in the sample. Raises UserError if it cannot be scored."""
        with naming_the_backbone(self.config.part, "denoiser"):
            return self.denoiser.check(sample, roles)

    def prepare(self, sample: PreferenceSample, roles: Sequence[str]) -> Prepared:
        """Rows as the denoiser reads them."""
        return self.denoiser.prepare(sample, roles)

    def describe(self, row: Row) -> RowView:
        """The caption and the picture."""
        return self.denoiser.describe(row)

    def encode(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        """Rows as the denoiser encodes them, with the CLIP model's tokens of their captions."""
        said = (row.data["caption"] for sample in prepared for row in sample.rows)
        tokens = iter([self._towers.ids(caption) for caption in said])
        done = []
        for sample in self.denoiser.encode(prepared):
            own = list(islice(tokens, len(sample.rows)))
            rows = [
                replace(row, data={**row.data, TEXT: ids}) for row, ids in zip(sample.rows, own, strict=True)
            ]
            done.append(replace(sample, rows=tuple(rows)))
        return done

    def shape_of(self, sample: Prepared) -> tuple[int, ...]:
        """What the denoiser's batches must have in common."""
        return self.denoiser.shape_of(sample)

    def fingerprint(self) -> str:
        """Hash of what shapes rows: the denoiser's frozen encoders and the CLIP model's tokenizer."""
        if self._fingerprint is None:
            text = f"{self.denoiser.fingerprint()}/step preference/{self._towers.vocabulary()}"
            self._fingerprint = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return self._fingerprint

    def collate(self, encoded: Sequence[Prepared], roles: Sequence[str]) -> Batch:
        """Rows of the given roles as one batch; every different caption stands in it once."""
        batch = self.denoiser.collate(encoded, roles)
        said = [
            row.data[TEXT] for sample in encoded for role in roles for row in sample.rows if row.role == role
        ]
        keys = [ids.numpy().tobytes() for ids in said]
        different = dict(zip(keys, said, strict=True))
        place = {key: i for i, key in enumerate(different)}
        text = {
            TEXT: torch.stack(list(different.values())).to(self.device),
            _PLACE: torch.tensor([place[key] for key in keys], device=self.device),
        }
        return replace(batch, inputs={**batch.inputs, **text})

    def draw(self, batch: Batch, seeds: Sequence[int]) -> Draw:
        """Noise and its level, one per sample, shared by its rows."""
        return self.denoiser.draw(batch, seeds)

    # ------------------------------------------------------------ scores

    def logprobs(self, model: nn.Module, batch: Batch, draw: Draw, needs: frozenset[str]) -> LogProbs:
        """Scores of what the denoiser predicts from every row, [N, 1], float32: higher is better."""
        inputs, level = self._seen(batch, draw)
        text = batch.inputs[TEXT]
        values = model(inputs, level, text[:, 0], text[:, 1], batch.inputs[_PLACE])[:, None]
        return scored(values, batch)

    @torch.no_grad()
    def _seen(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
        """Inputs [N, 3, h, w] of the picture tower and the levels [N] that they were predicted from."""
        pixels, level = self.denoiser.foreseen(self.denoiser.policy, batch, draw, self.config.guidance)
        return self._towers.recipe.apply(pixels), level

    @torch.no_grad()
    def self_check(self, model: Any, batch: Batch, draw: Draw) -> float:
        """Difference of the first row's score from that of upstream's own forward, which the conditioning is
        hooked onto, in cosines: what scores are multiplied by differs between models."""
        inputs, level = self._seen(batch, draw)
        text, place = batch.inputs[TEXT], batch.inputs[_PLACE][:1]
        score = self.logprobs(model, batch, draw, frozenset()).values[:1, 0]
        seen = model.by_upstream(inputs[:1], level[:1]).float()
        said = model.texts(text[:, 0], text[:, 1]).float()[place]
        ours = score / model.logit_scale.float().exp()
        return float((ours - torch.cosine_similarity(seen, said)).abs().max())

    def generate(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        """A preference model makes nothing: raises UserError."""
        raise UserError(
            "a preference model scores pictures and makes none; to judge rounds by it, set online.judge of "
            "another run to {name: step_preference, path: THIS RUN/final}"
        )

    # ------------------------------------------------------------ memory and files

    def enable_checkpointing(self) -> None:
        """Recompute the blocks of both towers in backward."""
        self._towers.timed.checkpointing = True
        self._towers.timed.clip.text_model.activation_checkpointing_enable()

    def save(self, model: nn.Module, folder: Path, lora: str | None) -> None:
        """The CLIP model in upstream format with tokenizer and preprocessor, and the conditioning beside
        them. Raises UserError for a LoRA adapter."""
        if lora is not None:
            raise UserError(_LORA)
        self._towers.save(model, folder)
