"""data — documents → packed batches, addressable by step. No JAX."""
