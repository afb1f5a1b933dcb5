"""evals — one evaluator per file."""
