"""run — the machinery of a run."""
