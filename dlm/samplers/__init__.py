"""samplers — denoiser → tokens."""
