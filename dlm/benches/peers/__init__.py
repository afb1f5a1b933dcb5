"""peers: the same model and update in another framework, one per file, for `bench train --peer`."""
