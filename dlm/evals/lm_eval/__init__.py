"""lm-evaluation-harness on our runs: log-likelihoods of texts, and texts up to a stop string."""
