"""benches — one bench per file, behind python -m dlm.bench NAME."""
