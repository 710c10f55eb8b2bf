"""One file per modality: rows in, log-likelihoods out."""
