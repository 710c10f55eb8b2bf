"""One offline HTML file per run."""
