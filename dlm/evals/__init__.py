"""evals — scores of a trained model, one evaluator per file."""
