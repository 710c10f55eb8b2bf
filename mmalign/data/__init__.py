"""One file per source format: records in, preference samples out."""
