"""One file per metric or diagnostic."""
