"""`python -m mmalign` is the `mmalign` command."""

from mmalign.cli import entry
from mmalign.launching import follow_launcher

follow_launcher()
entry()
