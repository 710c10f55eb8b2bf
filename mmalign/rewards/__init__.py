"""One file per scorer of a response."""
