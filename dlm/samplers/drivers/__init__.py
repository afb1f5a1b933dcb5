"""samplers.drivers — outer loops of sampling; one file for each."""
