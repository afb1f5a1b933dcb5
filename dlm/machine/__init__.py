"""machine — devices, processes and the operating system."""
