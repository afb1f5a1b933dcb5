"""Objectives: what is minimised in training (loss) and what is reported (bound). One a file."""
