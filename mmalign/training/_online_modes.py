"""What rounds of a run make for its objective, and what is refused before a weight is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from mmalign._names import KINDS, name_of
from mmalign._online import Online
from mmalign.blind.answers import Blind
from mmalign.config import RunConfig
from mmalign.objectives._sum import WeightedSum
from mmalign.rewards._sentences import refuse_absent
from mmalign.types import Message, Objective, Part, UserError

Mode = Literal["answers", "paths", "rewards", "branches"]
"""Answers in pairs; pairs of paths; single paths with an advantage; paths that branch at every step."""

BLIND = "bdhs"
"""The role of an answer written blind, which rounds give with `online.blind` alone."""

_LABELS: dict[Mode, set[str]] = {
    "answers": {"margin", "binary"},
    "paths": set(),
    "rewards": {"advantage"},
    "branches": {"step_margins"},
}


@runtime_checkable
class _Scores(Protocol):
    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]: ...


def mode_of(objective: Objective) -> Mode:
    """What the objective learns from."""
    if "transition" not in objective.needs:
        return "answers"
    if "step_margins" in objective.fields:
        return "branches"
    return "rewards" if "advantage" in objective.fields else "paths"


def check_online(config: RunConfig) -> list[str]:
    """Raise UserError where the section and the rest of the config do not go together. Returns notes worth
    printing."""
    objective: Objective = config.objective
    section = config.online
    terms = [term for _, _, term in objective.terms] if isinstance(objective, WeightedSum) else [objective]
    if len({mode_of(term) for term in terms}) > 1:
        raise UserError("objective: all terms must learn from the same samples: paths, or finished answers")
    mode = mode_of(objective)
    if section is None:
        if mode != "answers":
            raise UserError(
                "objective: it learns from paths that the policy samples; add section online, with a judge"
            )
        return []
    _check_rest(config, mode)
    _check_objective(objective, mode, section)
    _check_section(section, mode, config.train.batch)
    if section.blind is not None:
        _check_blind(config, section.blind)
    if mode != "answers":
        _check_paths(config)
    if mode == "rewards":
        chosen = config.reference
        if (chosen.name, chosen.decay, chosen.every or 1) != ("ema", 0.0, section.steps):
            raise UserError(
                "reference: densities are compared with those of the model that sampled the round; set "
                f"reference: {{name: ema, decay: 0, every: {section.steps}}}"
            )
    if section.blind is None and BLIND in _scored(objective):
        return ["online.blind: is not given; sampled pairs have no answer written blind and train as by dpo"]
    if mode == "rewards" and section.n == 2:
        return [
            "online.n: of two samples per prompt one has advantage 1 and the other -1, however little their "
            "scores differ; three or more tell how much better one is"
        ]
    return []


def _check_rest(config: RunConfig, mode: Mode) -> None:
    """Sections that rounds have no use for."""
    if config.train.epochs is not None:
        raise UserError("train.epochs: rounds make new samples for ever; give train.steps")
    if config.model.kind == "reward":
        raise UserError("online: a reward model answers no prompts; remove the section")
    if any(getattr(source, "positive_ratio", None) is not None for _, source in config.data):
        raise UserError("data.positive_ratio: of the data only prompts are read; remove it")
    if config.reference.name == "cached":
        raise UserError("reference.name=cached: every round has new samples; use a live reference")
    if config.objective.inversion is not None:
        raise UserError("online: this objective inverts pictures of a file; remove the section")
    if config.objective.rollout is not None:
        raise UserError("online: this objective samples by itself; remove the section and name a reward")
    judge: Any = config.online and config.online.judge
    judges = config.online is not None and not config.online.data_alone
    if judges and not isinstance(judge, _Scores):
        raise UserError(f"online.judge: {name_of(KINDS['judge'], type(judge))} has no method score")
    if mode != "answers" and config.transforms:
        raise UserError("transforms: they change denoising errors, and this objective reads densities")


def _scored(objective: Objective) -> set[str]:
    """Roles that rows or rounds must give."""
    return {role for listed in objective.roles.values() for role in listed} - set(objective.views)


def _check_objective(objective: Objective, mode: Mode, section: Online) -> None:
    roles, mixed = _scored(objective), section.offline is not None
    if mixed and (mode != "answers" or "completion" in roles):
        raise UserError("online.offline: mixes in pairs, and this objective learns from none; remove it")
    if section.blind is not None and BLIND not in roles:
        raise UserError(
            "online.blind: objective bdhs learns from what is written blind, not this one; remove it"
        )
    if mixed or section.blind is not None:  # a pair without one has its rejected answer there
        roles -= {BLIND}
    if strange := sorted(roles - {"chosen", "rejected", "completion"}):
        more = "; add online.blind, which has them written" if strange[0] == BLIND else ""
        raise UserError(f"online: rounds give chosen and rejected answers, and no {strange[0]!r}{more}")
    if missing := sorted(set(objective.fields) - _LABELS[mode]):
        raise UserError(f"online: the objective needs the label {missing[0]!r}, which no round gives")


def _check_blind(config: RunConfig, blind: Blind) -> None:
    """What can be seen, without the model and its data, to leave nothing to be written blind."""
    if not config.model.media:
        adapter = name_of(KINDS["model"], type(config.model))
        raise UserError(
            f"online.blind: adapter {adapter} reads no pictures or clips that could be hidden; use adapter "
            "vlm or video_lm"
        )
    if "completion" in _scored(config.objective):
        raise UserError(
            "online.blind: writes for pairs, and one objective takes their sides apart; remove it"
        )
    if any(getattr(source, "flip", 0) for _, source in config.data):
        raise UserError(
            "data.flip: swaps two answers, and online.blind writes a third of the chosen one; remove it"
        )
    if blind.encoder is not None:
        refuse_absent(blind.encoder, "online.blind.encoder")


def _check_section(section: Online, mode: Mode, batch: int) -> None:
    """Fields that nothing reads, and rounds that could never fill a step."""
    if section.data_alone:
        unread = {"n": section.n != Online.n}
        unread |= {name: getattr(section, name) is not None for name in ("strategy", "min_gap")}
        for name in (name for name, given in unread.items() if given):
            fix = f"leave it at {Online.n}" if name == "n" else "remove it"
            raise UserError(f"online.{name}: nothing is sampled and paired with offline: 1; {fix}")
    paired = mode in ("answers", "paths")
    for name, read in (("strategy", paired), ("min_gap", paired), ("unbranched", mode == "branches")):
        if not read and getattr(section, name) is not None:
            raise UserError(f"online.{name}: not read by this objective; remove it")
    if mode != "rewards" and section.n < 2:
        raise UserError(f"online.n: two or more are compared, got {section.n}")
    each = most_samples(section, mode)
    if section.prompts * each < batch:
        raise UserError(
            f"online.prompts: {section.prompts} give at most {section.prompts * each} samples, and one step "
            f"takes train.batch={batch}"
        )


def most_samples(section: Online, mode: Mode) -> int:
    """Samples that the answers to one prompt give at most."""
    every = {"adjacent": section.n - 1, "all": section.n * (section.n - 1) // 2}
    return section.n if mode == "rewards" else every.get(section.strategy or "", 1)


def _check_paths(config: RunConfig) -> None:
    """A stored path draws nothing when it is scored."""
    plain: dict[str, Any] = {"caption_dropout": 0.0, "num_draws": 1, "flip": False, "segments": None}
    for name, rule in plain.items():
        value = getattr(config.model, name, rule)  # an adapter of the user's own may have none
        if value != rule:
            raise UserError(f"model.{name}: stored paths draw nothing; set it to {rule}, got {value}")
