"""Checkpoints that are complete or absent.

A checkpoint `checkpoints/step-000123/` is written in a temporary folder beside it, its manifest (sizes and
hashes of all files) last, and appears by one rename. A crash, a full disk or a flipped bit therefore costs
at most the newest checkpoint, and is noticed. Tensors are safetensors, everything else is JSON. Files hold
neither times nor absolute paths. Links and folders with other names in `checkpoints/` are never touched.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from mmalign.training import _files
from mmalign.training._agree import WorldError, on_main
from mmalign.training._manifest import Entry, problem, read_manifest, render_manifest
from mmalign.training._state import CheckpointState, Progress, join, num_bytes, on_cpu, split
from mmalign.training.world import World
from mmalign.types import State, UserError

Warn = Callable[[str], None]

_OURS = re.compile(r"step-\d{6,}")
_LEFTOVER = re.compile(r"step-\d{6,}\.tmp-\d+|\.trash-step-\d{6,}")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the one before it is untouched."""


@dataclass(frozen=True)
class Found:
    """A checkpoint whose every file matches its manifest."""

    path: Path
    step: int
    world_size: int


@dataclass(frozen=True)
class Scan:
    """The newest whole checkpoint, if any, and the names of newer broken ones with one warning for each."""

    found: Found | None
    broken: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def latest(folder: Path, world: World | None = None) -> Scan:
    """Search the run folder for the newest checkpoint that verifies; all processes get rank 0's answer.

    A broken one is passed over with a warning and never deleted.
    """
    return _scan(folder) if world is None else on_main(world, lambda: _scan(folder))


def _scan(folder: Path) -> Scan:
    broken: list[str] = []
    notes: list[str] = []
    for path in sorted(_own_folders(folder / "checkpoints"), key=_step_of, reverse=True):
        trouble = problem(path, _step_of(path))
        if trouble is None:
            found = Found(path, _step_of(path), read_manifest(path).world_size)
            return Scan(found, tuple(broken), tuple(notes))
        broken.append(path.name)
        notes.append(f"checkpoint {path} is broken: {trouble}; passed over")
    return Scan(None, tuple(broken), tuple(notes))


_REFERENCE = "reference.safetensors"  # only where the reference moves


def load(found: Found) -> CheckpointState:
    """Read a verified checkpoint back, all tensors on the CPU; the same for any number of processes."""
    path = found.path
    return CheckpointState(
        progress=Progress(**join({}, _files.read_json(path / "trainer.json"))),
        model=_read(path / "model.safetensors"),
        optimizer=join(_read(path / "optimizer.safetensors"), _files.read_json(path / "optimizer.json")),
        objective=_read(path / "objective.safetensors"),
        reference=_read(path / _REFERENCE) if (path / _REFERENCE).exists() else {},
    )


def _read(path: Path) -> State:
    # copies: the library's tensors are views of the file, which may be pruned while an optimizer holds them
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def estimated_bytes(state: CheckpointState) -> int:
    """What a save of `state` is expected to need, with a fifth to spare. Before the first step an optimizer
    holds nothing yet: give the model's bytes for each of its moments on top."""
    tensors = (state.model, split(dict(state.optimizer))[0], state.objective, state.reference)
    return int(1.2 * sum(map(num_bytes, tensors))) + 2**20


def check_space(folder: Path, num_bytes: int) -> None:
    """Raise UserError if fewer than `num_bytes` are free for the run folder; for use before step 1."""
    if shortage := _shortage(folder, num_bytes):
        raise UserError(f"output: {shortage}; free some space or choose another folder")


def _shortage(folder: Path, needed: int) -> str | None:
    free = _files.free_bytes(folder)
    return None if free >= needed else f"{folder} has {free} bytes free, a checkpoint needs {needed}"


@dataclass
class Saver:
    """Saves through a run. One failure is a warning and the run goes on; the second in a row raises.

    `protect` names checkpoints that are never pruned: the one just resumed from, and broken ones.
    """

    folder: Path
    world: World
    keep: int
    protect: frozenset[str] = frozenset()
    warn: Warn = warnings.warn
    failures: int = field(default=0, init=False)

    def save(self, state: CheckpointState, last: bool = False) -> Path | None:
        """The new checkpoint's folder; None after a first failure; CheckpointError at the second in a row.

        The `last` save of a run has no later one to make up for it: it is tried again at once.
        """
        try:
            path = save(self.folder, state, self.world, self.keep, self.protect, self.warn)
        except CheckpointError as error:
            self.failures += 1
            if self.failures > 1:
                raise CheckpointError(f"the second save in a row failed: {error}") from error
            again = "at once" if last else "at the next interval"
            self.warn(f"a save failed and will be tried again {again}: {error}")
            return self.save(state) if last else None
        self.failures = 0
        return path


def save(
    folder: Path,
    state: CheckpointState,
    world: World,
    keep: int,
    protect: Collection[str] = (),
    warn: Warn = warnings.warn,
) -> Path:
    """Write one checkpoint of the run folder, then prune to the newest `keep`; called by every process, done
    by rank 0.

    Returns its folder. Raises CheckpointError, on all processes, after removing what was begun; older
    checkpoints are as they were. Saving the same step with the same content again changes nothing.
    """
    assert keep >= 1, "a run keeps at least one checkpoint"
    root = folder / "checkpoints"
    final = root / f"step-{state.progress.step:06d}"
    fresh = root / f"{final.name}.tmp-{os.getpid()}"  # kept apart from what a dead run left behind

    def write() -> None:
        _begin(root, fresh, state)
        _publish(fresh, final, _write(fresh, state), world.size, warn)

    try:
        on_main(world, write)
    except WorldError as error:
        if world.is_main:
            shutil.rmtree(fresh, ignore_errors=True)
        raise CheckpointError(f"checkpoint of step {state.progress.step}: {error}") from error
    try:
        on_main(world, lambda: prune(folder, keep, {final.name, *protect}))
    except WorldError as error:
        raise CheckpointError(f"{final.name} is saved, but removing an older one failed: {error}") from error
    return final


def _begin(root: Path, fresh: Path, state: CheckpointState) -> None:
    """Clear what a crash left behind, check the space and make the temporary folder."""
    if not root.exists():
        root.mkdir(parents=True)
        _files.sync(root.parent)
    for path in root.iterdir():
        if _LEFTOVER.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            _files.remove_tree(path)
    if shortage := _shortage(root, estimated_bytes(state)):
        raise CheckpointError(shortage)
    _files.make_folder(fresh)


def _write(fresh: Path, state: CheckpointState) -> list[Entry]:
    """Write all files but the manifest; each is on the disk when its size and hash are taken."""
    moments, skeleton = split(dict(state.optimizer))
    tensors: dict[str, Mapping[str, Tensor]] = {
        "model.safetensors": state.model,
        "objective.safetensors": state.objective,
        "optimizer.safetensors": moments,
    }
    if state.reference:
        tensors[_REFERENCE] = state.reference
    stray, plain = split(asdict(state.progress))
    if stray:
        raise CheckpointError(f"progress holds tensors ({', '.join(stray)}); it takes plain values only")
    texts = {"optimizer.json": _files.json_bytes(skeleton), "trainer.json": _files.json_bytes(plain)}
    entries = [
        _store(fresh / name, num_bytes(group), partial(_put_tensors, group))
        for name, group in tensors.items()
    ]
    return entries + [
        _store(fresh / name, len(text), partial(_put_text, text)) for name, text in texts.items()
    ]


def _put_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    _files.write_tensors(path, on_cpu(tensors))


def _put_text(text: bytes, path: Path) -> None:
    _files.write_bytes(path, text)


def _store(path: Path, size: int, write: Callable[[Path], None]) -> Entry:
    """Write one file and force it to the disk; an error says which, how large, and how much room there is."""
    try:
        write(path)
        _files.sync(path)
        return Entry(path.name, path.stat().st_size, _files.sha256(path))
    except Exception as error:  # the tensor writer has an exception class of its own, bare of the file's name
        free = _files.free_bytes(path.parent)
        raise CheckpointError(f"cannot write {path} ({size} bytes, {free} free): {error}") from error


def _publish(fresh: Path, final: Path, entries: list[Entry], world_size: int, warn: Warn) -> None:
    """Write the manifest and give the folder its name: from here on the checkpoint exists."""
    manifest = render_manifest(_step_of(final), world_size, entries)
    _store(fresh / "manifest.json", len(manifest), partial(_put_text, manifest))
    _files.sync(fresh)
    if final.is_symlink() or (final.exists() and not final.is_dir()):
        raise CheckpointError(f"{final} is in the way and not a checkpoint; move it away")
    if final.exists():
        trouble = problem(final, _step_of(final))
        if trouble is None and (final / "manifest.json").read_bytes() == manifest:
            _files.remove_tree(fresh)
            return
        if trouble is None:
            raise CheckpointError(f"{final} already holds another state of this step; move it away")
        aside = next(
            p for n in range(10**6) if not (p := final.with_name(f"{final.name}.broken-{n}")).exists()
        )
        _files.rename(final, aside)
        warn(f"checkpoint {final} is broken ({trouble}); moved to {aside.name}")
    _files.rename(fresh, final)
    _files.sync(final.parent)


def prune(folder: Path, keep: int, protect: Collection[str] = ()) -> None:
    """Delete all but the newest `keep` checkpoints of a run folder, and never one named in `protect`.

    Only folders that carry our name and a manifest of that step count; the rest stays as it is.
    """
    assert keep >= 1, "a run keeps at least one checkpoint"
    root = folder / "checkpoints"
    ours = [path for path in _own_folders(root) if _looks_whole(path)]
    for path in sorted(ours, key=_step_of, reverse=True)[keep:]:
        if path.name not in protect:
            trash = root / f".trash-{path.name}"
            _files.rename(path, trash)  # so that a half deleted folder is never taken for a checkpoint
            _files.remove_tree(trash)


def _own_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [p for p in root.iterdir() if _OURS.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]


def _looks_whole(path: Path) -> bool:
    try:
        return read_manifest(path).step == _step_of(path)
    except (OSError, ValueError):
        return False


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
