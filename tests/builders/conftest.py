"""Builds whose models are stand-ins: the folder that their configs name is not looked at."""

from collections.abc import Iterator
from typing import Any

import pytest

from mmalign.builders import _run


@pytest.fixture(scope="module", autouse=True)
def unglanced() -> Iterator[None]:
    """A model that is loaded is still looked at then."""

    def nothing(section: Any) -> None:
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_run, "glance_at", nothing)
        yield
