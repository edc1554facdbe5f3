"""Exact networks: integers small enough for float32, so that every engine computes the same bits."""
