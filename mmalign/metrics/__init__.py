"""One file per benchmark metric: what it asks, how answers are graded, what is computed."""
