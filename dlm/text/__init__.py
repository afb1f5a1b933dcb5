"""text — strings ↔ ids; knows the bytes of every id. No JAX."""
