"""Answers over training in the report: a row for every evaluation, thinned out, nothing of them active."""

from pathlib import Path

from fake_run import MakeRun
from PIL import Image
from test_write import EVIL, Page, assert_inert

from mmalign.evaluation.over_training import Snapshot, keep
from mmalign.report.over_training import MAX_ROWS, over_training
from mmalign.report.write import write_report
from mmalign.types import Part


def snapshot(step: int, texts: tuple[str, ...] = ("a fox", "a box")) -> Snapshot:
    parts = tuple(Part("image", Image.new("RGB", (16, 16), (step % 256, 0, i))) for i in range(len(texts)))
    return Snapshot(step, tuple(str(i) for i in range(len(texts))), texts, parts)


def test_pictures_stand_in_rows_over_training(make_run: MakeRun) -> None:
    folder: Path = make_run()
    for step in (0, 200, 400):
        keep(folder, snapshot(step))
    page = Page(write_report(folder))
    assert_inert(page)
    assert page.tags.count("img") == 6 and "Over training" in page.texts
    assert [text for text in page.texts if text.startswith("step ")] == ["step 0", "step 200", "step 400"]


def test_texts_are_data(make_run: MakeRun) -> None:
    folder: Path = make_run("text")
    keep(folder, Snapshot(0, ("a", "b"), (EVIL, "x"), (Part("text", EVIL), Part("text", " "))))
    page = Page(write_report(folder))
    assert_inert(page)
    assert EVIL in page.texts and "(empty answer)" in page.texts


def test_many_rows_are_thinned_out_and_other_prompts_start_a_table() -> None:
    html = str(over_training([snapshot(step) for step in range(0, 200, 10)]))
    assert html.count("<tr>") == 1 + MAX_ROWS and "8 of 20 evaluations" in html
    assert ">step 0<" in html and ">step 190<" in html
    two = str(over_training([snapshot(0), snapshot(10, ("a fox", "a cup"))]))
    assert two.count("<table>") == 2
    assert over_training([]) is None


def test_a_run_without_answers_has_no_such_section(make_run: MakeRun) -> None:
    assert "Over training" not in write_report(make_run()).read_text()
