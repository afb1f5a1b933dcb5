"""peers — the same model and update in another framework, one per file, for `python -m dlm.bench train --peer=NAME`."""
