"""Who may import whom, read off the syntax trees, and what importing costs, seen in one fresh process."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmalign
from mmalign._names import KINDS, names

PACKAGE = Path(mmalign.__file__).parent
# a unit imports only units of lower rank; units of one rank never import each other
RANKS = {
    "likelihoods": -1, "clips": -1, "walks": -1, "completing": -1, "messages": -2,
    "judging": 0, "writing": 0,
    "types": 1,  # gives the names of these too
    "objectives": 2, "blind": 2,
    "config": 3,  # with the private modules beside it
    "adapters": 4, "data": 4, "rewards": 4, "writers": 4,
    "metrics": 5,
    "evaluation": 6, "decoding": 6, "shapes": 6, "catalogue": 6,
    "training": 7,
    "builders": 8, "report": 8,
    "measuring": 9,
    "api": 10, "launching": 10,
    "cli": 11,
    "__main__": 12, "__init__": 12,
}  # fmt: skip
BESIDE_CONFIG = {"_build", "_evaluation", "_fields", "_names", "_online", "_relative", "_schema", "_yaml"}
NEUTRAL = {"__version__"}  # attributes of the package itself
FENCES = {  # library -> the only units that may import it
    "accelerate": {"training"},
    "peft": {"training", "adapters"},
    "transformers": {"adapters", "rewards", "shapes"},
    "diffusers": {"adapters", "rewards", "shapes"},
    "tokenizers": {"adapters", "rewards", "shapes"},
    "huggingface_hub": {"adapters", "rewards"},
    "open_clip": {"builders", "rewards"},
    "datasets": {"data"},
    "pyarrow": {"data", "builders"},
    "typer": {"cli"},
    "pydantic": {"config"},
    "yaml": {"config"},
}
HEAVY = ("transformers", "diffusers", "peft", "accelerate", "datasets", "open_clip")


def unit_of(name: str) -> str:
    """The unit that a module of the package, `adapters.text` or `_yaml`, belongs to."""
    first = name.split(".")[0]
    return "config" if first in BESIDE_CONFIG else first


def modules() -> list[tuple[str, Path]]:
    """Every module of the package as its dotted name without the package, and its file."""
    return [
        (".".join(path.relative_to(PACKAGE).with_suffix("").parts), path)
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module == "mmalign":
                yield from ((node.lineno, f"mmalign.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, str(node.module)


IMPORTS = [(name, line, what) for name, path in modules() for line, what in imported(path)]
OWN = [(n, line, w.removeprefix("mmalign.")) for n, line, w in IMPORTS if w.startswith("mmalign.")]


def test_every_module_has_a_rank() -> None:
    assert {unit_of(name) for name, _ in modules()} <= set(RANKS)
    assert len(OWN) > 100


def test_imports_point_one_way() -> None:
    wrong = [
        f"{name}:{line} imports {what}"
        for name, line, what in OWN
        if what not in NEUTRAL
        and unit_of(name) != unit_of(what)
        and RANKS[unit_of(name)] <= RANKS[unit_of(what)]
    ]
    assert wrong == []


def test_no_module_names_a_selectable_file_of_another_folder() -> None:
    """Files that configs choose by name are reached by name, so that adding one touches nothing else."""
    chosen = {f"{k.folder.replace('/', '.')}.{n}" for k in KINDS.values() for n in names(k)}
    wrong = [
        f"{name}:{line} imports {what}"
        for name, line, what in OWN
        if what in chosen and name.rpartition(".")[0] != what.rpartition(".")[0]
    ]
    assert wrong == []


@pytest.mark.parametrize("library", FENCES)
def test_libraries_stay_behind_their_fences(library: str) -> None:
    wrong = [
        f"{name}:{line}"
        for name, line, what in IMPORTS
        if what.split(".")[0] == library and unit_of(name) not in FENCES[library]
    ]
    assert wrong == []


def test_the_maths_needs_torch_and_the_standard_library_only() -> None:
    wrong = [
        f"{name}:{line} imports {what}"
        for name, line, what in IMPORTS
        if unit_of(name) in ("likelihoods", "types", "objectives")
        and what.split(".")[0] not in {*sys.stdlib_module_names, "torch", "mmalign"}
    ]
    assert wrong == []


def test_imports_stay_cheap() -> None:
    """The package, the config, and every file a config can name load no model library."""
    files = [f"mmalign.{k.folder.replace('/', '.')}.{n}" for k in KINDS.values() for n in names(k)]
    steps = [
        "mmalign",
        "mmalign.types",
        "mmalign.config",
        *dict.fromkeys(files),
        "mmalign.catalogue",
        "mmalign.cli",
    ]
    program = (
        "import importlib, json, sys\n"
        "found = {}\n"
        f"for name in {steps!r}:\n"
        "    importlib.import_module(name)\n"
        f"    found[name] = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "    if name == 'mmalign': found['torch'] = ['torch'] if 'torch' in sys.modules else []\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {*steps, "torch"}
    assert {name: loaded for name, loaded in found.items() if loaded} == {}


def test_names_of_test_files_differ() -> None:
    """pytest imports them by their names alone, and two of one name only in runs of a part."""
    found = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(found) == sorted(set(found))
