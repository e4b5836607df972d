"""What was measured, a file for each experiment; `data/measure.py` runs them."""
