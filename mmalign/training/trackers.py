"""The lines of metrics.jsonl to experiment trackers (TensorBoard, Weights & Biases, ...), each line once.

A run that goes on repeats steps after its last checkpoint; what a tracker has been given already is noted in
trackers.json beside the log, so nothing is sent twice, and what it missed is sent from the file.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.config import RunConfig, to_tree
from mmalign.training import _files
from mmalign.training._files import replace_bytes
from mmalign.training.console import Console
from mmalign.types import UserError

_PROJECT = "mmalign"
_LOCAL = "tensorboard"  # writes into a folder of this name in the run's own
_GOES_ON = (_LOCAL, "wandb")  # these add to the same run when it is taken up again; others open a new one

Place = tuple[int, int]  # a step, and how many lines of that step
_NOTHING: Place = (-1, 0)


def check_trackers(names: Sequence[str]) -> None:
    """Raise UserError for a name that accelerate does not know or whose package is not installed."""
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    installed = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise UserError(f"log.trackers: {name!r} is no tracker that accelerate knows; known: {known}")
        if name not in installed:
            package = name.replace("_", "-")
            raise UserError(f"log.trackers: {name} is not installed; pip install {package}, or leave it out")


class Trackers:
    """Trackers of one run folder. One that fails is left out with a warning: the run and its log go on, and
    the next run in this folder sends what is missing."""

    def __init__(self, config: RunConfig, folder: Path, console: Console | None) -> None:
        """Start all of them, with the config as hyperparameters. Raises UserError naming one that cannot."""
        self._file = folder / "trackers.json"
        self._console = console
        known = self._read()
        self._run: str = known["run"] if known else uuid.uuid4().hex[:12]
        self._sent: dict[str, Place] = {name: tuple(place) for name, place in known.get("sent", {}).items()}
        self._place = _NOTHING
        self._live: dict[str, Any] = {}
        settings = hyperparameters(config)
        for name in config.log.trackers:
            try:
                self._live[name] = _started(name, folder, self._run)
                if name not in self._sent or name not in _GOES_ON:
                    self._live[name].store_init_configuration(settings)
            except Exception as error:  # whatever a service raises: no login, no network
                reason = _first_line(error)
                raise UserError(
                    f"log.trackers: {name} could not start ({reason}); mend it or leave it out"
                ) from error
            self._sent.setdefault(name, _NOTHING)
        self._remember()

    def _read(self) -> dict[str, Any]:
        if not self._file.exists():
            return {}
        try:
            tree: dict[str, Any] = _files.read_json(self._file)
            for name in ("run", "sent"):
                tree[name]
            return tree
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._file}: not a record of what trackers hold ({error}); remove the file, and every "
                "tracker is sent all lines"
            ) from error

    def replay(self, log: Path) -> None:
        """Send every line of metrics.jsonl that a tracker lacks; before any `write`."""
        for line in log.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            self.write(values.pop("step"), values)

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Send one line to every tracker that lacks it. Non-finite numbers may be given as strings."""
        self._place = (step, self._place[1] + 1 if step == self._place[0] else 1)
        numbers = {name: float(value) for name, value in values.items()}
        lacking = [name for name in self._live if self._sent[name] < self._place]
        for name in lacking:
            try:
                self._live[name].log(numbers, step=step)
            except Exception as error:  # a service that is down must not end hours of training
                del self._live[name]
                self._warn(f"tracker {name} failed at step {step} ({_first_line(error)}) and is left out")
            else:
                self._sent[name] = self._place
        if lacking:
            self._remember()

    def close(self) -> None:
        """Let every tracker finish."""
        for name, tracker in self._live.items():
            try:
                tracker.finish()
            except Exception as error:
                self._warn(f"tracker {name} did not finish ({_first_line(error)})")
        self._live.clear()

    def _remember(self) -> None:
        sent = {name: list(place) for name, place in self._sent.items()}
        replace_bytes(self._file, _files.json_bytes({"run": self._run, "sent": sent}))

    def _warn(self, line: str) -> None:
        if self._console is not None:
            self._console.warn(line)


def hyperparameters(config: RunConfig) -> dict[str, bool | int | float | str]:
    """The resolved config as flat plain values, "train.lr": 1e-05; lists as JSON, null as the word."""

    def walk(value: Any, name: str) -> dict[str, bool | int | float | str]:
        if isinstance(value, Mapping):
            found: dict[str, bool | int | float | str] = {}
            for key, inner in value.items():
                found |= walk(inner, f"{name}.{key}" if name else str(key))
            return found
        return {name: value if isinstance(value, bool | int | float | str) else json.dumps(value)}

    return walk(to_tree(config), "")


def _started(name: str, folder: Path, run: str) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    settings = {}
    if name == "wandb":  # an id of its own, so that the service can add to the run when it is taken up again
        settings = {"name": folder.name, "id": run, "resume": "allow", "dir": str(folder)}
    title = _LOCAL if name == _LOCAL else _PROJECT
    place = [str(folder)] if kind.requires_logging_directory else []
    tracker = kind(title, *place, **settings)
    tracker.start()
    return tracker


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
