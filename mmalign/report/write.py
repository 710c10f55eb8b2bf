"""One offline HTML file from the files of a run folder."""

from __future__ import annotations

import os
from pathlib import Path

from mmalign._yaml import parse_file
from mmalign.evaluation import comparison as comparisons
from mmalign.evaluation import over_training as snapshots
from mmalign.metrics import _measured
from mmalign.report import sections
from mmalign.report.alarms import find_alarms
from mmalign.report.html import document
from mmalign.report.levels import noise_levels
from mmalign.report.measured import benchmarks
from mmalign.report.over_training import over_training
from mmalign.report.pairs import pairs
from mmalign.report.series import read_metrics
from mmalign.training.record import RunRecord
from mmalign.types import UserError


def write_report(run_folder: Path) -> Path:
    """Write report.html into a run folder, from config.yaml, run.json, metrics.jsonl and evaluation/.

    It may be called at any time of a run and again after it; the same files give the same bytes. Classes that
    the config names are not imported. Raises UserError naming the file if the folder holds no run or a file
    in it is not what it should be.
    """
    record = RunRecord.read(run_folder)
    if record is None:
        raise UserError(f"{run_folder}: holds no run (run.json is missing)")
    config = parse_file(run_folder / "config.yaml")
    metrics = read_metrics(run_folder / "metrics.jsonl")
    comparison = comparisons.read(run_folder)
    found = _measured.read(run_folder)
    parts = [
        sections.header(config, record),
        sections.headline(metrics, comparison),
        benchmarks(found),
        sections.warnings(find_alarms(record, metrics, comparison), record.notes),
        sections.curves(metrics),
        noise_levels(metrics),
        over_training(snapshots.read(run_folder)),
        pairs(comparison, bool(found)),
        sections.origin(record),
        sections.resolved_config((run_folder / "config.yaml").read_text(encoding="utf-8-sig")),
    ]
    css = Path(__file__).with_name("style.css").read_text(encoding="ascii")
    page = document(sections.title_of(config), css, *(part for part in parts if part is not None))
    target, fresh = run_folder / "report.html", run_folder / ".report.html.tmp"
    fresh.write_text(str(page), encoding="utf-8")
    os.replace(fresh, target)
    return target
