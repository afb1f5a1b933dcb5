"""sweeps — many runs: points in plain Python, processes side by side, search."""
