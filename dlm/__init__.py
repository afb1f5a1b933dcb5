"""Diffusion language models in JAX: every objective, sampler and mechanism in one file each, measured against exact laws."""
