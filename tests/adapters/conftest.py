"""Fixtures of the adapter tests."""

from pathlib import Path

import pytest
import tiny_vlm
from contract import Case
from tiny_lm import FAMILIES, save_tiny

from mmalign.adapters._vision_lm import VisionLM


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One tiny language model folder per family."""
    root: Path = tmp_path_factory.mktemp("families")
    return {family: save_tiny(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def vlm_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny vision-language model folder per family."""
    root = tmp_path_factory.mktemp("vlms")
    return {family: tiny_vlm.save_vlm(family, root / family) for family in tiny_vlm.FAMILIES}


@pytest.fixture(scope="module", params=tuple(tiny_vlm.FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Each family of vision-language models in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def adapter(family: str, vlm_folders: dict[str, Path]) -> VisionLM:
    """The family's adapter."""
    return tiny_vlm.build_vlm(vlm_folders[family])


@pytest.fixture
def case(adapter: VisionLM) -> Case:
    """The family's adapter with pairs of no, one and several pictures."""
    return Case(adapter, tiny_vlm.mixed_pairs())
