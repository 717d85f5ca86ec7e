"""Processing of many shards by many processes, with a record of what is done and what failed."""
