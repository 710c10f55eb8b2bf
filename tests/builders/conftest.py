"""Builds whose models are stand-ins: the folder that their configs name is not looked at."""

from typing import Any

import pytest

from mmalign.builders import _run


@pytest.fixture(autouse=True)
def unglanced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is loaded is still looked at then."""

    def nothing(section: Any) -> None:
        return None

    monkeypatch.setattr(_run, "glance_at", nothing)
