"""The run directory: stages by key, shards, the ledger, what was dropped, progress."""
