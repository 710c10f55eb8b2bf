"""A training run from config to final weights, top to bottom."""

from __future__ import annotations

from pathlib import Path

import torch

from mmalign import config as configs
from mmalign.config import RunConfig
from mmalign.training import checkpoint, record
from mmalign.training.checks import check_config, check_output, glance_at
from mmalign.training.checkups import checkups
from mmalign.training.console import WARNING, Console, Progress
from mmalign.training.idle import Idle
from mmalign.training.online import OnlineData
from mmalign.training.optim import make_schedule
from mmalign.training.rows import load_data
from mmalign.training.setup import (
    build_engine,
    build_policy,
    find_checkpoint,
    micro_batches,
    space_needed,
    start,
    starting_checks,
    write_final,
)
from mmalign.training.signals import StopSignals, exit_code
from mmalign.training.skips import SkipLog
from mmalign.training.state import Position, restore, snapshot
from mmalign.training.step import compute_gradients


class Stopped(SystemExit):
    """The run was asked to stop by a signal; a checkpoint has been written."""


def run(config: RunConfig) -> Path:
    """Train as the config says, going on where an earlier run of the same config in `output` stopped.

    Returns the output folder, which then holds config.yaml, run.json, metrics.jsonl, checkpoints/ and final/
    (upstream format). Raises UserError before a weight is loaded if the parts do not fit together, and before
    anything is written if data or model cannot be used.
    """
    output = Path(config.output)
    accelerator, world = start()
    console = Console(world, config.log.progress)
    notes = check_config(config, world.size)
    for note in notes:
        if note.startswith(WARNING):
            console.say(note)
    check_output(config)
    glance_at(config.model)
    data = load_data(config, world, console)
    if config.online is not None:
        data = OnlineData.of(data, console)
    data.order(config)  # too few rows for a step are refused before the model is loaded
    adapter = build_policy(config, world.device)
    data.admit(adapter, config, console)
    steps = data.num_steps(config.train)
    scan = find_checkpoint(output, data, console)
    if scan.found and scan.found.step >= steps and (output / "final").is_dir():
        console.say(f"{output} already holds {scan.found.step} of {steps} steps; nothing to do")
        return output
    engine, encoder, optimizer = build_engine(config, accelerator, world, adapter, data, console)

    position = Position(config.seed, configs.identity(config), world, console=console)

    with record.OutputLock(output, world), StopSignals() as signals, position:
        schedule = make_schedule(optimizer, config.train)
        position.objective = {k: v.to(world.device) for k, v in engine.objective.initial_state().items()}
        if scan.found:
            restore(scan.found, position, adapter.policy, optimizer, schedule, engine.moving)
            console.say(f"going on from step {position.step} of {output}")
        kept_back = data.heldout_items(adapter, config)
        heldout = micro_batches(engine, encoder, kept_back, config.train) if kept_back else []
        del kept_back  # before encoding: pixels of every row
        if position.step == 0:
            checkpoint.check_space(output, space_needed(adapter.policy))
            starting_checks(engine, encoder, data, config, console)
        position.skips = SkipLog(output, world, console)
        position.skips.open(data.skipped, position.step)
        measured = checkups(engine, heldout, config, data, console)
        position.open(output, config, data.facts(), [*notes, *data.notes, *console.take_notes()])
        measured.begin(position)
        if position.step == 0 and measured:
            measured.take(position)
        kept = {scan.found.path.name} if scan.found else set()
        protected = frozenset(scan.broken) | kept
        saver = checkpoint.Saver(output, world, config.train.keep, protected, console.warn)

        trainable = [p for p in adapter.policy.parameters() if p.requires_grad]
        stream = data.loader(adapter, config, position.skips.add, encoder.cache)
        loader = stream.steps(position.step, steps)
        idle = Idle(config)
        with Progress(steps, position.step, config.train.batch, console.progress) as bar:
            for items in loader:
                micros = micro_batches(engine, encoder, items, config.train)
                result = compute_gradients(engine, micros, position.objective, position.step)
                norm = accelerator.clip_grad_norm_(trainable, config.train.clip or float("inf"))
                if bool(torch.isfinite(norm + result.loss)):
                    optimizer.step()
                    position.take(result, norm, float(schedule.get_last_lr()[0]))
                    position.means.add(data.news())
                else:
                    console.warn(position.refuse(items, result, config.train.max_bad_steps))
                if engine.moving is not None:  # after a refused step too: rounds count on its boundary
                    engine.moving.follow(position.step + 1)
                optimizer.zero_grad()
                schedule.step()
                position.advance(config.train.batch)
                bar.advance()

                last, signum = position.step == steps, signals.requested(world)
                if last or position.step % config.log.every == 0:
                    line = position.report()
                    bar.describe(line)
                    if still := idle.see(line, last):
                        console.warn(still)
                if measured and (last or _due(position.step, config.train.eval_every)):
                    measured.take(position)
                if last or signum or _due(position.step, config.train.save_every):
                    position.sync()
                    state = snapshot(position, adapter.policy, optimizer, schedule, engine.moving)
                    saver.save(state, last=last or signum != 0)
                if signum and not last:
                    bar.close()
                    console.say(
                        f"stopped by signal {signum} after step {position.step}; the same command goes on"
                    )
                    raise Stopped(exit_code(signum))
        write_final(engine, config, output)
    return output


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
