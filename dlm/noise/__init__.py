"""noise — how tokens are destroyed."""
