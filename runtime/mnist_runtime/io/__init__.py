"""Digits on disk: files, `.npy` arrays and images."""
