"""The command mnist-score: digits by the million, from .npy to .npy on this machine, or in shards on Ray.

Only the second needs the extra [ray]. No other distribution imports this package, Ray or PyArrow.
"""
