"""The reward adapter: rows as the backbone makes them, one score per aspect out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mmalign.adapters import _loading, _sequences
from mmalign.adapters._score_head import ScoreHead, has_head, load_head, read_settings, save_head, scored
from mmalign.adapters.reward_head import RewardHead, naming_the_backbone
from mmalign.types import (
    Adapter,
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

SCORE = "score"  # the head's name in the model; also that of a sequence classifier's own layer
_PLACE = ("path", "revision", "dtype", "generation")  # of the backbone's section: not about how rows are made


class Backbone(Adapter, Protocol):
    """An adapter that a head can sit on; its config offers "hidden" and has `build_backbone`."""

    def hidden(self, model: nn.Module, batch: Batch) -> Tensor:
        """Hidden states below the output head, [N, T, H]."""

    def ends(self, batch: Batch) -> Tensor:
        """Place in [0, T) of the token that a head reads: the last of each row that is not padding, [N]."""


class RewardAdapter:
    """A backbone whose policy carries a ScoreHead under the name `score`."""

    kind: Kind = RewardHead.kind
    offers: frozenset[str] = RewardHead.offers

    def __init__(self, config: RewardHead, backbone: Backbone) -> None:
        self.config = config
        self.backbone = backbone
        self.policy: nn.Module = backbone.policy
        self.device = backbone.device
        self.frames, self.media = backbone.frames, backbone.media
        layer = dict(self.policy.named_children()).get(SCORE)
        self.classifier = layer is not None
        if layer is not None:
            _check_layer(layer, config)
        head = ScoreHead(_width(self.policy), len(config.aspects), config.head.type)
        self._fill(head, layer)
        self.policy.add_module(SCORE, head.to(self.device))
        own = [f"{SCORE}.{name}" for name, _ in head.named_parameters()]
        if self.classifier and config.critiques:
            path = config.backbone["path"]
            raise UserError(
                f"model.critiques: {path} is a sequence classifier, which writes nothing; set false"
            )
        self.parts = {part: [n for n in names if n not in own] for part, names in backbone.parts.items()}
        self.parts["head"] = own
        if not config.critiques:
            self._freeze_what_is_never_used()

    def _fill(self, head: ScoreHead, layer: nn.Module | None) -> None:
        chosen, part = self.config.head, self.config.part
        if chosen.init == "fresh":
            head.fill(chosen.seed)
            return
        folder = Path(chosen.path).expanduser() if chosen.path else _own_folder(part)
        if layer is not None and chosen.path is None and not has_head(folder):
            head.load_state_dict({"weight": layer.get_parameter("weight").float().cpu()})
            return
        load_head(folder, head, self.config.aspects)

    @property
    def lora_targets(self) -> str | list[str]:
        """The backbone's LoRA sites."""
        return self.backbone.lora_targets

    def _freeze_what_is_never_used(self) -> None:
        """The vocabulary head takes no part in a score; a weight without a gradient would stop DDP."""
        outer, inner = (
            self.policy.get_output_embeddings(),  # type: ignore[operator]
            self.policy.get_input_embeddings(),  # type: ignore[operator]
        )
        if outer is not None and outer.weight is not inner.weight:
            outer.requires_grad_(False)

    # ------------------------------------------------------------ rows: the backbone's

    def check(self, sample: PreferenceSample, roles: Sequence[str]) -> Sequence[str]:
        """What is shortened in the sample. Raises UserError with the reason if it cannot be scored."""
        with naming_the_backbone(self.config.part):
            return self.backbone.check(sample, roles)

    def prepare(self, sample: PreferenceSample, roles: Sequence[str]) -> Prepared:
        """Rows as the backbone reads them."""
        return self.backbone.prepare(sample, roles)

    def describe(self, row: Row) -> RowView:
        """Numbers of tokens, and their text, of which the whole is scored at its end."""
        return self.backbone.describe(row)

    def encode(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        """Frozen encoders of the backbone, if it has any."""
        return self.backbone.encode(prepared)

    def shape_of(self, sample: Prepared) -> tuple[int, ...]:
        """What the backbone's batches must have in common."""
        return self.backbone.shape_of(sample)

    def fingerprint(self) -> str:
        """Hash of what shapes rows."""
        return self.backbone.fingerprint()

    def collate(self, encoded: Sequence[Prepared], roles: Sequence[str]) -> Batch:
        """Rows of the given roles as one batch."""
        return self.backbone.collate(encoded, roles)

    def draw(self, batch: Batch, seeds: Sequence[int]) -> Draw:
        """Nothing about a score is random, beyond what the backbone draws."""
        return self.backbone.draw(batch, seeds)

    # ------------------------------------------------------------ scores

    def logprobs(self, model: nn.Module, batch: Batch, draw: Draw, needs: frozenset[str]) -> LogProbs:
        """Scores of every row, [N, A], float32: unbounded numbers, higher is better. If "written" is needed,
        with the likelihood of what stands behind the row's prompt."""
        states, ends = self.backbone.hidden(model, batch), self.backbone.ends(batch)
        values = model.get_submodule(SCORE)(states[torch.arange(len(ends), device=ends.device), ends])
        found = scored(values, batch)
        if "written" not in needs:
            return found
        return replace(found, written=_sequences.score(model, states, batch, frozenset()))

    def self_check(self, model: nn.Module, batch: Batch, draw: Draw) -> float:
        """The backbone's own: its states must give its library's log-probs, or a classifier's score."""
        return self.backbone.self_check(model, batch, draw)

    def critiques(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        """What the model writes behind prompts that end in an answer and the question for a critique of it;
        each depends on its own seed only."""
        return self.backbone.generate(model, prompts, seeds)

    def generate(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        """A reward model answers no prompts: raises UserError."""
        raise UserError(
            "a reward model scores responses and writes none; to judge another run by it, set that run's "
            "evaluation.judge to {name: reward_model, path: THIS RUN}"
        )

    # ------------------------------------------------------------ memory and files

    def enable_checkpointing(self) -> None:
        """Recompute the backbone's activations in backward."""
        self.backbone.enable_checkpointing()

    def save(self, model: nn.Module, folder: Path, lora: str | None) -> None:
        """The backbone in upstream format, or with `lora` its PEFT folder, and beside it the head. A sequence
        classifier also keeps the head as its score layer."""
        head = model.get_submodule(SCORE)
        assert isinstance(head, ScoreHead)
        if self.classifier:
            self.backbone.save(model, folder, lora)
        else:
            with _without_head(model):
                self.backbone.save(model, folder, lora)
        kept = {key: value for key, value in self.config.backbone.items() if key not in _PLACE}
        if lora is not None:
            kept |= {key: self.config.backbone[key] for key in ("path", "revision")}
        if self.config.critiques:  # how they are written belongs to the scores behind them
            kept["generation"] = self.config.backbone["generation"]
        save_head(head, folder, self.config.aspects, kept, self.config.critiques)

    def merge_lora(self, folder: Path) -> None:
        """Add a saved LoRA adapter to the backbone's weights. Raises UserError if it does not fit."""
        from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
        from peft import set_peft_model_state_dict as fill
        from peft.tuners.tuners_utils import BaseTunerLayer

        with _loading.readable_errors(f"{folder}"):
            settings = LoraConfig.from_pretrained(str(folder))
            inject_adapter_in_model(settings, self.policy, adapter_name="policy")
            state = _loading.read_tensors(folder / "adapter_model.safetensors")
        state = {name.removeprefix("base_model.model."): value for name, value in state.items()}
        own = get_peft_model_state_dict(self.policy, adapter_name="policy", save_embedding_layers=False)
        shapes = [{name: tuple(value.shape) for name, value in group.items()} for group in (own, state)]
        if shapes[0] != shapes[1]:
            odd = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))[0][0]
            raise UserError(f"{folder}: LoRA weight {odd} does not fit the backbone; was its base another?")
        fill(self.policy, state, adapter_name="policy")
        for name, module in list(self.policy.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge(safe_merge=True)
                parent, _, child = name.rpartition(".")
                setattr(self.policy.get_submodule(parent), child, module.get_base_layer())
        del self.policy.peft_config  # set on the module by the injection above


def saved_section(folder: Path) -> dict[str, Any]:
    """Section `model` of a saved reward model. Raises UserError if the folder holds none."""
    if has_head(folder):
        settings = read_settings(folder)
        backbone = dict(settings["backbone"])
        if not (folder / "adapter_config.json").is_file():
            backbone["path"] = str(folder)
        head = {"type": settings["type"], "path": str(folder)}
        return {
            "adapter": "reward_head",
            "backbone": backbone,
            "head": head,
            "aspects": settings["aspects"],
            "critiques": settings.get("critiques", False),
        }
    if not (folder / "config.json").is_file() or not _loading.holds_classifier(folder):
        raise UserError(
            f"{folder}: holds no reward model; expected head.json beside a model, or a sequence classifier"
        )
    labels = _loading.read_json(folder / "config.json").get("id2label")
    count = len(labels) if isinstance(labels, dict) else 2  # what the library takes where nothing is said
    aspects = ["score"] if count == 1 else [f"score_{place}" for place in range(count)]
    section = {"adapter": "text", "path": str(folder)}
    return {"adapter": "reward_head", "backbone": section, "aspects": aspects}


def _own_folder(part: Any) -> Path:
    return _loading.resolve_folder(part.path, part.revision, _loading.LANGUAGE_MODEL_FILES)


def _width(policy: Any) -> int:
    width: int = policy.config.get_text_config().hidden_size
    return width


def _check_layer(layer: nn.Module, config: RewardHead) -> None:
    """Refuse a classifier whose score layer is not what a head here can be."""
    where = f"{config.backbone['path']}"
    if not isinstance(layer, nn.Linear) or layer.bias is not None:
        raise UserError(f"{where}: its score layer is not one linear layer without bias; not supported")
    if config.head.type != "linear":
        raise UserError(f"model.head.type: {where} is a classifier with a linear score; use linear")
    if layer.out_features != len(config.aspects):
        raise UserError(
            f"model.aspects: {where} gives {layer.out_features} scores, but {len(config.aspects)} are named"
        )


@contextmanager
def _without_head(model: nn.Module) -> Iterator[None]:
    """The plain upstream model inside the block."""
    head = model.get_submodule(SCORE)
    delattr(model, SCORE)
    try:
        yield
    finally:
        model.add_module(SCORE, head)
