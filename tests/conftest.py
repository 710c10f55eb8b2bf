"""Fixtures for every test; this file also lets tests import shared helpers such as bad_inputs."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real test data; tests that need it are skipped where it is not at hand."""
    folder = os.environ.get("MMALIGN_TEST_DATA")
    if not folder:
        pytest.skip("MMALIGN_TEST_DATA is not set: no real test data")
    return Path(folder)
