"""samplers.remask — rules by which tokens become masks again; one file for each."""
