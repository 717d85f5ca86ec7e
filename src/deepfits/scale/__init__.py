"""Many shards, many processes: what is done, what failed, and who does the rest."""
