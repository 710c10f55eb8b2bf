"""One file per score transform: scores in, scores out."""
