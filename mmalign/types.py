"""The seam: the records that travel from data to loss, and the two contracts they travel between.

An adapter turns rows into log-likelihoods (`LogProbs`) and knows nothing of preferences. An objective turns
log-likelihoods, keyed by source ("policy", "reference", ...) and role ("chosen", "rejected", ...), into one
loss per sample and knows nothing of models. Needs torch and the standard library only. `LogProbs` itself is
in `likelihoods.py`; its names are imported from here like the others.

Letters used for shapes: S samples, N rows (one response of one role of one sample), K units of a row
(response tokens, noise draws or denoising steps).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

# every record has one address: the names below are part of this module
from mmalign.clips import Clip as Clip
from mmalign.clips import Frames as Frames
from mmalign.completing import Attended as Attended
from mmalign.completing import Attentive as Attentive
from mmalign.completing import Completer as Completer
from mmalign.completing import HidingCompleter as HidingCompleter
from mmalign.judging import InformedJudge as InformedJudge
from mmalign.judging import Judge as Judge
from mmalign.judging import ManyJudge as ManyJudge
from mmalign.judging import PixelReward as PixelReward
from mmalign.judging import StepJudge as StepJudge
from mmalign.judging import VerdictJudge as VerdictJudge
from mmalign.likelihoods import Distribution as Distribution
from mmalign.likelihoods import Kind as Kind
from mmalign.likelihoods import LogProbs as LogProbs
from mmalign.likelihoods import Scores as Scores
from mmalign.likelihoods import Unit as Unit
from mmalign.messages import Message as Message
from mmalign.messages import Part as Part
from mmalign.walks import BranchedPath as BranchedPath
from mmalign.walks import Inversion as Inversion
from mmalign.walks import MediaCopier as MediaCopier
from mmalign.walks import Noising as Noising
from mmalign.walks import PathSampler as PathSampler
from mmalign.walks import Rollout as Rollout
from mmalign.walks import SampledPath as SampledPath

State = dict[str, Tensor]
Draw = Mapping[str, Tensor]  # everything random about scoring S samples; every tensor has leading size S
AllMean = Callable[..., Tensor]  # all_mean(values [S], where [S] bool | None) -> scalar over all processes

NEEDS: dict[str, str] = {
    "ratio": "log-likelihood ratios to a frozen source",
    "length": "the number of scored units of a response",
    "absolute": "differences of absolute log-likelihoods between two responses",
    "probability": "true probabilities in (0, 1)",
    "units": "a log-likelihood for every unit (token) of a response",
    "tokens": "the ids of a response's tokens",
    "distribution": "whole next-token distributions",
    "error": "raw per-sample denoising errors",
    "prediction": "whole predicted and target tensors of a denoiser",
    "segments": "denoising errors of every temporal segment of a clip",
    "inversion": "noised latents found by walking the sampler backwards",
    "transition": "densities of the steps of a stored sampling path",
    "sampler": "pictures sampled with a gradient, for a differentiable reward",
    "likelihood": "log-likelihoods of responses",
    "hidden": "the hidden state at a response's end, for adapter reward_head to put its head on",
    "reward": "a score of every response, which adapter reward_head gives",
    "aspects": "one score for every aspect of a response",
    "written": "log-likelihoods of a critique beside the score that is read behind it",
}


class UserError(ValueError):
    """A mistake the user can correct: one line naming the file, row or field, the value and the rule."""


def derive_seed(run_seed: int, epoch: int, sample_id: str, purpose: str) -> int:
    """A 63-bit seed for one purpose of one sample, the same on every machine, process and batch layout."""
    text = f"{run_seed}\x1f{epoch}\x1f{sample_id}\x1f{purpose}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


# ---------------------------------------------------------------- data records


@dataclass(frozen=True)
class Example:
    """A response under its own condition: roles of one sample may differ in prompt, image or video."""

    prompt: tuple[Message, ...]
    response: tuple[Part, ...]
    labels: Mapping[str, float] = field(default_factory=dict)  # per response: score, rank, aspects


@dataclass(frozen=True)
class PreferenceSample:
    """One record: for every role one or several examples (a ranked list), plus labels of the whole sample."""

    id: str
    examples: Mapping[str, tuple[Example, ...]]
    labels: Mapping[str, Any] = field(default_factory=dict)  # binary, margin, group, user, ...
    weight: float = 1.0
    origin: str = ""  # "file.jsonl row 17", for messages


@dataclass(frozen=True)
class Row:
    """One response of one role after tokenising or decoding.

    `key` names in the cache what `Adapter.encode` makes of the row; None: it is encoded every time. `shares`
    names parts of that which other rows have, too, as the caption of both sides of a pair: {key of the part:
    names of its tensors in `data` after `encode`}. A part is kept once under its own key, what no part names
    under the row's. A part's key must name its content as the row's does: two rows that give the same key get
    the same tensors, in the order of the names, which may be other names in every row. No tensor is in two
    parts. A row of which any part is not kept is encoded whole. Without `key`, `shares` is not read.
    """

    role: str
    slot: int
    data: dict[str, Any]
    key: str | None = None
    shares: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """The rows of one sample. After `Adapter.encode` every value in `Row.data` is a CPU tensor.

    The loader names by `content` all that the sample was read from, where it is known; rows that it found
    `encoded` under that name have not been through `Adapter.prepare`."""

    sample_id: str
    rows: tuple[Row, ...]
    content: str | None = None
    encoded: bool = False


@dataclass(frozen=True)
class RowView:
    """A prepared row for people to read. `counts`: its tokens by kind; the model takes `limit` of them in all
    (None: any number). `text`: all that stands before what is scored, control tokens included; `scored`: the
    scored text. `media`: in words, what the model gets of every picture and clip; `pictures`: those that the
    adapter itself made of the row's, uint8 [3, H, W]."""

    counts: Mapping[str, int]
    limit: int | None
    text: str
    scored: str = ""
    media: tuple[str, ...] = ()
    pictures: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Item:
    """One sample of one optimizer step as the loader yields it."""

    prepared: Prepared
    epoch: int
    labels: Mapping[str, Any]
    row_labels: Mapping[str, tuple[Mapping[str, float], ...]]  # role -> labels per slot
    weight: float
    origin: str

    @property
    def id(self) -> str:
        """The sample's id."""
        return self.prepared.sample_id


@dataclass(frozen=True)
class Batch:
    """Flat rows of S samples, ready for a forward. Only the adapter that made it looks into `inputs`."""

    inputs: dict[str, Any]
    roles: tuple[str, ...]
    row_role: Tensor  # [N] long on the CPU, index into roles
    row_sample: Tensor  # [N] long on the CPU, index into sample_ids
    row_slot: Tensor  # [N] long on the CPU, place in the role's list
    sample_ids: tuple[str, ...]

    def rows_of(self, role: str) -> Tensor:
        """Indices of the rows of one role, ordered by sample and slot, [n] long."""
        rows = torch.nonzero(self.row_role == self.roles.index(role)).flatten()
        order = self.row_sample[rows] * (int(self.row_slot.max()) + 1) + self.row_slot[rows]
        return rows[torch.argsort(order, stable=True)]


# ---------------------------------------------------------------- the two contracts


@dataclass(frozen=True)
class View:
    """A role made from another one by a `change` of `data/_views.py`, with `count` other rows if with any."""

    of: str
    change: str
    count: int = 1


@dataclass(frozen=True)
class Outcome:
    """What an objective returns: loss [S], detached metrics {name: [S]}, and its next state."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    state: State = field(default_factory=dict)


class Objective(ABC):
    """A loss on log-likelihoods. Subclasses are frozen dataclasses whose fields are the keys in the config.

    Everything but `roles` and `__call__` has a usable default. A subclass overrides with class attributes
    (`roles = {"policy": ("chosen",)}`) or, where it depends on a field, with a property.
    """

    @property
    @abstractmethod
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """Which roles each source scores, {"policy": (...), "reference": (...)}."""

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS that the adapter must offer."""
        return frozenset({"ratio"})

    @property
    def fields(self) -> tuple[str, ...]:
        """Labels that every sample must carry."""
        return ()

    @property
    def detached(self) -> tuple[str, ...]:
        """Policy roles that are scored without a graph."""
        return ()

    @property
    def views(self) -> Mapping[str, View]:
        """Roles that are made in memory from other roles."""
        return {}

    @property
    def inversion(self) -> Inversion | None:
        """How noised latents come about, where not by adding noise; needs "inversion"."""
        return None

    @property
    def rollout(self) -> Rollout | None:
        """How media are sampled for a reward; needs "sampler". The reward is the label `reward` [S]."""
        return None

    @property
    def batch_coupled(self) -> bool:
        """True if the loss of one sample depends on the other samples of the step."""
        return False

    @property
    def surrogate_beta(self) -> float | None:
        """Published `beta`, or `tau`, on surrogate scores, where it differs by orders of magnitude from the
        default."""
        return None

    @property
    def surrogate_advice(self) -> str:
        """What else to set beside it, as the end of a sentence; mostly nothing."""
        return ""

    def initial_state(self) -> State:
        """Tensors carried from step to step and saved in checkpoints."""
        return {}

    @abstractmethod
    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss of S samples from their scores; `labels[name]` is a tensor [S] for every numeric label."""


@dataclass(frozen=True)
class Changed:
    """What a transform returns: the scores, and detached metrics {name: [S]}."""

    scores: Scores
    metrics: dict[str, Tensor] = field(default_factory=dict)


class PathObjective(Objective):
    """A loss that depends on the steps of a path through one number per sample, a sum over the steps. Its
    gradient can be taken a few steps at a time, in memory that does not grow with their number."""

    @abstractmethod
    def partial(self, scores: Scores, labels: Mapping[str, Any]) -> Tensor:
        """What the scored steps add to that number, [S]."""

    @abstractmethod
    def finish(self, number: Tensor, state: State) -> Outcome:
        """The loss [S] of the whole number [S]."""

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        """Loss [S] of all steps at once."""
        return self.finish(self.partial(scores, labels), state)


class Transform(ABC):
    """A change of the scores before any pairwise objective sees them; one file each."""

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS that the adapter must offer."""
        return frozenset()

    @property
    def roles(self) -> tuple[str, ...]:
        """Policy roles without which the transform would change nothing."""
        return ()

    @property
    def fields(self) -> tuple[str, ...]:
        """Labels that every sample must carry."""
        return ()

    @property
    def batch_coupled(self) -> bool:
        """True if the scores of one sample depend on the other samples of the step."""
        return False

    @abstractmethod
    def __call__(self, scores: Scores, labels: Mapping[str, Any], all_mean: AllMean) -> Changed:
        """Scores in, scores out; must keep gradients to the policy's values where they should flow. What
        changes `values` of a surrogate changes `error` alike."""


class Adapter(Protocol):
    """A model family behind the one likelihood interface. Built by the config dataclass in the same file."""

    kind: Kind
    offers: frozenset[str]
    policy: nn.Module  # what trains; frozen encoders stay private to the adapter
    device: torch.device
    parts: Mapping[str, Sequence[str]]  # names of the policy's weights by part, before LoRA
    frames: Frames | None  # how clips are cut from videos; None reads none
    media: frozenset[str]  # kinds of parts it reads in a prompt besides text: "image", "video"

    @property
    def lora_targets(self) -> str | list[str]:
        """Default LoRA sites. Raises UserError if there are none where the config wants them."""

    def check(self, sample: PreferenceSample, roles: Sequence[str]) -> Sequence[str]:
        """What has to be shortened in the sample (media already decoded), one entry each time, to be counted.
        Raises UserError with the reason if the sample cannot be used."""

    def prepare(self, sample: PreferenceSample, roles: Sequence[str]) -> Prepared:
        """Tokenise and resize on the CPU; runs in loader workers. Media parts are already decoded."""

    def describe(self, row: Row) -> RowView:
        """A row of `prepare`, before `encode`, in words and numbers."""

    def encode(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        """Run frozen encoders on the device, batched. Identity for text."""

    def shape_of(self, sample: Prepared) -> tuple[int, ...]:
        """What encoded samples must have in common to stand in one batch; () where any can."""

    def fingerprint(self) -> str:
        """Hash of everything that `encode` and `prepare` depend on besides the row: weights and settings."""

    def collate(self, encoded: Sequence[Prepared], roles: Sequence[str]) -> Batch:
        """Rows of the given roles as one batch on the adapter's device."""

    def draw(self, batch: Batch, seeds: Sequence[int]) -> Draw:
        """Timesteps, noise, caption dropout: one per sample, shared by its roles and by every source."""

    def logprobs(self, model: nn.Module, batch: Batch, draw: Draw, needs: frozenset[str]) -> LogProbs:
        """Score every row with `model`, the policy or a frozen source of the same kind."""

    def invert(
        self, model: nn.Module, batch: Batch, draw: Draw, inversion: Inversion, seeds: Sequence[int]
    ) -> Draw:
        """What an inversion led by `model` adds to the draw; for adapters that offer "inversion"."""

    def roll_out(self, model: nn.Module, batch: Batch, rollout: Rollout, seeds: Sequence[int]) -> Tensor:
        """Pictures [S, 3, H, W] in 0..1 with their graph, of the batch's prompts. Only adapters that offer
        "sampler" are asked."""

    def self_check(self, model: nn.Module, batch: Batch, draw: Draw) -> float:
        """Largest difference of one row's scores from the upstream library's own computation."""

    def enable_checkpointing(self) -> None:
        """Recompute the policy's activations in backward."""

    def generate(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        """One sampled response per prompt, independent of how prompts are batched."""

    def save(self, model: nn.Module, folder: Path, lora: str | None) -> None:
        """Write upstream format into `folder`: the whole model, or only the named LoRA adapter's weights."""
