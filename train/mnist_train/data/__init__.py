"""Data: sources of digits with labels, their checks, and the batches of the training loop."""
