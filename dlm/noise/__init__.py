"""Processes: how tokens are destroyed, and what predicting them costs. One member a file."""
