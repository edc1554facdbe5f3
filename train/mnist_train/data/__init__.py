"""MNIST and its like: where digits come from, how they are checked, and how a loop goes through them."""
