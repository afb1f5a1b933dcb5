"""What an evaluation harness asks of a model: log-likelihoods of texts, and texts that go on until a stop string."""
