"""drills: exercises with an exact outcome, behind `python -m dlm.bench NAME`."""
