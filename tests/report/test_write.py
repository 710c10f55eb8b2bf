"""The whole report: what it shows, that nothing in it is active, and that it needs nothing from elsewhere."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fake_run import MakeRun, config_of, pictured, told

from mmalign.evaluation.comparison import Answered, Comparison, JudgeNote
from mmalign.metrics import _measured
from mmalign.metrics._measured import Block, Measured
from mmalign.metrics._resampling import Figure
from mmalign.report.pairs import MAX_PAIRS
from mmalign.report.write import write_report
from mmalign.training.record import MetricsLog
from mmalign.types import Part, UserError

EVIL = "</pre></title><script src=https://evil.example/x.js>alert('1')</script><img src=x onerror=alert(2)>\""
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "article", "div", "p"),
    *("h1", "h2", "h3", "dl", "dt", "dd", "ul", "li", "b", "span", "code", "strong", "figure", "figcaption"),
    *("svg", "line", "polyline", "polygon", "circle", "text", "table", "thead", "tbody", "tr", "th", "td"),
    *("details", "summary", "pre", "img"),
}


class Page(HTMLParser):
    """Elements, attributes and texts of a page; refuses tags that are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def assert_inert(page: Page) -> None:
    """Known elements only, no handlers, no links, nothing to load."""
    assert set(page.tags) <= TAGS
    for tag, name, value in page.attributes:
        assert not name.startswith("on") and name not in ("href", "srcset", "action", "style"), (tag, name)
        if name == "src":
            assert tag == "img" and re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", value)
    css = page.source.split("<style>")[1].split("</style>")[0]
    assert not re.search(r"@import|@font-face|url\(|https?:|//", css)
    policies = [value for tag, name, value in page.attributes if tag == "meta" and name == "content"]
    assert any(
        value.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'") for value in policies
    )


def test_a_diffusion_run(make_run: MakeRun) -> None:
    folder = make_run(comparison=pictured(12))
    page = Page(write_report(folder))
    assert_inert(page)
    assert not re.search(r"https?://", page.source)
    assert page.tags.count("img") == 24 and page.tags.count("article") == 12
    for word in (
        "dpo on diffusion",
        "2000.0",
        "LoRA of rank 8",
        "Win rate of tuned over base",
        "Denoising error",
    ):
        assert word in page.texts
    rate = pictured(12).win_rate
    assert rate is not None and f"{100 * rate.rate:.0f}%" in page.texts
    assert " reference: lora_off" in page.texts and "2.15.0" in page.texts
    assert str(folder) not in page.source


@pytest.mark.parametrize(
    ("wanted", "notes", "shown"),
    [
        ("auto", ["reference: cached, 12 samples scored now", "reference: lora_off"], "lora_off"),
        ("copy", ["reference: copy"], "copy"),
        ("auto", ["rows: 3 shortened"], "none"),
    ],
)
def test_the_header_names_the_reference_that_was_used(
    make_run: MakeRun, wanted: str, notes: list[str], shown: str
) -> None:
    config = {"reference": {"name": wanted, "path": None}}
    page = Page(write_report(make_run("text", config=config, record={"notes": notes})))
    assert page.texts[page.texts.index("reference") + 1] == shown


def test_a_text_run(make_run: MakeRun) -> None:
    page = Page(write_report(make_run("text", told(5))))
    assert_inert(page)
    assert "img" not in page.tags and page.tags.count("article") == 5
    assert "The fox went to the river because the otter had called.\nThey shared the fish." in page.texts
    assert "Length" in page.texts and "Denoising error" not in page.texts


def test_the_same_files_give_the_same_report(make_run: MakeRun) -> None:
    folder = make_run(comparison=pictured(3))
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert not list(folder.glob(".report*"))


def test_nothing_in_a_run_folder_becomes_markup(make_run: MakeRun) -> None:
    text, scores = Part("text", EVIL), {"score": 0.5, EVIL: 1.0}
    rows = tuple(Answered(f"{i}{EVIL}", EVIL, (), text, text, scores, scores) for i in range(3))
    config = config_of("text", **{EVIL: EVIL}, objective={"name": EVIL, EVIL: EVIL}, model={"adapter": EVIL})
    record: dict[str, Any] = {
        "notes": [EVIL], "skipped": {f"NaN{EVIL}": 1}, "versions": {EVIL: EVIL}, "device": EVIL,
        "data": {EVIL: {EVIL: [EVIL]}}, "git": {"commit": EVIL, "dirty": True}, "config_hash": EVIL,
        "status": EVIL,
    }  # fmt: skip
    folder = make_run("text", Comparison(rows, 0), config, record, steps=0)
    with MetricsLog(folder, 0) as log:
        log.write(1, {EVIL: 1.0, f"heldout/{EVIL}": 1.0, f"reward/{EVIL}": float("nan"), "reward/x": 1.0})
    page = Page(write_report(folder))
    assert_inert(page)
    assert page.text.count(EVIL) >= 30


def test_at_most_so_many_pairs(make_run: MakeRun) -> None:
    page = Page(write_report(make_run("text", told(MAX_PAIRS + 3))))
    assert page.tags.count("article") == MAX_PAIRS
    assert f"The first {MAX_PAIRS} of {MAX_PAIRS + 3} prompts" in page.text


def test_a_run_that_has_only_begun(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(steps=0, record={"status": "running", "notes": []})))
    assert_inert(page)
    assert "Curves" not in page.texts and "Result" not in page.texts
    assert "the run is running at step 0, not finished" in page.text and "Not evaluated yet" in page.text


def test_a_run_with_benchmarks_alone(make_run: MakeRun) -> None:
    folder = make_run("text")
    block = Block("", "", 1, {"base": {"acc": Figure(1.0)}, "tuned": {"acc": Figure(0.0)}}, {})
    _measured.write(folder, Measured("pope", "Reads `label`.", True, (), (), (block,)), {})
    page = Page(write_report(folder))
    assert "Not evaluated yet" not in page.text and "evaluate without --metric answers" in page.text
    assert "pope * (1 item)" in page.text and "`" not in page.text.split("Resolved config")[0]


def test_without_a_judge_there_is_no_win_rate(make_run: MakeRun) -> None:
    text = Part("text", " ")
    page = Page(write_report(make_run("text", Comparison((Answered("a", "b", (), text, text, {}, {}),), 0))))
    assert "Win rate of tuned over base" not in page.texts and "Held-out loss" in page.texts
    assert page.texts.count("(empty answer)") == 2


def test_pictures_in_prompts_are_shown(make_run: MakeRun) -> None:
    (row,) = pictured(1).rows
    seen = Answered(
        row.id, "what is this?", (row.base,), Part("text", "a circle"), Part("text", "a disc"), {}, {}
    )
    page = Page(write_report(make_run("text", Comparison((seen,), 0))))
    assert_inert(page)
    assert page.tags.count("img") == 1 and "a disc" in page.texts


def test_warnings_of_the_run_stand_among_the_findings(make_run: MakeRun) -> None:
    notes = ["reference: none", "warning: objective.beta 0.1 will hardly move"]
    page = write_report(make_run("text", record={"notes": notes})).read_text()
    assert '<li class="caution"><b>caution</b> objective.beta 0.1 will hardly move</li>' in page
    assert "no rule for warnings applies" not in page and "<b>note</b> reference: none" in page


def test_a_sum_of_objectives_is_named(make_run: MakeRun) -> None:
    terms = [{"name": "dpo", "weight": 1.0, "beta": 0.3}, {"name": "sft", "weight": 0.1, "views": {"x": 1}}]
    texts = Page(write_report(make_run("text", config={"objective": terms}))).texts
    assert "dpo + sft on text" in texts and "weight 0.1" in texts and "weight 1.0, beta 0.3" in texts


def test_refusals(tmp_path: Path, make_run: MakeRun) -> None:
    with pytest.raises(UserError, match=r"holds no run \(run.json is missing\)"):
        write_report(tmp_path)
    folder = make_run("text", steps=10)
    (folder / "config.yaml").unlink()
    with pytest.raises(UserError, match="config.yaml: no such file"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_the_judge_and_its_costs_are_named(make_run: MakeRun) -> None:
    comparison = replace(told(4), costs=("length",), judges=(JudgeNote("Reading", "Scores <texts>."),))
    page = write_report(make_run(comparison=comparison)).read_text()
    assert "length (less is better)" in page and "score (less" not in page
    assert "Scored by Reading: Scores &lt;texts&gt;." in page
