"""One file per objective; a plain name in a config is the name of a file here."""
