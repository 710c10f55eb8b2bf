"""The tables of builders name all of them, and say truly what they ask and which configs show them."""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import mmalign.builders
from mmalign._names import KINDS, class_of, names

FOLDER = Path(mmalign.builders.__file__).parent
CONFIGS = FOLDER.parents[1] / "configs" / "build"


def tables() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The cells of both tables by builder: what it takes, makes and asks, and what it leaves out."""
    found: list[dict[str, list[str]]] = [{}, {}]
    for line in (FOLDER / "README.md").read_text().splitlines():
        if line.startswith("| `"):
            first, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            name = re.fullmatch(r"`(\w+)`(?: \((\S+)\))?", first)
            assert name is not None, first
            found[len(cells) == 1][name[1]] = [name[2] or "", *cells]
    return found[0], found[1]


TAKES, LEAVES = tables()


def test_both_tables_name_every_builder() -> None:
    assert sorted(TAKES) == sorted(LEAVES) == names(KINDS["builder"])


@pytest.mark.parametrize("name", names(KINDS["builder"]))
def test_a_builder_is_told_truly(name: str) -> None:
    cls: Any = class_of(KINDS["builder"], name)
    paper, _, _, asks, configs = TAKES[name]
    source = inspect.getdoc(sys.modules[cls.__module__]) or ""
    assert re.findall(r"arXiv (\d{4}\.\d{5})", source)[:1] == ([paper] if paper else [])
    judge = "may" if "judge if wanted" in asks else "judge" in asks
    assert judge == cls.asks_judge and ("helper" in asks) == (cls.asks_helper != "no")
    for config in re.findall(r"`(\w+)`", configs):
        tree = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())
        assert tree["builder"]["name"] == name and ("judge" in tree) <= (cls.asks_judge is not False)
    assert configs


def test_every_config_of_a_build_is_in_the_table() -> None:
    named = {config for cells in TAKES.values() for config in re.findall(r"`(\w+)`", cells[-1])}
    builds = {path.stem for path in CONFIGS.glob("*.yaml") if "builder" in yaml.safe_load(path.read_text())}
    assert named == builds
