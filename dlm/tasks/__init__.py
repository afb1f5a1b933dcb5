"""Tasks: generated problems with an exact grader, one per file. No JAX.

A grader checks the answer; it does not compare it with a known one. The prompt states the problem
in one canonical form, so two problems are the same exactly if their prompts are.
"""
