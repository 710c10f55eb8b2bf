"""The parts of a run, built in order: processes, policy, reference, engine; at its end, final weights."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch.optim import AdamW

from mmalign.adapters._users import freeze_for, speak_already
from mmalign.config import RunConfig, Train
from mmalign.rewards._reads import answers_of
from mmalign.rewards._scoring import ready
from mmalign.training import checkpoint, lora, what_trains
from mmalign.training._agree import on_main
from mmalign.training._reference_name import reference_name, starts_adapted
from mmalign.training.cache_size import Paths, check_paths, check_space
from mmalign.training.checks import choose, uses_chunks
from mmalign.training.console import Console
from mmalign.training.encoding import Encoder
from mmalign.training.heldout import PURPOSE
from mmalign.training.judged import check_judges
from mmalign.training.optim import evaluating, make_optimizer, prepare_policy, set_training_mode
from mmalign.training.paths import PathCache, keeps_paths
from mmalign.training.record import RunRecord
from mmalign.training.reference import DERIVED, MovingReference, ReferenceCache, frozen_dtype, make_switch
from mmalign.training.rows import RunData
from mmalign.training.scorer import Scorer
from mmalign.training.step import Engine, Micro, collate_labels, draw_seeds, score, score_all
from mmalign.training.world import World
from mmalign.types import Adapter, Item, UserError


def start() -> tuple[Accelerator, World]:
    """Join the processes of the run; quiet libraries."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # newer releases of torch call the option forward_sync_buffers; accelerate passes the older name
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*deprecated")
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",  # autocast is the Scorer's, by the config and not by a launcher's variables
        kwargs_handlers=[
            # buffers never change, and sending them would tie up processes with unequal numbers of forwards
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=timedelta(minutes=10)),
        ],
    )
    if accelerator.gradient_accumulation_steps != 1:
        raise UserError(
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS: unset it; train.micro_batch says how to split a step"
        )
    world = World(accelerator.process_index, accelerator.num_processes, accelerator.device)
    return accelerator, world


def find_checkpoint(output: Path, data: RunData, console: Console) -> checkpoint.Scan:
    """The newest whole checkpoint of the run. Raises UserError if there are only broken ones: starting anew
    would bury them; and if the run was begun with other rows."""
    scan = checkpoint.latest(output, world=data.world)
    begun = RunRecord.read(output) if scan.found else None
    if begun is not None and begun.data.get("hash") != data.hash:
        raise UserError(f"data: the rows are not those that {output} was trained on; choose another output")
    for line in scan.warnings:
        console.warn(line)
    if scan.found is None and scan.broken:
        raise UserError(f"output: {output} holds only broken checkpoints; move them away to start anew")
    return scan


def build_policy(config: RunConfig, device: torch.device) -> Adapter:
    """Load the model and decide what trains: everything in float32, or LoRA over a frozen base."""
    adapter: Adapter = config.model.build(device, frozen_dtype(config))
    check_judges(config, answers_of(adapter))
    if config.lora is not None:
        adapter.policy.requires_grad_(False)  # before anything is cast: a frozen base keeps its type
    prepare_policy(adapter.policy, config.train)
    if config.lora is not None:
        lora.inject(adapter.policy, config.lora, adapter.lora_targets, config.seed)
    freeze_for(adapter.policy)
    if config.train.checkpointing:
        adapter.enable_checkpointing()
    set_training_mode(adapter.policy, config.train)
    return adapter


def build_engine(
    config: RunConfig,
    accelerator: Accelerator,
    world: World,
    adapter: Adapter,
    data: RunData,
    console: Console,
) -> tuple[Engine, Encoder, AdamW]:
    """Scorer, reference and optimizer. Must run before a checkpoint's weights are put into the policy: a
    reference that derives from the policy is taken from it here."""
    for line in what_trains.lines(adapter.policy, adapter.parts):
        console.note(line)
    if config.lora and isinstance(adapter, lora.BesideLora) and (besides := adapter.beside_lora()):
        console.note(besides)
    name = choose(config)
    kept = Paths.of(config, adapter, name)
    admit = partial(check_space, data, config.train, console.say, paths=kept)
    encoder = Encoder(adapter, config.cache and str(Path(config.cache) / "rows"), admit)
    scorer = Scorer(adapter, config.train.precision)
    moving = None
    if name == "ema":
        chosen = config.reference
        moving = MovingReference(adapter.policy, float(chosen.decay or 0.0), chosen.every or 1)
        scorer.add_sources({"reference": moving.switch})
    elif name not in ("none", "cached"):
        scorer.add_sources({"reference": make_switch(name, adapter, config, frozen_dtype(config))})
    if config.reward is not None:
        ready(config.reward)  # a missing model is found now, not at the first step
    optimizer = make_optimizer(adapter.policy, config.train)
    prepared, optimizer = accelerator.prepare(scorer, optimizer)
    engine = Engine(
        accelerator,
        world,
        adapter,
        prepared,
        config.objective,
        config.transforms,
        moving=moving,
        seed=config.seed,
        num_draws=config.train.num_draws,
        reward=config.reward,
        paths=_path_cache(config, adapter, data, console, kept),
        chunked=uses_chunks(config, world.size),
        deferred=config.train.backward == "deferred",
        step_chunk=config.train.step_chunk or (1 if config.train.backward == "deferred" else None),
        dropout=config.train.dropout or bool(config.lora and config.lora.dropout),
    )
    if name == "cached":
        cache = _reference_cache(config, adapter, console)
        engine = replace(engine, cached=cache)
        _fill(cache, engine, encoder, data, config, console)
    return engine, encoder, optimizer


# ---------------------------------------------------------------- the cached reference


def _reference_cache(config: RunConfig, adapter: Adapter, console: Console) -> ReferenceCache:
    folder = config.cache and str(Path(config.cache) / "reference")
    return ReferenceCache(folder, reference_name(config, adapter, console.note))


def _path_cache(
    config: RunConfig, adapter: Adapter, data: RunData, console: Console, kept: Paths | None
) -> PathCache | None:
    """Where whole paths of the reference are kept; None where they change, or there are none."""
    how = config.objective.inversion
    if how is None or not keeps_paths(how, choose(config)):
        return None
    name = reference_name(config, adapter, console.note)
    if kept is None:
        return PathCache(None, name)
    admit = partial(check_paths, data, config.train, console.say, kept)
    return PathCache(str(kept.cache.folder), name, admit)


def _fill(
    cache: ReferenceCache,
    engine: Engine,
    encoder: Encoder,
    data: RunData,
    config: RunConfig,
    console: Console,
) -> None:
    """Score every row that the cache lacks, with the reference, once per draw."""
    roles = config.objective.roles["reference"]
    surrogate = engine.adapter.kind == "surrogate"
    draws = range(config.train.num_draws or 1)
    work = [(items, draw, "draw") for items in data.every_item(engine.adapter, config) for draw in draws]
    work.append((data.heldout_items(engine.adapter, config), 0, PURPOSE))
    live: Engine | None = None
    count = 0
    for items, draw, purpose in work:
        numbered = [replace(item, epoch=draw) for item in items]
        seeds = draw_seeds(engine, numbered, purpose) if surrogate else [None] * len(items)
        missing = [
            (item, seed)
            for item, seed in zip(numbered, seeds, strict=True)
            if item.prepared.rows and not cache.holds(item.prepared, roles, seed)
        ]
        if missing and live is None:
            live = _live_reference(engine, config)
            console.say("reference: scoring rows for the cache")
        for begin in range(0, len(missing), config.train.micro_batch or 16):
            part = missing[begin : begin + (config.train.micro_batch or 16)]
            assert live is not None
            _score_into(cache, live, encoder, part, purpose)
            count += len(part)
    engine.world.barrier()
    console.say(f"reference: cached, {count} samples scored now")


def _live_reference(engine: Engine, config: RunConfig) -> Engine:
    """The engine with a model in place of the cache; this process scores alone, so nothing is wrapped."""
    scorer = Scorer(engine.adapter, config.train.precision)
    name = "path" if config.reference.path else "lora_off"
    if starts_adapted(config) and name != "path":
        name = "initial_adapter"
    if config.lora is None and name != "path":
        name = "copy"
    scorer.add_sources({"reference": make_switch(name, engine.adapter, config, frozen_dtype(config))})
    return replace(engine, scorer=scorer, cached=None)


@torch.no_grad()
def _score_into(
    cache: ReferenceCache,
    live: Engine,
    encoder: Encoder,
    part: Sequence[tuple[Item, int | None]],
    purpose: str,
) -> None:
    given = {item.id: (item.prepared, seed) for item, seed in part}
    roles = live.objective.roles["reference"]
    for micro in micro_batches(live, encoder, [item for item, _ in part], None):
        for role, scored in score(live, micro, "reference", roles, purpose).items():
            for row in range(len(scored.values)):
                sample, seed = given[micro.items[int(scored.sample[row])].id]
                cache.store(sample, role, int(scored.slot[row]), seed, scored.take(torch.tensor([row])))


# ---------------------------------------------------------------- batches, first checks, final weights


def micro_batches(
    engine: Engine, encoder: Encoder, items: Sequence[Item], train: Train | None
) -> list[Micro]:
    """Encoded micro-batches of a step's items, each of one shape; items that were skipped while loading hold
    no rows. Within a shape the order stays, and a shape comes where its first item stood."""
    usable = [item for item in items if item.prepared.rows]
    if not usable:
        raise RuntimeError("every row of this process's share of a step failed to load; see skipped.jsonl")
    encoded = encoder([item.prepared for item in usable])
    # what it was made of is let go: held-out rows would keep their pixels all through the run
    usable = [replace(item, prepared=one) for item, one in zip(usable, encoded, strict=True)]
    by_shape: dict[tuple[int, ...], list[Item]] = {}
    for item in usable:
        by_shape.setdefault(engine.adapter.shape_of(item.prepared), []).append(item)
    size = (train.micro_batch if train else None) or len(usable)
    parts = [like[i : i + size] for like in by_shape.values() for i in range(0, len(like), size)]
    device = engine.world.device
    return [
        Micro(
            part,
            [item.prepared for item in part],
            collate_labels(part, device),
            torch.tensor([item.weight for item in part], device=device),
        )
        for part in parts
    ]


@torch.no_grad()
def starting_checks(
    engine: Engine, encoder: Encoder, data: RunData, config: RunConfig, console: Console
) -> None:
    """Before the first step: one row against the upstream library's own computation, and log-ratios of zero
    where the reference starts out as the policy. Raises RuntimeError if either fails."""
    policy, adapter = engine.adapter.policy, engine.adapter
    if config.objective.rollout is not None:
        return  # media yet to be sampled have no scores to compare
    items = next(iter(data.loader(adapter, config).steps(0, 1)))[:4]
    micro = micro_batches(engine, encoder, items, None)[0]  # pictures may have other sizes in others
    half = config.train.precision == "bf16" or any(p.dtype != torch.float32 for p in policy.parameters())
    batch = adapter.collate(micro.encoded, config.objective.roles["policy"])
    # the check compares rows before and after, whether a cache holds them or not
    adapter.encode([item.prepared for item in items if not item.prepared.encoded])
    with evaluating(policy):
        gap = adapter.self_check(policy, batch, adapter.draw(batch, draw_seeds(engine, micro.items)))
        scores = score_all(engine, micro)
    if not gap <= (0.25 if half else 1e-4):  # half precision: the worst token of a deep model moves this much
        raise RuntimeError(f"first-batch check: scores differ by {gap:.3g} from the model's own computation")
    if "reference" not in scores:
        return
    name = choose(config)
    ratios = []
    for role, theirs in scores["reference"].items():
        if role in scores["policy"]:
            ours = scores["policy"][role]
            ratios.append((ours.unit_ratio(theirs).abs() / ours.values.abs().clamp(min=1))[ours.mask])
    found = torch.cat(ratios)
    largest, mean = float(found.max()), float(found.mean())
    # a live reference repeats the policy's very computation; a cached one was scored in other batches
    equal = largest <= 1e-6 if name in DERIVED else (mean <= 2e-2 if half else largest <= 1e-4)
    # the base, and a policy that starts from an adapter
    ahead = name == "lora_off" and starts_adapted(config)
    same = (name in DERIVED and not ahead) or (name == "cached" and config.reference.path is None)
    if same and not equal and not speak_already(policy):
        raise RuntimeError(
            f"reference {name}: log-ratios must be 0 before the first step, the largest is {largest:.3g}"
        )
    console.note(f"reference {name}: largest log-ratio per unit at the start is {largest:.3g}")


def space_needed(policy: torch.nn.Module) -> int:
    """Bytes of a checkpoint: float32 weights that train, and two moments for each, with a fifth to spare."""
    return int(1.2 * 3 * 4 * sum(p.numel() for p in policy.parameters() if p.requires_grad)) + 2**20


def write_final(engine: Engine, config: RunConfig, output: Path) -> None:
    """final/ in upstream format: the whole model or pipeline, or the LoRA adapter alone."""
    on_main(engine.world, lambda: _write_final(engine, config, output))


def _write_final(engine: Engine, config: RunConfig, output: Path) -> None:
    fresh, final, old = output / "final.tmp", output / "final", output / ".trash-final"
    for left_over in (fresh, old):
        shutil.rmtree(left_over, ignore_errors=True)
    fresh.mkdir(parents=True)
    engine.adapter.save(engine.adapter.policy, fresh, lora.NAME if config.lora else None)
    if final.exists():
        final.rename(old)
    fresh.rename(final)
    shutil.rmtree(old, ignore_errors=True)
