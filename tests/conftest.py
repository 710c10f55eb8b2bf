"""Fixtures for every test; this file also lets tests import shared helpers such as bad_inputs."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from training.tiny_runs import Bench


_SHORT = {"data", "evaluation", "metrics", "objectives", "report", "rewards"}  # folders without long files


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs come first and short tests last, so that processes that share the files end together."""
    parts = {item: set(item.nodeid.split("/")) for item in items}
    items.sort(key=lambda item: (not _SHORT.isdisjoint(parts[item]), "training" not in parts[item]))


def pytest_collection_finish() -> None:
    """The modules imported so far stay: what collects garbage need not look through them again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """At the end they go like everything else; some libraries complain of what stays."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _tying_stays() -> Iterator[None]:
    """Loading models on several threads at once can leave transformers unable to tie weights, which would
    show in later tests only: the guilty one fails instead."""
    yield
    loading = sys.modules.get("transformers.modeling_utils")
    assert loading is None or loading.PreTrainedModel.tie_weights.__name__ == "tie_weights"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread, for files whose tensors are too small to share."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real test data; tests that need it are skipped where it is not at hand."""
    folder = os.environ.get("MMALIGN_TEST_DATA")
    if not folder:
        pytest.skip("MMALIGN_TEST_DATA is not set: no real test data")
    return Path(folder)


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> "Bench":
    """Tiny models and their data, for the tests of the command line; no test writes into them."""
    from training.tiny_runs import Bench, add_vision

    made = Bench(tmp_path_factory.mktemp("bench"))
    add_vision(made)
    return made


@pytest.fixture(scope="session")
def runs(bench: "Bench", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished runs of cli_runs.RUNS; tests add samples and reports only."""
    from cli_runs import train_all

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = train_all(bench, tmp_path_factory.mktemp("runs"))
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder of one call of the command line, with eight sound pairs of texts."""
    from bad_inputs import GOOD, write_rows
    from bad_models import hollow

    work = tmp_path / "work"
    work.mkdir()
    hollow(work / "nowhere")
    monkeypatch.chdir(work)
    write_rows(work / "pairs.jsonl", [GOOD | {"id": i, "prompt": f"Say {i}."} for i in range(8)])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield work
    torch.set_num_threads(threads)
