"""Vision- and video-language models behind the seam: the text adapter's scores, with media in the prompt."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmalign.adapters import _loading, _sequences, _tokens
from mmalign.adapters._describe import seeing_view
from mmalign.adapters._sequences import end_ids
from mmalign.adapters._text_sampling import Answers, evaluating
from mmalign.adapters._vision_attention import attended
from mmalign.adapters._vision_batch import batch_inputs, row_data, row_key, units_of, with_media
from mmalign.adapters._vision_config import VisionOptions
from mmalign.adapters._vision_loading import limit_pixels, limit_tiles, load_vision_lm
from mmalign.adapters._vision_media import (
    GROUP,
    KINDS,
    TOWER,
    Unit,
    answering,
    encode_units,
    fitted,
    pixel_name,
    run_tower,
    together,
)
from mmalign.adapters._vision_parts import (
    core_of,
    freeze,
    has_one_projector,
    lora_sites,
    parts_of,
    reads_both_ways,
    unread_of,
)
from mmalign.adapters._vision_places import Medium, media_of
from mmalign.adapters._vision_processor import markers_of
from mmalign.adapters._vision_rows import Reader, Seen
from mmalign.adapters._vision_sampling import sample_answers
from mmalign.adapters._vision_vectors import picture_vectors
from mmalign.types import (
    Attended,
    Batch,
    Draw,
    Frames,
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

_FILES = (*_loading.LANGUAGE_MODEL_FILES,)


class VisionLM(Answers):
    """Any `AutoModelForImageTextToText`.

    Data of a row, before `encode`: `ids` [T], `start` [1], `token.<name>` [T] and `row.<name>` (other outputs
    of the processor), and for its i-th medium `<kind>.<i>.digest` [16] with `<kind>.<i>.<tensor>`, what the
    tower reads; `clips` [media] tells clips that are handed over as pictures. Where tower and projector are
    frozen, `encode` puts `<kind>.<i>.features` in their place; where only the tower is, it adds
    `<kind>.<i>.tower`, what the projector reads.
    """

    def __init__(self, config: VisionOptions, device: torch.device, dtype: torch.dtype) -> None:
        files = _FILES + (("*.bin",) if config.allow_pickle else ())
        folder = _loading.resolve_folder(config.path, config.revision, files)
        wanted = dtype if config.dtype is None else _loading.DTYPES[config.dtype]
        model, processor = load_vision_lm(folder, wanted, config.attention, config.allow_pickle)
        limit_pixels(processor, config.min_pixels, config.max_pixels)
        limit_tiles(processor, model, config.max_tiles)
        self.config = config
        self.device = device
        self.policy: nn.Module = model.to(device)
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.kind: Kind = config.kind
        self.offers = config.offers
        self.media: frozenset[str] = type(config).media  # type: ignore[attr-defined]
        self.frames: Frames | None = config.clips
        self.parts = parts_of(model)
        self._unread = unread_of(model)
        freeze(model, self.parts, config.trains)
        self.positions = _loading.num_positions(model)
        self.end_ids = end_ids(model, self.tokenizer)
        self.reader = self._reader(folder)
        rows = model.get_input_embeddings().weight.shape[0]
        _tokens.refuse_wide_tokenizer(self.tokenizer.get_vocab(), rows, str(folder))
        self.pad_id = self.tokenizer.pad_token_id or 0  # behind the row's end, and masked
        self._fingerprint: str | None = None
        self._probe: tuple[Row, Row] | None = None  # a row with media before and after `encode`

    def _reader(self, folder: Path) -> Reader:
        config, tokenizer = self.config, self.tokenizer
        markers, ids = markers_of(self.processor, self.policy, self.media)
        absent = sorted(self.media - set(markers))
        if "image" in absent or (absent and self.frames is not None):
            raise UserError(f"{folder}: its processor reads no {absent[0]}s; use another adapter or model")
        apart = reads_both_ways(self.policy)
        if apart and config.plain_prompts == "chat":
            raise UserError(
                f"{folder}: reads its prompt both ways and its answer as a suffix, which no chat template "
                "writes; set model.plain_prompts: raw and give plain text"
            )
        if config.plain_prompts == "chat" and self.processor.chat_template is None:
            raise UserError(
                f"{folder}: has no chat template; set model.plain_prompts: raw and give plain text"
            )
        banned = tuple(sorted({*_tokens.special_tokens(tokenizer), *markers.values()}))
        rules = _sequences.rules_of(config, tokenizer, self.positions, banned, folder)
        return Reader(self.processor, rules, self.media, config.plain_prompts, markers, ids, apart)

    @cached_property
    def lora_targets(self) -> str | list[str]:
        """A pattern of the linear layers of the parts in `trains`. Raises UserError for a part without."""
        return lora_sites(self.policy, self.parts, self.config.trains)

    @cached_property
    def keeps(self) -> Literal["features", "tower", "pixels"]:
        """What of a medium is computed once and kept: what is frozen. Not asked before LoRA is in place."""
        moving = {_base(n) for n, p in self.policy.named_parameters() if p.requires_grad}
        if moving & set(self.parts["vision"]):
            return "pixels"
        if moving & set(self.parts["projector"]):
            return "tower" if has_one_projector(core_of(self.policy)) else "pixels"
        return "features"

    # ------------------------------------------------------------ rows

    def check(self, sample: PreferenceSample, roles: Sequence[str]) -> tuple[str, ...]:
        """What is shortened in the sample. Raises UserError with the reason if it cannot be scored."""
        found = self.reader.sample(sample, roles)
        return tuple("responses cut to fit" for seen in found.values() if seen.cut)

    def prepare(self, sample: PreferenceSample, roles: Sequence[str]) -> Prepared:
        """Run the processor: every row gets the tensors that the class names."""
        found = self.reader.sample(sample, roles)
        rows = []
        for (role, slot), seen in found.items():
            data = row_data(seen)
            key = row_key(data) if self.keeps != "pixels" and seen.units else None
            rows.append(Row(role, slot, data, key))
        return Prepared(sample.id, tuple(rows))

    def describe(self, row: Row) -> RowView:
        """Numbers of tokens by kind, their text with media in short, and the sizes that the tower reads."""
        return seeing_view(self.reader, row, units_of(row))

    @torch.no_grad()
    def encode(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        """Run the frozen tower once per distinct medium; nothing to do where part of it trains."""
        done = list(prepared) if self.keeps == "pixels" else self._encoded(prepared)
        if self._probe is None:
            rows = zip(
                (row for one in prepared for row in one.rows),
                (row for one in done for row in one.rows),
                strict=True,
            )
            self._probe = next((pair for pair in rows if units_of(pair[0])), None)
        return done

    def _encoded(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        units = {u.digest: u for one in prepared for row in one.rows for u in units_of(row)}
        listed = list(units.values())
        core = core_of(self.policy)
        with evaluating(self.policy):
            if self.keeps == "features":
                # alone on a CPU: what is kept must not depend, in its last bit, on who was encoded beside it
                at_once = 1 if self.device.type == "cpu" else GROUP
                found = encode_units(core, listed, self.device, at_once)
                kept = [{"features": features.cpu()} for features in found]
            else:
                kept = [{**u.tensors, TOWER: run_tower(core, u, self.device).cpu()} for u in listed]
        by_digest = {unit.digest: tensors for unit, tensors in zip(listed, kept, strict=True)}
        return [replace(one, rows=tuple(with_media(row, by_digest) for row in one.rows)) for one in prepared]

    def shape_of(self, sample: Prepared) -> tuple[int, ...]:
        """Rows of any length stand in one batch."""
        return ()

    def fingerprint(self) -> str:
        """Hash of processor files, libraries, settings that shape rows, and a frozen tower's weights."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            rules = replace(self.reader.rules, limit=self.config.max_length)
            digest.update(_tokens.fingerprint(self.processor, rules, "pillow", "torchvision").encode())
            frames = "" if self.frames is None else _fingerprint_of(self.frames)
            settings = [self.config.plain_prompts, frames]  # bounds on pictures are in the processor's files
            digest.update(json.dumps(settings).encode())
            if self.keeps != "pixels":
                frozen = ("vision", "projector") if self.keeps == "features" else ("vision",)
                kept = {name for part in frozen for name in self.parts[part]}
                for name, value in self.policy.named_parameters():
                    if _base(name) in kept:
                        digest.update(f"{_base(name)}:{value.dtype}:{tuple(value.shape)}".encode())
                        flat = value.detach().contiguous().reshape(-1).cpu()
                        digest.update(flat.view(torch.uint8).numpy().tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def collate(self, encoded: Sequence[Prepared], roles: Sequence[str]) -> Batch:
        """Rows of the given roles, role by role, right-padded to the longest, on the adapter's device.

        `inputs`: the text adapter's (`input_ids` [N, T], `source`, `target`, `place`, `index`, `length`),
        `forward`, further inputs of the model's forward, and per kind of media `<kind>.distinct`, features
        or units once each, with `<kind>.order`, which of them every place of the batch shows.
        """
        return _sequences.batch_of(encoded, roles, lambda rows: batch_inputs(rows, self.pad_id, self.device))

    # ------------------------------------------------------------ scores

    def draw(self, batch: Batch, seeds: Sequence[int]) -> Draw:
        """Nothing about scoring is random."""
        return {}

    def logprobs(self, model: nn.Module, batch: Batch, draw: Draw, needs: frozenset[str]) -> LogProbs:
        """Log-probability of every response token; the output head sees response positions only, in tiles."""
        if model is not self.policy:
            _loading.refuse_long(model, batch.inputs["input_ids"].shape[1])
        return _sequences.score(model, self.hidden(model, batch), batch, needs)

    def hidden(self, model: nn.Module, batch: Batch) -> Tensor:
        """Hidden states below the output head, [N, T, H]; every distinct medium is encoded at most once."""
        core = core_of(model)
        inputs = batch.inputs
        found = {kind: self._features(core, inputs, kind) for kind in KINDS}
        features = fitted(core, inputs["input_ids"], self.reader.ids, found)
        with answering(core, features) as pixels:
            hidden: Tensor = core(
                input_ids=inputs["input_ids"], use_cache=False, **inputs["forward"], **pixels
            ).last_hidden_state
        if self.keeps != "features" and torch.is_grad_enabled():
            # a batch without media must still give every trainable weight a gradient, or processes would
            # disagree about what to average; so must LoRA on a layer whose output is never read
            none = not any(features.values())
            own = {*self.parts["vision"], *self.parts["projector"]} if none else self._unread
            unused = [p for n, p in model.named_parameters() if p.requires_grad and _base(n) in own]
            hidden = hidden + sum((p.sum() * 0.0 for p in unused), hidden.new_zeros(()))
        return hidden

    def ends(self, batch: Batch) -> Tensor:
        """Place of every row's last token, [N], which a reward head reads."""
        last: Tensor = batch.inputs["length"] - 1
        return last

    def _features(self, core: nn.Module, inputs: Mapping[str, Any], kind: str) -> list[Tensor]:
        kept = inputs.get(f"{kind}.distinct", [])
        if kept and isinstance(kept[0], Unit):
            kept = encode_units(core, kept, self.device)
        return [kept[place] for place in inputs.get(f"{kind}.order", [])]

    @torch.no_grad()
    def self_check(self, model: nn.Module, batch: Batch, draw: Draw) -> float:
        """Largest difference between our log-probs and those from the model's own logits, on one row scored
        alone, its pixels given to the model's own forward."""
        with evaluating(model):
            if self._probe is not None:
                before, after = self._probe
                single = self.collate([Prepared("", (after,))], [after.role])
                ours = self.logprobs(model, single, draw, frozenset())
                return self._against_upstream(model, before, ours.values[0][ours.mask[0]])
            assert not any(f"{kind}.distinct" in batch.inputs for kind in KINDS), (
                "rows that were never encoded"
            )
            ours = self.logprobs(model, batch, draw, frozenset())
            row = int(batch.inputs["length"].argmin())
            ids = batch.inputs["input_ids"][row, : int(batch.inputs["length"][row])]
            return self._against_upstream(model, Row("", 0, {"ids": ids}), ours.values[row][ours.mask[row]])

    def _against_upstream(self, model: nn.Module, row: Row, ours: Tensor) -> float:
        whole = row.data["ids"].to(self.device)
        # without the last token: a model that looked ahead would show itself
        ids = whole[None, :-1]
        given: dict[str, Tensor] = {"attention_mask": torch.ones_like(ids)}
        for name, value in row.data.items():
            if name.startswith("token."):
                given[name.removeprefix("token.")] = value[None, :-1].to(self.device)
            if name.startswith("row."):
                given[name.removeprefix("row.")] = value.to(self.device)
        for kind in KINDS:
            pixels = together([unit for unit in units_of(row) if unit.kind == kind])
            given |= {pixel_name(model, n): value.to(self.device) for n, value in pixels.items()}
        logits = model(input_ids=ids, use_cache=False, **given).logits[0].float()
        theirs = torch.log_softmax(logits, dim=-1).gather(-1, whole[1:, None]).squeeze(-1)
        return float((ours - theirs[-len(ours) :]).abs().max())

    # ------------------------------------------------------------ responses

    def generate(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        """One response per prompt (media decoded), by `model.generation` of the config; each depends on its
        own seed only. Raises UserError for a prompt that leaves no place for a token."""
        return self.complete(model, prompts, [""] * len(prompts), seeds)

    def complete(
        self,
        model: nn.Module,
        prompts: Sequence[tuple[Message, ...]],
        begun: Sequence[str],
        seeds: Sequence[int],
        visible: Sequence[Tensor | None] | None = None,
    ) -> list[Part]:
        """What follows the given beginning of each answer, as `HidingCompleter` has it. Raises UserError as
        `generate` does, and for a mask that does not fit the prompt's media."""
        asked = zip(prompts, begun, strict=True)
        seen = [self.reader.begun(prompt, text, f"prompt {i}") for i, (prompt, text) in enumerate(asked)]
        _sequences.refuse_full([len(one.ids) for one in seen], self.reader.rules.limit)
        with evaluating(model), torch.no_grad():
            return sample_answers(self, model, seen, seeds, visible)

    @torch.no_grad()
    def media_tokens(self, prompts: Sequence[tuple[Message, ...]]) -> list[tuple[int, ...]]:
        """How many places each medium of a prompt (decoded) takes, in order. Raises UserError where the media
        of a prompt cannot be told apart."""
        found = []
        for number, prompt in enumerate(prompts):
            seen = self.reader.prompt(prompt, f"prompt {number}")
            found.append(tuple(len(one.places) for one in self._media(seen, prompt)))
        return found

    def attend(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], layer: int | float
    ) -> list[Attended]:
        """A greedy answer to every prompt with what it attended to, as `Attentive` has it; of
        `model.generation` the length and the batch count."""
        seen = [self.reader.prompt(prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
        _sequences.refuse_full([len(one.ids) for one in seen], self.reader.rules.limit)
        media = [self._media(one, prompt) for one, prompt in zip(seen, prompts, strict=True)]
        with evaluating(model), torch.no_grad():
            return attended(self, model, seen, media, layer)

    def picture_vectors(self, model: nn.Module, pictures: Sequence[Part]) -> Tensor:
        """One vector per picture (decoded) from the model's vision tower, as `Seeing` has it."""
        with evaluating(model), torch.no_grad():
            return picture_vectors(self.reader, model, pictures, self.device)

    @property
    def merge(self) -> int:
        """Patches of a picture that one place stands for, on each side, where they keep their grid."""
        model: Any = self.policy
        return int(getattr(model.config.vision_config, "spatial_merge_size", 1))

    def _media(self, seen: Seen, prompt: Sequence[Message]) -> list[Medium]:
        """The media of a prompt with their places."""
        own = self.reader.ids  # a clip's frames are pictures to a family that knows no clips
        shown = (part for message in prompt for part in message.parts if part.kind != "text")
        kinds = Counter(str(part.kind) if part.kind in own else "image" for part in shown)
        core = core_of(self.policy)

        def size(unit: Unit) -> int:
            return encode_units(core, [unit], self.device)[0].shape[:-1].numel()

        with evaluating(self.policy):
            return media_of(seen, self.reader.ids, kinds, size)

    # ------------------------------------------------------------ memory and files

    def enable_checkpointing(self) -> None:
        """Recompute layer activations in backward (acts while the policy is in training mode)."""
        _sequences.recompute_activations(self.policy)

    def save(self, model: nn.Module, folder: Path, lora: str | None) -> None:
        """Write what transformers loads, or with `lora` the PEFT folder of that adapter."""
        _sequences.save(model, self.processor, folder, lora, self.config.path)


def _fingerprint_of(frames: Frames) -> str:
    try:
        return frames.fingerprint()
    except ValueError as error:  # the reader is not installed
        raise UserError(f"model.frames.{error}") from error


def _base(name: str) -> str:
    """A weight's name without what LoRA adds to it."""
    name = name.replace(".base_layer.", ".")
    head, found, _ = name.partition(".lora_")
    return f"{head}.weight" if found else name
