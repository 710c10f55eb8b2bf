"""Who writes for builders and judges: models at hand, servers, and functions of a user's own."""
