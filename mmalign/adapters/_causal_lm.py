"""The text adapter: rows of token ids in, exact log-probabilities of every response token out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmalign.adapters import _loading, _sequences, _tokens
from mmalign.adapters._describe import text_view
from mmalign.adapters._sequences import end_ids, layout
from mmalign.adapters._text_sampling import Answers, answer, evaluating, sample_ids
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
)

if TYPE_CHECKING:
    from mmalign.adapters.text import Text


class CausalLM(Answers):
    """Any `AutoModelForCausalLM`; with `classifier` also an `AutoModelForSequenceClassification`, which has
    hidden states but no log-probabilities."""

    def __init__(
        self, config: Text, device: torch.device, dtype: torch.dtype, classifier: bool = False
    ) -> None:
        files = _loading.LANGUAGE_MODEL_FILES + (("*.bin",) if config.allow_pickle else ())
        folder = _loading.resolve_folder(config.path, config.revision, files)
        wanted = dtype if config.dtype is None else _loading.DTYPES[config.dtype]
        self._classifier = classifier and _loading.holds_classifier(folder)
        model, tokenizer = _loading.load_causal_lm(
            folder, wanted, config.attention, config.allow_pickle, self._classifier
        )
        self.config = config
        self.device = device
        self.policy: nn.Module = model.to(device)
        self.tokenizer = tokenizer
        self.frames = None  # reads no videos
        self.parts = {"language": [name for name, _ in model.named_parameters()]}
        self.kind: Kind = config.kind
        self.offers = config.offers
        self.media = config.media
        self.lora_targets: str | list[str] = "all-linear"
        self.positions = _loading.num_positions(model)
        self.rules = self._rules(folder)
        rows = model.get_input_embeddings().weight.shape[0]
        _tokens.refuse_wide_tokenizer(tokenizer.get_vocab(), rows, str(folder))
        self.end_ids = () if self._classifier else end_ids(model, tokenizer)
        self._pad_id = tokenizer.pad_token_id or 0  # never attended to: padding stands on the right
        # what the model can place bounds its rows but does not shape those that fit
        self._fingerprint = _tokens.fingerprint(tokenizer, replace(self.rules, limit=config.max_length))

    def _rules(self, folder: Path) -> _tokens.Rules:
        banned = _tokens.special_tokens(self.tokenizer)
        return _sequences.rules_of(self.config, self.tokenizer, self.positions, banned, folder)

    # ------------------------------------------------------------ rows

    def check(self, sample: PreferenceSample, roles: Sequence[str]) -> tuple[str, ...]:
        """What is shortened in the sample. Raises UserError with the reason if it cannot be scored."""
        found = _tokens.tokenize_sample(self.tokenizer, sample, roles, self.rules)
        return tuple("responses cut to fit" for tokens in found.values() if tokens.cut)

    def prepare(self, sample: PreferenceSample, roles: Sequence[str]) -> Prepared:
        """Tokenise: every row gets `ids` [T] long and `start` [1], the first scored place."""
        found = _tokens.tokenize_sample(self.tokenizer, sample, roles, self.rules)
        rows = tuple(
            Row(
                role,
                slot,
                {
                    "ids": torch.tensor(tokens.ids, dtype=torch.long),
                    "start": torch.tensor([tokens.start]),
                },
            )
            for (role, slot), tokens in found.items()
        )
        return Prepared(sample.id, rows)

    def describe(self, row: Row) -> RowView:
        """Numbers of tokens, and their text."""
        return text_view(self.tokenizer, row, self.rules.limit)

    def encode(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        """Nothing to run: token ids are what the model reads."""
        return list(prepared)

    def shape_of(self, sample: Prepared) -> tuple[int, ...]:
        """Rows of any length stand in one batch."""
        return ()

    def fingerprint(self) -> str:
        """Hash of tokenizer files and of the settings that shape rows."""
        return self._fingerprint

    def collate(self, encoded: Sequence[Prepared], roles: Sequence[str]) -> Batch:
        """Rows of the given roles, role by role, right-padded to the longest, on the adapter's device.

        `inputs`: `input_ids` [N, T]; for the M scored tokens `source` (place in the flattened [N * T] whose
        hidden state predicts it), `target` (its id), `place` (where it goes in the flattened [N * K]);
        `index` [N, K] (its number among M, -1 at padding).
        """
        return _sequences.batch_of(encoded, roles, self._inputs)

    def _inputs(self, rows: Sequence[Row]) -> dict[str, Any]:
        texts = [(row.data["ids"], int(row.data["start"])) for row in rows]
        return {key: value.to(self.device) for key, value in layout(texts, self._pad_id).items()}

    # ------------------------------------------------------------ scores

    def draw(self, batch: Batch, seeds: Sequence[int]) -> Draw:
        """Nothing about scoring text is random."""
        return {}

    def logprobs(self, model: nn.Module, batch: Batch, draw: Draw, needs: frozenset[str]) -> LogProbs:
        """Log-probability of every response token; the output head sees response positions only, in tiles.

        Rows are right-padded and attention is causal, so no mask is passed: padding is never looked at.
        """
        if model is not self.policy:
            _loading.refuse_long(model, batch.inputs["input_ids"].shape[1])
        return _sequences.score(model, self.hidden(model, batch), batch, needs)

    def hidden(self, model: nn.Module, batch: Batch) -> Tensor:
        """Hidden states below the output head, [N, T, H]."""
        decoder = model.get_decoder()  # type: ignore[operator]
        states: Tensor = decoder(input_ids=batch.inputs["input_ids"], use_cache=False).last_hidden_state
        return states

    def ends(self, batch: Batch) -> Tensor:
        """Place of the token that a reward head reads, [N]: a row's last. A classifier reads the last that is
        not its padding token, as its library does; only where that token also ends responses it differs."""
        last: Tensor = batch.inputs["length"] - 1
        pad = self.policy.config.get_text_config().pad_token_id  # type: ignore[operator, union-attr]
        if not self._classifier or pad is None:
            return last
        ids = batch.inputs["input_ids"]
        place = torch.arange(ids.shape[1], device=ids.device)
        return (place * ((ids != pad) & (place <= last[:, None]))).argmax(-1)

    @torch.no_grad()
    def self_check(self, model: nn.Module, batch: Batch, draw: Draw) -> float:
        """Largest difference between our log-probs and those from the model's own logits, on the batch's
        shortest row scored alone and without padding; of a classifier its score. Above 1e-4 in float32 (5e-2
        in bfloat16) is a fault."""
        inputs = batch.inputs
        with evaluating(model):
            row = int(inputs["length"].argmin())
            ids = inputs["input_ids"][row : row + 1, : int(inputs["length"][row])]
            logits = model(input_ids=ids, use_cache=False).logits[0].float()
            if self._classifier:
                states = self.hidden(model, batch)[row, self.ends(batch)[row]]
                return float((model.get_submodule("score")(states) - logits).abs().max())
            ours = self.logprobs(model, batch, draw, frozenset())
        theirs = torch.log_softmax(logits[:-1], dim=-1).gather(-1, ids[0, 1:, None]).squeeze(-1)
        mine = ours.values[row][ours.mask[row]]
        return float((mine - theirs[-len(mine) :]).abs().max())

    # ------------------------------------------------------------ responses

    def generate(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        """One response per prompt, by `model.generation` of the config; each depends on its own seed only.

        Raises UserError for a prompt that leaves no place for a token.
        """
        ids = [
            _tokens.tokenize_prompt(self.tokenizer, prompt, f"prompt {i}", self.rules)
            for i, prompt in enumerate(prompts)
        ]
        return self._answers(model, ids, seeds)

    def complete(
        self,
        model: nn.Module,
        prompts: Sequence[tuple[Message, ...]],
        begun: Sequence[str],
        seeds: Sequence[int],
    ) -> list[Part]:
        """What follows the given beginning of each answer, as `Completer` has it. Raises UserError as
        `generate` does."""
        ids = [
            _tokens.tokenize_begun(self.tokenizer, prompt, text, f"prompt {i}", self.rules)
            for i, (prompt, text) in enumerate(zip(prompts, begun, strict=True))
        ]
        return self._answers(model, ids, seeds)

    def _answers(self, model: nn.Module, ids: Sequence[list[int]], seeds: Sequence[int]) -> list[Part]:
        settings = self.config.generation
        _sequences.refuse_full([len(prompt) for prompt in ids], self.rules.limit)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # little padding within a batch
        found: dict[int, Part] = {}
        with evaluating(model):
            for begin in range(0, len(order), settings.batch):
                chosen = order[begin : begin + settings.batch]
                found |= self._answer(model, {i: ids[i] for i in chosen}, {i: seeds[i] for i in chosen})
        return [found[i] for i in range(len(ids))]

    def _answer(
        self, model: nn.Module, prompts: dict[int, list[int]], seeds: dict[int, int]
    ) -> dict[int, Part]:
        settings, limit = self.config.generation, self.rules.limit

        def stopped(new: list[int]) -> bool:
            text = self.tokenizer.decode(new, skip_special_tokens=True)
            return any(end in text for end in settings.stop)

        new = sample_ids(
            model,
            list(prompts.values()),
            list(seeds.values()),
            settings,
            self.end_ids,
            limit,
            stopped if settings.stop else None,
        )
        found = {}
        for (i, prompt), ids in zip(prompts.items(), new, strict=True):
            room = settings.max_new_tokens if limit is None else limit - len(prompt)
            found[i] = answer(self._decode(prompt, ids), settings, len(ids), room)
        return found

    def _decode(self, prompt: list[int], response: list[int]) -> str:
        """Text of a response; decoding it alone would lose a leading space with some tokenizers."""
        before = self.tokenizer.decode(prompt, skip_special_tokens=True)
        whole = self.tokenizer.decode(prompt + response, skip_special_tokens=True)
        if whole.startswith(before):
            return str(whole[len(before) :])
        return str(self.tokenizer.decode(response, skip_special_tokens=True))

    # ------------------------------------------------------------ memory and files

    def enable_checkpointing(self) -> None:
        """Recompute layer activations in backward (acts while the policy is in training mode)."""
        _sequences.recompute_activations(self.policy)

    def save(self, model: nn.Module, folder: Path, lora: str | None) -> None:
        """Write what transformers loads, or with `lora` the PEFT folder of that adapter."""
        task = None if self._classifier else "CAUSAL_LM"
        _sequences.save(model, self.tokenizer, folder, lora, self.config.path, task)
