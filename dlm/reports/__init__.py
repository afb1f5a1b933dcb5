"""reports — runs → tables, one self-contained page; denoising traces → replay."""
