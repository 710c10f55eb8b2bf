"""The notebooks in examples/ run from top to bottom, and what they say holds, stored and run anew."""

import base64
import io
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
ALIGN, OWN = EXAMPLES / "align_a_diffusion_model.ipynb", EXAMPLES / "your_own_objective.ipynb"
COMPARE = EXAMPLES / "compare_objectives_on_an_image_model.ipynb"
LOOK = EXAMPLES / "make_a_model_look.ipynb"
ARMS = ["sft", "dpo", "dpo + sdpo", "mapo", "kto", "ipo"]
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
MACHINE = re.compile(r"(?<![\w.])/(tmp|home|root|work|usr|opt|var|Users|mnt|private)/|[A-Z]:\\|site-packages")


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    """Cells of one kind, in order."""
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def outputs(path: Path) -> list[dict[str, Any]]:
    """All stored outputs, in order."""
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


def printed(path: Path) -> str:
    """What the stored run wrote to stdout."""
    streams = [one for one in outputs(path) if one["output_type"] == "stream" and one["name"] == "stdout"]
    return "".join("".join(one["text"]) for one in streams)


def run_cells(path: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """Execute the code cells in one namespace; `parameters` replace those of the cell with that tag."""
    namespace: dict[str, Any] = {"__name__": "notebook"}
    for cell in cells(path, "code"):
        exec(compile("".join(cell["source"]), f"{path.name} {cell['id']}", "exec"), namespace)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= namespace.keys()
            namespace |= parameters
    return namespace


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a notebook's files; the working folder, import path and threads are put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)
    sys.modules.pop("positive_dpo", None)


def test_there_are_notebooks() -> None:
    assert {ALIGN, OWN, COMPARE, LOOK} <= set(NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_form(path: Path) -> None:
    """Format 4.5 with ids, run once from top to bottom without an error, small, and of no machine."""
    tree = json.loads(path.read_text())
    assert (tree["nbformat"], tree["nbformat_minor"]) == (4, 5)
    assert tree["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in tree["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", name) for name in ids)
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert os.path.getsize(path) < 400_000
    for output in outputs(path):
        assert output["output_type"] in ("stream", "execute_result"), output
        data = output.get("data", {"text/plain": output.get("text", "")})
        words = ["".join(text) for mime, text in data.items() if not mime.startswith("image/p")]
        assert not any(MACHINE.search(text) or "\r" in text for text in words), words


def test_stored_pictures() -> None:
    """Pictures before, the pairs, before and after, samples, and the judged ones; curves as SVG."""
    data = [output["data"] for output in outputs(ALIGN) if "data" in output]
    drawn = [base64.b64decode("".join(one["image/png"])) for one in data if "image/png" in one]
    sheets = [Image.open(io.BytesIO(png)) for png in drawn]
    width, height = sheets[0].size
    assert [sheet.size for sheet in sheets] == [(width, height * lines) for lines in (1, 2, 2, 1, 2)]
    assert all(len(sheet.convert("RGB").getcolors(1 << 20) or ()) > 50 for sheet in sheets)
    (curves,) = ["".join(one["image/svg+xml"]) for one in data if "image/svg+xml" in one]
    assert curves.count("<polyline") == 8


def test_stored_figures_of_the_alignment() -> None:
    """The text's claims: the interval is above one half, shapes are filled, the loser's error grows more."""
    said = printed(ALIGN)
    rate = re.search(r"win rate [\d.]+ % \[([\d.]+), ([\d.]+)\]", said)
    assert rate and float(rate[1]) > 50
    solid = re.search(r"solidity .* change (\S+) \[(\S+), (\S+)\]", said)
    assert solid and float(solid[2]) > 0
    errors = {role: float(gap) for role, gap in re.findall(r"error of (\w+) +(\S+) against", said)}
    assert errors["rejected"] > max(0.0, errors["chosen"])
    assert "the base is what it was: True" in said


def test_stored_figures_of_the_own_objective() -> None:
    """The text's claims: ln 2 at the start, then less; fewer chosen responses fall than with plain DPO."""
    said = printed(OWN)
    found = re.findall(r"^(text|image) +(dpo|own) +([\d.]+) -> ([\d.]+) +(\S+) +(\S+) +(\S+)$", said, re.M)
    rows = {(kind, name): [float(value) for value in values] for kind, name, *values in found}
    assert len(rows) == 4
    for first, last, margin, accuracy, _ in rows.values():
        assert first == 0.6931 > last and margin > 0 and accuracy > 0.5
    for kind in ("text", "image"):
        assert rows[kind, "own"][4] < rows[kind, "dpo"][4]
        assert rows[kind, "own"][2] < rows[kind, "dpo"][2]


def compared(said: str) -> dict[str, dict[str, list[float]]]:
    """The comparison's table by run: rates and change of faithfulness with intervals, counts and rises."""
    number = r"([+-]?[\d.]+)"
    span = rf"{number}%? \[{number}, {number}\]"
    line = rf"^([a-z+ ]+?) +{span} +(?:{span})? +{number} +{number} +(\d+) of (\d+) +{span}"
    line += rf" +{number}% +{number}%"
    names = {"base": slice(0, 3), "sft": slice(3, 6), "solidity": slice(6, 8), "seen": slice(8, 10)}
    names |= {"faithfulness": slice(10, 13), "rise": slice(13, 15)}
    found = {}
    for name, *fields in re.findall(line, said, re.M):
        values = [float(field) if field else math.nan for field in fields]
        found[name] = {key: values[places] for key, places in names.items()}
    return found


def test_stored_figures_of_the_comparison() -> None:
    """The text's claims: all beat the base; what losers add, what dpo pays, what sdpo keeps."""
    rows = compared(printed(COMPARE))
    assert list(rows) == ARMS
    rates = [row["base"] for row in rows.values()]
    assert min(low for _, low, _ in rates) > 50
    assert max(low for _, low, _ in rates) < min(high for _, _, high in rates)  # all intervals overlap
    assert all(rows[arm]["sft"][1] > 50 for arm in ("dpo", "mapo", "kto", "ipo"))
    assert [min(each) for each in zip(*(r["solidity"] for r in rows.values()), strict=True)][1] >= 0.005
    assert max(row["solidity"][1] for row in rows.values()) < 0.055
    seen = {arm: row["seen"][0] for arm, row in rows.items()}
    assert (min(seen.values()), max(seen.values()), max(seen, key=lambda arm: seen[arm])) == (5, 22, "dpo")
    assert all(low <= 0 <= high for _, low, high in (row["faithfulness"] for row in rows.values()))
    winner = {arm: row["rise"][0] for arm, row in rows.items()}
    assert winner["dpo"] > 1 and all(abs(winner[arm]) < 0.3 for arm in ("mapo", "kto", "ipo"))
    assert winner["dpo + sdpo"] < 0 and abs(winner["dpo + sdpo"] - winner["sft"]) < 0.1


def test_stored_pictures_of_the_comparison() -> None:
    """Every run has a curve in every panel, two spots with intervals, and a line of eight pictures."""
    data = [output["data"] for output in outputs(COMPARE) if "data" in output]
    drawn = ["".join(one["image/svg+xml"]) for one in data if "image/svg+xml" in one]
    assert [svg.count("<polyline") for svg in drawn] == [12, 12, 0]
    assert drawn[2].count("<circle") == 12
    (png,) = ["".join(one["image/png"]) for one in data if "image/png" in one]
    sheet = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    assert sheet.size == (84 + 8 * 68, 7 * 68) and len(sheet.getcolors(1 << 20) or ()) > 50


def looked(said: str) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Margins of both runs (first and last, with the picture and without), and what every model names: rates
    of hallucination and recall in percent, POPE's accuracy."""
    pairs = r"([+-][\d.]+) -> ([+-][\d.]+)"
    found = re.findall(rf"^(dpo|mdpo) +with picture {pairs}, without {pairs}$", said, re.M)
    margins = {arm: [float(value) for value in values] for arm, *values in found}
    figure = r" +([\d.]+)(?: \[[\d.]+, [\d.]+\])?"
    named = re.findall(rf"^(base|sft|dpo|mdpo){3 * figure}(?= |$)", said, re.M)
    return margins, {who: [float(value) for value in values] for who, *values in named}


def test_stored_figures_of_looking() -> None:
    """The text's claims: all hallucinate less, dpo pays in recall, mdpo owes less to words alone."""
    margins, named = looked(printed(LOOK))
    assert list(named) == ["base", "sft", "dpo", "mdpo"]
    base = named["base"]
    assert all(named[arm][0] < base[0] / 10 for arm in ("sft", "dpo", "mdpo"))
    assert named["dpo"][1] < base[1] - 30 and min(named["mdpo"][1], named["sft"][1]) >= base[1]
    assert margins["mdpo"][1] > margins["mdpo"][0] and margins["dpo"][1] > margins["dpo"][0]
    assert 0 < margins["mdpo"][3] < margins["dpo"][3]
    data = [output["data"] for output in outputs(LOOK) if "data" in output]
    assert [sorted(one)[0] for one in data] == ["image/png", "image/svg+xml", "image/png"]
    assert "".join(data[1]["image/svg+xml"]).count("<polyline") == 4


def test_make_a_model_look(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"STEPS": 2, "PARTS": 1, "PAIRS": 32, "HELDOUT": 6, "SCENES": 4, "OUTPUT": str(folder)}
    found = run_cells(LOOK, small)
    margins, named = looked(capsys.readouterr().out)
    assert set(margins) == {"dpo", "mdpo"} and set(named) == {"base", "sft", "dpo", "mdpo"}
    for arm in ("dpo", "mdpo"):
        held = found["logs"][arm].heldout
        assert margins[arm][2:] == pytest.approx(
            [held["margin_without_image"].first, held["margin_without_image"].last], abs=0.006
        )
        assert held["loss"].first == pytest.approx(math.log(2) * (3 if arm == "mdpo" else 1), abs=1e-4)
    assert set(found["answers"]) == {"base", "sft", "dpo", "mdpo"} and len(found["answers"]["base"]) == 4


def test_align_a_diffusion_model(folder: Path) -> None:
    small = {"STEPS": 8, "HELDOUT": 5, "PROMPTS": 4, "SAMPLING_STEPS": 3, "OUTPUT": str(folder)}
    found = run_cells(ALIGN, small)
    held = found["log"].heldout
    assert held["loss"].first == pytest.approx(math.log(2), abs=1e-5)
    assert held["loss"].last < held["loss"].first
    assert held["reward/margin"].last > 0 == held["reward/margin"].first
    assert held["implicit_acc"].last > 0.5
    assert found["same"] is True
    changed = [a.data != b.data for a, b in zip(found["before"], found["after"], strict=True)]
    assert any(changed)
    assert found["rate"].num == 4 and (folder / "align" / "report.html").is_file()
    assert found["Drawing"]("<svg/>")._repr_svg_() == "<svg/>"


def test_your_own_objective(folder: Path) -> None:
    small = {"TEXT_STEPS": 4, "IMAGE_STEPS": 5, "HELDOUT": 4, "OUTPUT": str(folder)}
    found = run_cells(OWN, small)
    kinds = {name: {scores.kind for scores in roles.values()} for name, roles in found["seen"].items()}
    assert kinds == {"text": {"exact"}, "image": {"surrogate"}}
    for penalty, (loss, chosen, rejected) in {  # the table of the text
        0.0: (0.5130, -0.0401, 0.0401),
        2.0: (0.6931, -0.15, 0.05),
    }.items():
        assert found["worked"][penalty][0] == pytest.approx(loss, abs=5e-5)
        assert found["worked"][penalty][1] == pytest.approx([chosen] * 2, abs=5e-5)
        assert found["worked"][penalty][2] == pytest.approx([rejected] * 2, abs=5e-5)
    assert found["picture"] == pytest.approx({0.0: 0.3133, 2.0: 0.6931}, abs=5e-5)
    for kind in ("text", "image"):
        held = found["logs"][kind, "own"].heldout
        assert held["loss"].first == pytest.approx(math.log(2), abs=1e-5)
        assert held["loss"].last < held["loss"].first
        assert held["reward/margin"].last > 0 == held["reward/margin"].first
    assert "--allow-code" in found["refusal"]


def test_compare_objectives(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"STEPS": 4, "PARTS": 2, "PAIRS": 4, "LEVELS": 3, "PROMPTS": 4, "SAMPLING_STEPS": 2}
    found = run_cells(COMPARE, small | {"OUTPUT": str(folder)})
    rows = compared(capsys.readouterr().out)
    assert list(rows) == list(found["ARMS"]) == ARMS
    assert all(row["seen"][1] == 4 for row in rows.values())
    measured, finished = found["measured"], found["finished"]
    assert set(measured) == {"base", *((arm, step) for arm in ARMS for step in (2, 4))}
    assert all(one.shape == (3, 2, 4) and bool((one > 0).all()) for one in measured.values())
    for arm in ARMS:  # every checkpoint was read, the last is what the judge saw, and the base is the base
        assert not torch.equal(measured[arm, 2], measured[arm, 4])
        with finished[arm].tuned() as model:
            assert torch.equal(found["errors"](finished[arm], model), measured[arm, 4])
        with finished[arm].base() as model:
            assert torch.equal(found["errors"](finished[arm], model), measured["base"])
        assert rows[arm]["rise"] == pytest.approx([found["rise"](arm, 4, side) for side in (0, 1)], abs=0.006)
    by_hand = measured["dpo", 4][:, 1].mean() / measured["base"][:, 1].mean() - 1
    assert found["rise"]("dpo", 4, 1) == pytest.approx(100 * float(by_hand))
    assert found["rise"]("dpo", 4, 1) > found["rise"]("dpo", 4, 0)  # the margin grows
    kept = found["rises"]("dpo", 0)
    assert [level for level, _ in kept] == pytest.approx([1 / 6, 1 / 2, 5 / 6])
