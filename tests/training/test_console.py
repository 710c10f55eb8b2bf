"""The progress bar ends with its line, whatever ends the work."""

import pytest

from mmalign.training.console import Progress


def test_an_error_stands_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), Progress(3, 0, 1, True) as bar:
        bar.advance()
        raise KeyError("broken")
    told = capsys.readouterr().err
    assert "1/3" in told and told.endswith("\n")
