"""sampling: the arms of `bench sample`, and what `bench samplers` draws and writes."""
