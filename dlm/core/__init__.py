"""core — what every room uses: configs, contracts, random keys, files, errors."""
