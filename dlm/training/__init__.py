"""training — batches in, updates out: update, optimizer, loop, metrics."""
