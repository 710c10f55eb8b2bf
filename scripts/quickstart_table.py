"""Print what the quickstart's runs reached, and where their reports lie: quickstart_table.py RUN [RUN ...]"""

import sys
from pathlib import Path

from mmalign._names import KINDS, name_of
from mmalign.evaluation.comparison import TOTAL, Comparison, read
from mmalign.training.finished import read_config
from mmalign.training.record import RunRecord


def main() -> None:
    print(f"{'modality':10}{'objective':12}{'steps':>6}{'score':>10}{'tuned':>10}   win rate, 95 % interval")
    found: dict[str, Comparison] = {}
    for name in sys.argv[1:]:
        folder = Path(name)
        config, record, comparison = read_config(folder), RunRecord.read(folder), read(folder)
        if record is None or comparison is None or comparison.win_rate is None:
            raise SystemExit(f"{folder}: train and evaluate it first")
        terms = getattr(config.objective, "terms", None)
        single = name_of(KINDS["objective"], type(config.objective))
        objective = single if terms is None else " + ".join(label for label, _, _ in terms)
        found[folder.name] = comparison
        score, rate = comparison.means["score"], comparison.win_rate
        row = f"{folder.name:10}{objective:12}{record.step:6d}{score.base:10.3f}{score.tuned:10.3f}"
        print(f"{row}   {rate.rate:.1%} [{rate.low:.1%}, {rate.high:.1%}] on {rate.num} prompts")
    print()
    for name, comparison in found.items():
        others = {key: mean for key, mean in comparison.means.items() if key != TOTAL}
        print(f"{name:10}" + ", ".join(f"{k} {m.base:.2f} -> {m.tuned:.2f}" for k, m in others.items()))
    for name in sys.argv[1:]:
        print(f"report: {name}/report.html")
    print("next: `. .venv/bin/activate`, then `mmalign check YOUR.yaml`; README.md and configs/ show how")


if __name__ == "__main__":
    main()
