"""The command mnist-score: millions of digits scored, from .npy to .npy on this machine, or in shards on Ray.

Only shards need the extra [ray]. No other distribution imports this package, Ray or PyArrow.
"""
