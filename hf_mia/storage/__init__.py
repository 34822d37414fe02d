"""Content keys, checked shards and locks: what is done stays done."""
