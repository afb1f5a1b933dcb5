"""core — what every room says to every other: contracts, configs, keys, files. Imports nothing of ours."""
