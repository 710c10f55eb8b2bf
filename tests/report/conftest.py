"""The run folder that tests of the report read."""

from fake_run import make_run

__all__ = ["make_run"]
