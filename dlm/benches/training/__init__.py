"""training: the parts of a training run that `bench train` times."""
