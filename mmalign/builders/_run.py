"""A build from config to pairs: prompts in blocks, sampled, judged and paired, then one file of all pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmalign._build import named_tree
from mmalign._names import KINDS
from mmalign.builders import _config, _left_out, _rows
from mmalign.builders._config import BuildConfig
from mmalign.builders._model import Answering, open_model, section_of
from mmalign.builders._originals import refuse_broken, refuse_unfit
from mmalign.builders._output import check_output
from mmalign.builders._prompts import hash_of, load_prompts
from mmalign.builders._store import PAIRS, Store
from mmalign.builders._whole_rows import RowBuilder
from mmalign.builders._work import Work
from mmalign.rewards._reads import made_by, refuse_unread
from mmalign.rewards._written import WrittenJudge
from mmalign.training import record as records
from mmalign.training._agree import on_main, together
from mmalign.training.checks import glance_at
from mmalign.training.console import WARNING, Console, Progress
from mmalign.training.reference import weights_hash
from mmalign.training.signals import StopSignals, exit_code
from mmalign.training.world import World
from mmalign.types import UserError


def build(config: BuildConfig, world: World, allow_code: bool = False) -> Path:
    """Make the pairs of a config, going on where an earlier build of it in `output` stopped.

    Returns the output folder, which then holds config.yaml, build.json, pairs.jsonl and media/. The files do
    not depend on the number of processes. Raises UserError for parts that do not fit together before
    anything is sampled.
    """
    check_output(config)
    console = Console(world, config.log.progress)
    section = section_of(config, allow_code)
    refuse_unfit(config, section)
    if config.judge is not None:
        refuse_unread(config.judge, made_by(section.kind), "judge")
    store = Store(Path(config.output))
    before = on_main(world, store.read)
    if config.run is None and (before is None or before["status"] != "finished"):
        glance_at(section)
    prompts, told = load_prompts(config, section.kind, section.media)
    facts = {"count": len(prompts), "hash": hash_of(prompts)}
    if before is not None and before["prompts"] != facts:
        raise UserError(f"prompts: they are not those that {store.folder} was begun with; choose another")
    if before is not None and before["status"] == "finished":
        return _finished(store, before, world, console)
    for line in told:
        console.say(line)
    missing = on_main(world, lambda: store.missing(len(prompts)))
    begun = before or on_main(world, lambda: _record(config, facts, told, world))
    model = None
    if missing:  # loaded before anything is written: a model or judge that cannot be had leaves no trace
        if config.judge is not None:
            config.builder.ready(config.judge)
        if config.helper is not None:
            config.helper.ready()
        model = open_model(config, world.device, allow_code)
        if config.judge is not None:
            refuse_unread(config.judge, config.builder.judged(model.adapter), "judge")
        config.builder.ready_for(model.adapter)
        mine = [prompts[number] for number in missing[world.rank :: world.size]]
        together(world, partial(refuse_broken, config, mine, model.adapter))
        begun = on_main(world, partial(_of_model, begun, model, before is not None))
        if before is not None:
            console.say(f"going on in {store.folder}: {len(missing)} of {len(prompts)} prompts to do")
    with records.OutputLock(store.folder, world), StopSignals() as signals:
        if model is not None:
            on_main(world, partial(store.begin, _config.dump(config), begun))
            work = Work(config, prompts, store, model, frozenset(missing), _origin(begun))
            _all_blocks(work, world, signals, console)
        finish = partial(store.finish, len(prompts), begun)
        if isinstance(config.builder, RowBuilder):
            finish = partial(finish, sift=config.builder.sift)
        done = on_main(world, finish)
        noun = config.builder.writes if isinstance(config.builder, RowBuilder) else "pairs"
        for line in _summary(done, noun):
            console.say(line)
        said = world.gather(config.judge.unread[:1] if isinstance(config.judge, WrittenJudge) else [])
        _warn_of_nothing(done, [line for own in said for line in own], console)
    return store.folder


def _finished(store: Store, before: Mapping[str, Any], world: World, console: Console) -> Path:
    """The folder of a build that is done. Raises UserError if its pairs are gone."""
    if not (store.folder / PAIRS).is_file():
        raise UserError(f"output: {store.folder} is finished but has no {PAIRS}; choose another folder")
    on_main(world, store.clear)
    console.say(f"{store.folder} already holds the pairs of this config; nothing to do")
    _warn_of_nothing(before, [], console)
    return store.folder


def _warn_of_nothing(record: Mapping[str, Any], unread: Sequence[str], console: Console) -> None:
    """Say of a build without a row what was left out most often, and what a judge said that was not read."""
    if record["kept"]["pairs"]:
        return
    often = _left_out.most_often(record["left_out"])
    why = "" if often is None else f"; most often left out ({often}): {record['left_out'][often]}"
    console.say(f"{WARNING}not one row was written{why}" + "".join(f"; {line}" for line in unread[:1]))


def _record(config: BuildConfig, facts: dict[str, Any], told: Sequence[str], world: World) -> dict[str, Any]:
    return {
        "config_hash": _config.identity(config),
        "seed": config.seed,
        "prompts": facts,
        "builder": _rows.portable(named_tree(KINDS["builder"], config.builder)),
        **_asked_of(config),
        "device": records.device_name(world.device),
        "versions": records.versions(),
        "notes": list(told),
    }


def _asked_of(config: BuildConfig) -> dict[str, Any]:
    """Judge and helper in plain values, where the config names them."""
    given = {"judge": config.judge, "helper": config.helper}
    return {
        section: _rows.portable(named_tree(KINDS[section], value))
        for section, value in given.items()
        if value is not None
    }


def _origin(record: dict[str, Any]) -> dict[str, Any]:
    """What every row says of what made it; the rest is in the record. All that is drawn for a row follows
    from `seed` and the id of its prompt."""
    model = record["model"]
    told = {name: model[name] for name in ("run", "step", "path", "weights") if name in model}
    origin: dict[str, Any] = {"seed": record["seed"]} | ({"model": told} if told else {})
    origin |= {name: record[name] for name in ("builder", "judge", "helper") if name in record}
    # one order of keys, whether the record comes from memory or from its file
    return dict(json.loads(json.dumps(origin, sort_keys=True)))


def _of_model(begun: dict[str, Any], model: Answering, resumed: bool) -> dict[str, Any]:
    """The record with what answers; UserError if a build that goes on had another model."""
    if not model.told:  # a build without one
        return {**begun, "model": {}}
    weights = weights_hash(model.adapter.policy, without_lora=False)
    told = {**model.told, "weights": weights, "encoding": model.adapter.fingerprint()}
    if resumed and begun["model"] != told:
        raise UserError(
            "model: its weights are not those that this build was begun with, or the files or libraries "
            "that read rows for it are others; choose another output"
        )
    return {**begun, "model": told}


def _all_blocks(work: Work, world: World, signals: StopSignals, console: Console) -> None:
    """Every process takes every size-th block that lacks a prompt; a fault or a signal on one stops all at
    the same round."""
    blocks = sorted({number // work.config.batch for number in work.missing})
    rounds = -(-len(blocks) // world.size)
    samples = work.config.batch * work.config.builder.n * world.size
    with Progress(rounds, 0, samples, console.progress) as bar:
        for first in range(0, len(blocks), world.size):
            # none for the last ones of the last round
            mine = blocks[first + world.rank : first + world.rank + 1]
            together(world, partial(work.do, mine))
            bar.advance()
            if signum := signals.requested(world):
                bar.close()
                console.say(f"stopped by signal {signum}; the same command goes on")
                raise SystemExit(exit_code(signum))


def _summary(record: dict[str, Any], noun: str) -> list[str]:
    """What became of the prompts, in plain lines."""
    kept = record["kept"]
    lines = [
        f"{kept['pairs']} {noun} from {kept['prompts with pairs']} of {record['prompts']['count']} prompts"
    ]
    lines += _left_out.lines(record["left_out"])
    stand = record.get("as_before", {})
    lines += [f"kept as they were ({reason}): {count}" for reason, count in sorted(stand.items())]
    if record["skipped"]:
        lines.append(f"the first row that cannot be used: {record['skipped'][0]}")
    return lines
