"""mmalign: preference alignment for text, vision-language, video and diffusion models through one seam.

The verbs of the command line are functions here: `train`, `check`, `sample`, `evaluate`, `build`, `export`,
`write_report`, `load_config`; `open_run` loads a finished run once for several of them. `Objective`,
`Outcome` and the other records are what an objective of your own needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mmalign.api import (
        build,
        check,
        evaluate,
        export,
        load_config,
        measure,
        open_run,
        sample,
        train,
        write_report,
    )
    from mmalign.types import Changed, Objective, Outcome, PreferenceSample, Transform, UserError

__all__ = [
    "Changed",
    "Objective",
    "Outcome",
    "PreferenceSample",
    "Transform",
    "UserError",
    "build",
    "check",
    "evaluate",
    "export",
    "load_config",
    "measure",
    "open_run",
    "sample",
    "train",
    "write_report",
]


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    """Public names load on first use, so that importing the package costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'mmalign' has no attribute {name!r}")
    from mmalign import api, types

    return getattr(types if name[0].isupper() else api, name)
