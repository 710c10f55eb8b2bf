"""One file per form of prompt file, each in the form its benchmark publishes."""
