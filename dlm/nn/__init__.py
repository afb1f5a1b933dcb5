"""nn — the one backbone: (ids, time, mask, cache) → prediction."""
