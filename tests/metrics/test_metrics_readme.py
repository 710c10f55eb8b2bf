"""The table of metrics names all of them, and so do the field tables of configs."""

from pathlib import Path

from mmalign import metrics
from mmalign._names import KINDS, class_of, names
from mmalign.metrics._seam import Metric


def test_every_metric_is_in_the_table() -> None:
    text = (Path(metrics.__file__).parent / "README.md").read_text()
    for name in names(KINDS["metrics"]):
        assert f"| `{name}`" in text, name
        cls = class_of(KINDS["metrics"], name)
        assert issubclass(cls, Metric) and len((cls.__doc__ or "").split("\n\n")[0]) > 40, name
