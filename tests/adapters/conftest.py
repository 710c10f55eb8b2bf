"""Fixtures of the adapter tests."""

from pathlib import Path

import pytest
from tiny_lm import FAMILIES, save_tiny


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One tiny language model folder per family."""
    root: Path = tmp_path_factory.mktemp("families")
    return {family: save_tiny(root / family, family) for family in FAMILIES}
