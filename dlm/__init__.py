"""dlm: diffusion language models in JAX."""
