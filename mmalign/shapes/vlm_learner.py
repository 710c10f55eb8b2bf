"""The tiny vision-language model in training: one forward for many questions, and the losses.

The library's own forward knows one question per row. The rows of `vlm_batch.py` hold several that share a
picture, so the tower, the embeddings and the layers are called one after another with a mask of our own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Qwen2_5_VLForConditionalGeneration

from mmalign.shapes.clips import FPS
from mmalign.shapes.tiny_qwen_vl import HIDDEN, TEMPORAL_PATCH
from mmalign.shapes.vlm_batch import DENSE, Batch

NOTHING_WEIGHT = 0.3
"""What an empty cell counts in the dense loss: most cells are empty."""


@dataclass(frozen=True)
class Losses:
    """The loss of the answers, the dense loss, and per topic how many answers were right and how many given.

    An answer is right if every token of it is the likeliest one after the right tokens before it.
    """

    answers: Tensor
    dense: Tensor
    right: dict[str, tuple[int, int]]


class Learner(nn.Module):
    """The model, and linear heads that read the dense labels off the features of the tower."""

    def __init__(self, vlm: Qwen2_5_VLForConditionalGeneration) -> None:
        super().__init__()
        self.vlm = vlm
        self.heads = nn.Linear(HIDDEN, sum(DENSE.values()))

    def features(self, batch: Batch) -> Tensor:
        """What the tower sees in every cell [N * T, 96]."""
        seen: Tensor = self.vlm.model.visual(batch.pixels, grid_thw=batch.grids).pooler_output
        return seen

    def dense_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, tuple[int, int]]]:
        """Mean cross-entropy over the dense labels; and right and all for the cells that hold something."""
        losses, right = [], {}
        for index, (name, logits) in enumerate(self._split(features)):
            labels = batch.dense[:, index]
            if not (labels != -100).any():
                continue
            weight = torch.ones(logits.shape[1])
            if index < 4:
                weight[-1] = NOTHING_WEIGHT
            losses.append(cross_entropy(logits, labels, weight, ignore_index=-100))
            there = (labels != -100) & ((labels < logits.shape[1] - 1) | (index >= 4))
            right[f"cell_{name}"] = (
                int((logits.argmax(-1) == labels)[there].sum()),
                int(there.sum()),
            )
        return torch.stack(losses).mean(), right

    def _split(self, features: Tensor) -> list[tuple[str, Tensor]]:
        return list(zip(DENSE, self.heads(features).split(list(DENSE.values()), dim=1), strict=True))

    def hidden(self, features: Tensor, batch: Batch) -> Tensor:
        """Last hidden states [N, L, 96]; every question sees the picture and itself alone."""
        inner = self.vlm.model
        pad = self.vlm.config.video_token_id if batch.clips else self.vlm.config.image_token_id
        embeds = inner.get_input_embeddings()(batch.ids)
        embeds = embeds.masked_scatter((batch.ids == pad)[:, :, None], features)
        length, seen = batch.ids.shape[1], batch.segments[:, None, :]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        mask = causal & ((seen == 0) | (seen == batch.segments[:, :, None]))
        states: Tensor = inner.language_model(
            inputs_embeds=embeds,
            position_ids=self.positions(batch),
            attention_mask={"full_attention": mask[:, None]},
            use_cache=False,
        ).last_hidden_state
        return states

    def positions(self, batch: Batch) -> Tensor:
        """Positions [3, N, L]: those of the opening, shared by all rows; then each question starts anew."""
        size = int((batch.segments[0] == 0).sum())
        opening = batch.ids[:1, : size + 1]
        pad = self.vlm.config.video_token_id if batch.clips else self.vlm.config.image_token_id
        grids = {"video_grid_thw" if batch.clips else "image_grid_thw": batch.grids[:1]}
        seconds = torch.tensor([TEMPORAL_PATCH / FPS]) if batch.clips else None
        types = (opening == pad).int() * (2 if batch.clips else 1)
        first, _ = self.vlm.model.get_rope_index(opening, types, second_per_grid_ts=seconds, **grids)
        return each_anew(batch, first, size)

    def losses(self, batch: Batch) -> Losses:
        """Both losses of a batch, and what was right."""
        features = self.features(batch)
        dense, right = self.dense_loss(features, batch)
        labels, weights = batch.labels[:, 1:], batch.weights[:, 1:]
        scored = labels != -100
        logits = self.vlm.lm_head(self.hidden(features, batch)[:, :-1][scored])
        each = cross_entropy(logits, labels[scored], reduction="none")
        answers = (each * weights[scored]).sum() / weights.sum()
        wrong = torch.zeros_like(labels, dtype=torch.bool)
        wrong[scored] = logits.argmax(-1) != labels[scored]
        return Losses(answers, dense, right | _right(wrong, batch))


def each_anew(batch: Batch, opening: Tensor, size: int) -> Tensor:
    """Positions [3, N, L] of rows that share an opening of `size` tokens; `opening` [3, 1, size + 1] are its
    own and the next one. Every segment behind it starts where it ended."""
    places = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
    fresh = torch.ones_like(batch.segments, dtype=torch.bool)
    fresh[:, 1:] = batch.segments[:, 1:] != batch.segments[:, :-1]
    starts = torch.where(fresh, places, 0).cummax(1).values
    positions = (places - starts + opening[0, 0, size])[None].repeat(3, 1, 1)
    positions[:, :, :size] = opening[:, :, :size]
    return positions


def _right(wrong: Tensor, batch: Batch) -> dict[str, tuple[int, int]]:
    """Right and given answers per topic; `wrong` [N, L - 1] marks wrong tokens."""
    counts: dict[str, tuple[int, int]] = {}
    faults = {(row, int(batch.segments[row, place + 1])) for row, place in wrong.nonzero().tolist()}
    for row, turns in enumerate(batch.turns):
        for number, (question, _) in enumerate(turns, 1):
            good, given = counts.get(question.topic, (0, 0))
            counts[question.topic] = (good + ((row, number) not in faults), given + 1)
    return counts
